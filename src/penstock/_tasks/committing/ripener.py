"""The ripener: acknowledges by time alone, under DELAYED."""

from __future__ import annotations

import asyncio

from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.ledger import Ledger
from penstock._tasks.clock import now
from penstock._tasks.wakeups import AutoResetEvent

__all__ = ["make_due"]


async def make_due(
    delay: DelayedAcks, ledger: Ledger, handed_out: AutoResetEvent
) -> None:
    """Acknowledge what is due, until cancelled.

    Args:
        delay: Knows what is due when.
        ledger: Where it is acknowledged.
        handed_out: Rung when something was handed out.
    """
    while True:
        due = delay.next_due
        if due is None:
            await handed_out.wait()
            continue
        await asyncio.sleep(max(0.0, due - now()))
        for entry in delay.take_due(now()):
            ledger.ack(entry)
