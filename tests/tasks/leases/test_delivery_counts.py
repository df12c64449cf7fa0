"""Counting of starts: what the server refuses is reported each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.group import Membership
from penstock._tasks.leases.delivery_counts import DeliveryCounts
from penstock._tasks.leases.own_claims import OwnClaims
from support.events import Events
from support.ledger import SpyLedger
from support.scripted import ScriptedConnection


async def test_each_refusal_to_count_is_reported(events: Events) -> None:
    """Between two refusals, starts may have been counted for days."""

    def loading(batch: Sequence[Command]) -> list[Any]:
        return [ErrorReply("LOADING Redis is loading the dataset") for _ in batch]

    async def settled() -> None:
        pass

    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2)
    member = Membership("g", "c", mkstream=True, noack=False)
    counts = DeliveryCounts(
        ScriptedConnection(loading).for_commands,
        OwnClaims(member),
        ledger,
        single_attempt=True,
        settle=settled,
        on_lost=lambda: None,
        on_event=events,
    )
    for _ in range(2):
        entry = ledger.start_next()
        assert await counts.begin([entry]) == [entry]
    assert len(events.named("count_refused")) == 2
