"""The retrier: brings back what was postponed, when its time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from penstock._core.ledger.ledger import Ledger
from penstock._tasks.clock import now
from penstock._tasks.wakeups import AutoResetEvent

__all__ = ["bring_back"]


async def bring_back(
    ledger: Ledger, postponed: AutoResetEvent, arrived: Callable[[int], None]
) -> None:
    """Have what is due taken, until cancelled.

    Args:
        ledger: Knows what is due when.
        postponed: Rung when something is due earlier than all before.
        arrived: Told how many may be taken.
    """
    while True:
        due = ledger.retries.next_due
        wait = None if due is None else max(0.0, due - now())
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await postponed.wait()
        arrived(ledger.retries.make_due(now()))
