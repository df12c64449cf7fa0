"""How a user's handler is called: awaited, or in a thread; with a time limit, or none.

Each of these is a layer around the call that is there only where it was asked for.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter, from_thread

from penstock._core.handling.settlement import Settler
from penstock._core.ledger.entry import Entry
from penstock._tasks.handling.failures import HandlerTimeout
from penstock.errors import UsageError
from penstock.events import Event, OnEvent
from penstock.message import Receipt
from penstock.transaction import Transaction

__all__ = ["Call", "Handler", "ThreadSettler", "in_thread", "with_time_limit"]

T = TypeVar("T")

Handler: TypeAlias = Callable[[Any], object]
"""A user's: gets a message, or in batches a list of them."""
Call: TypeAlias = Callable[[Any], Awaitable[object]]

# Seconds after its cancellation at which a handler that goes on is told of.
_GRACE: Final = 1.0


class ThreadSettler(Settler[T]):
    """A desk for messages in a thread: what they record is recorded in the loop."""

    __slots__ = ()

    @classmethod
    def of(cls, settler: Settler[T]) -> ThreadSettler[T]:
        """Make one that serves like a desk in the loop."""
        made = cls.__new__(cls)
        for kind in Settler.__mro__:
            for name in getattr(kind, "__slots__", ()):
                setattr(made, name, getattr(settler, name))
        return made

    def ack(self, entry: Entry) -> bool:
        """Record an acknowledgement."""
        return _record_in_loop(super().ack, entry)

    def nack(self, entry: Entry, fields: Sequence[bytes], delay: float | None) -> bool:
        """Record that an entry is to be tried again."""
        return _record_in_loop(super().nack, entry, fields, delay)

    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> bool:
        """Record that an entry goes to the dead letters."""
        return _record_in_loop(super().reject, entry, fields, reason)

    def transaction(
        self, entry: Entry, fields: Sequence[bytes]
    ) -> Transaction[Receipt]:
        """Refuse it: it has to be awaited.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "transaction() has to be awaited, which a handler in a thread can't; make "
            "the handler an async function"
        )


def _record_in_loop(record: Callable[..., bool], *facts: Any) -> bool:
    try:
        from_thread.check_cancelled()
    except RuntimeError:
        raise UsageError(
            "an outcome was recorded in a thread that Penstock did not start; do it in "
            "the handler itself, or by loop.call_soon_threadsafe"
        ) from None
    return from_thread.run_sync(record, *facts)


def in_thread(handler: Handler, limiter: CapacityLimiter) -> Call:
    """Call a handler in a thread; its cancellation waits for it."""

    async def call(given: Any) -> object:
        result = await anyio.to_thread.run_sync(handler, given, limiter=limiter)
        # A lambda around an async function is no async function itself.
        return await result if inspect.isawaitable(result) else result

    return call


def with_time_limit(
    call: Call,
    seconds: float,
    on_event: OnEvent,
    *,
    cancels: bool,
) -> Call:
    """Have a call fail that takes too long.

    Args:
        call: The call.
        seconds: How long it may take.
        on_event: Told of a handler that goes on when its time is over.
        cancels: Whether it is cancelled then; a thread can't be.
    """

    async def call_in_time(given: Any) -> object:
        loop = asyncio.get_running_loop()
        late = partial(_report_stuck, on_event, given, seconds)
        stuck = loop.call_later(seconds + _GRACE * cancels, late)
        start = monotonic()
        try:
            async with asyncio.timeout(seconds if cancels else None) as limit:
                result = await call(given)
        except TimeoutError:
            if limit.expired():
                raise HandlerTimeout from None
            raise
        finally:
            stuck.cancel()
        # It may have swallowed its cancellation, or be none that can be cancelled.
        if limit.expired() or monotonic() - start > seconds:
            raise HandlerTimeout
        return result

    return call_in_time


def _report_stuck(on_event: OnEvent, given: Any, seconds: float) -> None:
    message = given[0] if isinstance(given, list) else given
    facts = {
        "stream": ascii(message.stream),
        "id": str(message.id),
        "attempt": message.attempt,
        "after": seconds,
    }
    on_event(Event("handler_stuck", logging.ERROR, facts))
