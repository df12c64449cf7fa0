"""A lifespan for ASGI applications: FastAPI, Starlette, Litestar and others.

It imports no framework: what these call a lifespan is a function of the application
that returns an async context manager.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from penstock.errors import ConfigurationError
from penstock.producer import Producer
from penstock.router import Router

__all__ = ["Lifespan", "lifespan"]

A = TypeVar("A")

Lifespan: TypeAlias = Callable[[A], AbstractAsyncContextManager[Any]]
"""What frameworks call with the application when it begins."""


def lifespan(
    *,
    producer: Producer | None = None,
    router: Router | None = None,
    url: str | None = None,
    then: Lifespan[Any] | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Return a lifespan that opens a producer and runs a router in the background.

    The producer is open first, then comes the application's own lifespan, and the
    handlers of the router begin last, when everything is there that they may use. When
    the application ends, they end first.

    If a consumer of the router fails for good, the lifespan is cancelled and raises its
    error: most servers end then, and are started again.

    Args:
        producer: A producer to open; it is `request.state.producer` then.
        router: A router to run; it is `request.state.router` then.
        url: The server of the router; default: the router's own.
        then: The application's own lifespan. What it yields, if it is a mapping, is
            part of the state too.

    Returns:
        A function of the application. What its context manager yields is the state
        that Starlette and FastAPI give to each request.

    Raises:
        ConfigurationError: There is neither a producer nor a router.

    Example:
        ```python
        import starlette.applications

        from penstock.integrations.asgi import lifespan

        producer = Producer("redis://localhost")
        app = starlette.applications.Starlette(lifespan=lifespan(producer=producer))
        ```
    """
    if producer is None and router is None:
        raise ConfigurationError("lifespan() needs producer=, router= or both")

    @asynccontextmanager
    async def combined(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            state: dict[str, Any] = {}
            if producer is not None:
                state["producer"] = await stack.enter_async_context(producer)
            if then is not None:
                more = await stack.enter_async_context(then(app))
                state.update(more if isinstance(more, Mapping) else {})
            if router is not None:
                await stack.enter_async_context(router.running(url))
                state["router"] = router
            yield state

    return combined
