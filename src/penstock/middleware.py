"""Middleware: what is to be done around a handler, written once.

An async function of the message and of the call that it stands around:

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
    """Stands around the call of a handler.

    It awaits `call(message)`, once as a rule, and may do something before and after.
    What it raises counts as the handler's failure, be it the handler's own exception
    or another one. If it returns without calling, the message counts as handled.
    Cancellation comes out of `call` as from any other await; let it pass.

    With a handler of batches, `message` is the list of messages.

    Example:
        ```python
        async def only_today(message: Message[Any], call: Call[Message[Any]]) -> None:
            if message.timestamp.date() == datetime.now(UTC).date():
                await call(message)
        ```
    """

    async def __call__(self, message: M, call: Call[M], /) -> object:
        """Handle a message, as a rule by `await call(message)`."""


_GIVE: Final = (
    "give async functions of the message and of the call that they stand around"
)


def _generates(middleware: object) -> bool:
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in (middleware, getattr(middleware, "__call__", None))  # noqa: B004
    )


def wrap(handler: Call[M], middlewares: Iterable[Middleware[M]]) -> Call[M]:
    """Put middleware around a handler.

    Args:
        handler: An async function of the message.
        middlewares: The first one is the outermost. Without any the handler itself is
            given back, so that none costs nothing.
    """
    around = tuple(middlewares)
    if around:
        # What the handler returned may not get through to whoever called.
        handler = _checked(handler)
    for middleware in reversed(around):
        handler = _around(middleware, handler)
    return handler


def check_result(result: object) -> None:
    """Check that a call has done its work, and not just returned what would do it.

    Raises:
        UsageError: It returned a generator, or a coroutine that nobody awaited.
    """
    if inspect.iscoroutine(result):
        result.close()  # so that Python doesn't warn of it as well
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
    """Take middlewares.

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
                f"that does nothing; {_GIVE}"
            )
    return found
