"""Handler calls: awaited or in a thread, with or without a time limit.

Each of these is a layer around the call that exists only where it was asked for.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter, from_thread

from penstock import _clock
from penstock._core.handling.settlement import Settler
from penstock._core.ledger.entry import Entry
from penstock._tasks.handling.failures import HandlerTimeout
from penstock.errors import UsageError
from penstock.events import Event, OnEvent, printable
from penstock.message import Receipt
from penstock.transaction import Transaction

__all__ = ["Call", "Handler", "ThreadSettler", "in_thread", "with_time_limit"]

T = TypeVar("T")

Handler: TypeAlias = Callable[[Any], object]
"""The user's function: called with a message, or in batches with a list of messages."""
Call: TypeAlias = Callable[[Any], Awaitable[object]]

# Seconds after the cancellation of a handler at which it is reported if it still runs.
_GRACE: Final = 1.0


class ThreadSettler(Settler[T]):
    """A settler for messages in a thread: it records outcomes in the event loop."""

    __slots__ = ()

    @classmethod
    def of(cls, settler: Settler[T]) -> ThreadSettler[T]:
        """Create a thread settler that serves like a settler of the event loop."""
        made = cls.__new__(cls)
        for kind in Settler.__mro__:
            for name in getattr(kind, "__slots__", ()):
                setattr(made, name, getattr(settler, name))
        return made

    def ack(self, entry: Entry) -> bool:
        """Record an acknowledgement."""
        return _record_in_loop(super().ack, entry)

    def nack(self, entry: Entry, fields: Sequence[bytes], delay: float | None) -> bool:
        """Record that an entry is to be retried."""
        return _record_in_loop(super().nack, entry, fields, delay)

    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> bool:
        """Record that an entry is rejected."""
        return _record_in_loop(super().reject, entry, fields, reason)

    def transaction(
        self, entry: Entry, fields: Sequence[bytes]
    ) -> Transaction[Receipt]:
        """Refuse a transaction: it has to be awaited.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "transaction() must be awaited, which a handler in a thread can't do; "
            "make the handler an async function"
        )


def _record_in_loop(record: Callable[..., bool], *facts: Any) -> bool:
    try:
        from_thread.check_cancelled()
    except RuntimeError:
        raise UsageError(
            "an outcome was recorded in a thread that Penstock did not start; record "
            "it in the handler itself, or by loop.call_soon_threadsafe"
        ) from None
    return from_thread.run_sync(record, *facts)


def in_thread(handler: Handler, limiter: CapacityLimiter) -> Call:
    """Return a call that runs a handler in a thread; its cancellation waits for it."""

    async def call(given: Any) -> object:
        result = await anyio.to_thread.run_sync(handler, given, limiter=limiter)
        # A lambda around an async function is no async function itself.
        return await result if inspect.isawaitable(result) else result

    return call


def with_time_limit(
    call: Call,
    seconds: float,
    on_event: OnEvent,
    handler_of: Callable[[Any], str],
    *,
    cancels: bool,
) -> Call:
    """Return a call that fails if it takes too long.

    Args:
        call: The call.
        seconds: The time limit.
        on_event: Called to report a handler that goes on when its time is over.
        handler_of: Returns the name of a message's handler, for that report.
        cancels: Whether the handler is cancelled at the limit; a thread can't be.
    """

    async def call_in_time(given: Any) -> object:
        loop = asyncio.get_running_loop()
        late = partial(_report_stuck, on_event, handler_of, given, seconds)
        stuck = loop.call_later(seconds + _GRACE * cancels, late)
        start = _clock.monotonic()
        try:
            async with asyncio.timeout(seconds if cancels else None) as limit:
                result = await call(given)
        except TimeoutError:
            if limit.expired():
                raise HandlerTimeout from None
            raise
        finally:
            stuck.cancel()
        # The handler may have swallowed its cancellation, or be one that can't be
        # cancelled.
        if limit.expired() or _clock.monotonic() - start > seconds:
            raise HandlerTimeout
        return result

    return call_in_time


def _report_stuck(
    on_event: OnEvent, handler_of: Callable[[Any], str], given: Any, seconds: float
) -> None:
    message = given[0] if isinstance(given, list) else given
    facts = {
        "stream": message.stream,
        "id": str(message.id),
        "attempt": message.attempt,
        "handler": printable(handler_of(message)),
        "after": seconds,
    }
    on_event(Event("handler_stuck", logging.ERROR, facts))
