"""Middleware: code that runs around handlers, written once.

A middleware is an async function of the message and of the call that it wraps:

```python
async def timed(message, call):
    start = monotonic()
    try:
        return await call(message)
    finally:
        print(message.id, monotonic() - start)
```
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from penstock.errors import ConfigurationError, UsageError

__all__ = ["Call", "Middleware", "check_result", "wrap"]

M = TypeVar("M")

Call: TypeAlias = Callable[[M], Awaitable[object]]


class Middleware(Protocol[M]):
    """Wraps the call of a handler.

    It awaits `call(message)`, usually once, and may do something before and after. Any
    exception that it raises, the handler's own or another one, counts as the handler's
    failure. If it returns without calling, the message counts as handled. A
    cancellation is raised from `call` as from any other await; do not suppress it.

    With a handler of batches, `message` is the list of messages.

    Example:
        ```python
        async def only_today(message: Message[Any], call: Call[Message[Any]]) -> None:
            if message.timestamp.date() == datetime.now(UTC).date():
                await call(message)
        ```
    """

    async def __call__(self, message: M, call: Call[M], /) -> object:
        """Handle a message, usually by `await call(message)`."""


_GIVE: Final = "pass async functions that take the message and the call that they wrap"


def _generates(middleware: object) -> bool:
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in (middleware, getattr(middleware, "__call__", None))  # noqa: B004
    )


def wrap(handler: Call[M], middlewares: Iterable[Middleware[M]]) -> Call[M]:
    """Wrap a handler in middleware.

    Args:
        handler: An async function of the message.
        middlewares: The first one is the outermost. Without any, the handler itself is
            returned, so that no middleware costs nothing.
    """
    around = tuple(middlewares)
    if around:
        # Checked here, since middleware may not pass on what the handler returned.
        handler = _checked(handler)
    for middleware in reversed(around):
        handler = _around(middleware, handler)
    return handler


def check_result(result: object) -> None:
    """Check that a handler did not return unfinished work, such as a generator.

    Raises:
        UsageError: It returned a generator, or a coroutine that nobody awaited.
    """
    if inspect.iscoroutine(result):
        result.close()  # so that Python doesn't warn about it as well
        raise UsageError(
            "the handler returned a coroutine that nobody awaited; write `await` "
            "before the call that returns it"
        )
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise UsageError(
            "the handler returned a generator, which runs only if it is iterated; "
            "iterate it in the handler"
        )


def _checked(call: Call[M]) -> Call[M]:
    async def checked_call(message: M) -> object:
        result = await call(message)
        if result is not None:
            check_result(result)
        return result

    return checked_call


def _around(middleware: Middleware[M], call: Call[M]) -> Call[M]:
    async def surrounded(message: M) -> object:
        return await middleware(message, call)

    return surrounded


def checked(middlewares: Iterable[Middleware[Any]]) -> tuple[Middleware[Any], ...]:
    """Check middlewares, and return them as a tuple.

    Raises:
        ConfigurationError: One can't be called, or is a class or a generator.
    """
    if callable(middlewares):
        raise ConfigurationError("middleware= takes a list; write middleware=[...]")
    found = tuple(middlewares)
    for middleware in found:
        if not callable(middleware):
            raise ConfigurationError(
                f"middleware {middleware!r:.60} can't be called; {_GIVE}"
            )
        if inspect.isclass(middleware) or _generates(middleware):
            raise ConfigurationError(
                f"middleware {middleware!r:.60} is a class or a generator, and calling "
                f"it does nothing; {_GIVE}"
            )
    return found
