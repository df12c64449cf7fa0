"""Timers: retries and delayed acknowledgements, each carried out when it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from penstock import _clock
from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.ledger import Ledger
from penstock._tasks.wakeups import AutoResetEvent

__all__ = ["ack_when_due", "retry_when_due"]


async def retry_when_due(
    ledger: Ledger, postponed: AutoResetEvent, arrived: Callable[[int], None]
) -> None:
    """Queue postponed entries when their retries are due, until cancelled.

    Args:
        ledger: The consumer's ledger.
        postponed: Set when a retry is due earlier than all others.
        arrived: Called with the number of entries that can be taken.
    """

    def retry(at: float) -> None:
        arrived(ledger.retries.make_due(at))

    await _run_timer(lambda: ledger.retries.next_due, postponed, retry)


async def ack_when_due(
    delayed: DelayedAcks, ledger: Ledger, first: AutoResetEvent
) -> None:
    """Acknowledge entries when their delay is over, until cancelled (DELAYED).

    Args:
        delayed: The entries that were handed out.
        ledger: The consumer's ledger.
        first: Set when an entry was handed out while no other one waited.
    """

    def ack(at: float) -> None:
        for entry in delayed.take_due(at):
            ledger.ack(entry)

    await _run_timer(lambda: delayed.next_due, first, ack)


async def _run_timer(
    next_due: Callable[[], float | None],
    earlier: AutoResetEvent,
    act: Callable[[float], None],
) -> None:
    """Call `act` with the time whenever something is due, until cancelled.

    Args:
        next_due: Returns when the next thing is due; None if there is nothing.
        earlier: Set when that time has become earlier.
        act: Does all that is due.
    """
    while True:
        due = next_due()
        wait = None if due is None else max(0.0, due - _clock.boottime())
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await earlier.wait()
        act(_clock.boottime())
