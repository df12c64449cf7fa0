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

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeAlias, TypeVar

from penstock.errors import ConfigurationError

__all__ = ["Call", "Middleware", "wrap"]

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


def wrap(handler: Call[M], middlewares: Iterable[Middleware[M]]) -> Call[M]:
    """Put middleware around a handler.

    Args:
        handler: An async function of the message.
        middlewares: The first one is the outermost. Without any the handler itself is
            given back, so that none costs nothing.
    """
    for middleware in reversed(tuple(middlewares)):
        handler = _around(middleware, handler)
    return handler


def _around(middleware: Middleware[M], call: Call[M]) -> Call[M]:
    async def surrounded(message: M) -> object:
        return await middleware(message, call)

    return surrounded


def checked(middlewares: Iterable[Middleware[Any]]) -> tuple[Middleware[Any], ...]:
    """Take middlewares.

    Raises:
        ConfigurationError: One can't be called.
    """
    if callable(middlewares):
        raise ConfigurationError("middleware= takes a list; write middleware=[...]")
    found = tuple(middlewares)
    for middleware in found:
        if not callable(middleware):
            raise ConfigurationError(
                f"middleware {middleware!r:.60} can't be called; give async functions "
                f"of the message and of the call that they stand around"
            )
    return found
