"""The timer of the guard: it fires when the guard stops waiting, and not again then."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from penstock._core.ledger.poison import PoisonGuard
from penstock._tasks.handling.poison_guard import GuardMember

LEASE = 0.01


def _member(guard: PoisonGuard, running: list[Any], wakes: list[None]) -> GuardMember:
    """Return a consumer whose next entry is a probe."""
    ledger: Any = SimpleNamespace(
        running=running,
        untracked=0,
        watchers={},
        work=SimpleNamespace(next_is_probe=True),
    )
    member = GuardMember(
        guard,
        ledger,
        lease=LEASE,
        confirms=True,
        on_hold=lambda: None,
        on_wake=lambda: wakes.append(None),
    )
    member.join()
    return member


async def test_a_consumer_that_may_not_start_its_probe_yet_is_woken_once() -> None:
    """It may wait for a renewal of its leases, which needs the server."""
    wakes: list[None] = []
    member = _member(PoisonGuard(), [SimpleNamespace(hangs=False)], wakes)
    assert not member.may_start()
    while not wakes:
        await asyncio.sleep(LEASE)
    for _ in range(100):
        await asyncio.sleep(0)
    await asyncio.sleep(LEASE)
    assert len(wakes) == 1
    assert member.may_start()
    member.leave()
