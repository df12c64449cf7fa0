"""One timer, for retries and for delayed acknowledgements."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from penstock._clock import boottime
from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.failure_policy import RetryAt
from penstock._tasks.committing.timers import ack_when_due, retry_when_due
from penstock._tasks.wakeups import AutoResetEvent
from support.ledger import SpyLedger, raw


async def test_a_retry_that_is_due_earlier_than_the_others_does_not_wait_for_them() -> (
    None
):
    ledger, postponed = SpyLedger(), AutoResetEvent()
    ledger.read(1, 2)
    one, two = ledger.start_next(), ledger.start_next()
    ledger.fail(one, RetryAt(boottime() + 60.0, 60.0))
    arrived = asyncio.Event()

    def count(number: int) -> None:
        if number:
            arrived.set()

    timer = asyncio.create_task(retry_when_due(ledger, postponed, count))
    await asyncio.sleep(0.01)
    ledger.fail(two, RetryAt(boottime() + 0.01, 0.01))
    postponed.set()
    await asyncio.wait_for(arrived.wait(), 5.0)
    assert ledger.start_next().id == raw(2)
    await _end(timer)


async def test_a_delayed_entry_is_acknowledged_when_its_delay_is_over() -> None:
    ledger, first = SpyLedger(), AutoResetEvent()
    delayed = DelayedAcks(0.01, first.set)
    ledger.read(1, 2)
    timer = asyncio.create_task(ack_when_due(delayed, ledger, first))
    for _ in range(2):
        await asyncio.sleep(0)
        delayed.handed_out(ledger.start_next(), boottime())
        while delayed.next_due is not None:
            await asyncio.sleep(0.005)
    assert ledger.acks.uncommitted == 2
    await _end(timer)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
