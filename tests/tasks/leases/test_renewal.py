"""Renewals: a lease begins when the command was sent that renewed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from penstock import _clock
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import PendingEntry
from penstock._tasks.group import Membership
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.renewal import renew
from support.ledger import A, SpyLedger, raw
from support.scripted import ScriptedConnection


async def test_without_scripts_nothing_is_claimed_that_a_recreated_group_has_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither what is pending for nobody, nor what another consumer has by now."""
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, 3, now=10.0)
    ledger.shards.group_recreated(A, 20.0)
    monkeypatch.setattr(_clock, "boottime", lambda: 25.0)

    def replies(batch: Sequence[Command]) -> list[Any]:
        if batch and batch[0][0] == b"XPENDING":
            return [
                [PendingEntry(raw(1), b"c", 5000, 1)],
                [],
                [PendingEntry(raw(3), b"another", 5000, 1)],
            ]
        return [[raw(1)] for _ in batch]

    member = Membership("g", "c", mkstream=True, noack=False)
    connection = ScriptedConnection(replies)
    found = await renew(
        connection.for_commands, ledger, member, OwnClaims(member), lease=30.0
    )
    assert found == ([raw(3)], None)
    asked, [claim] = connection.requests
    assert [len(command) for command in asked] == [6, 6, 6], "of any consumer"
    assert claim[-1:] == (raw(1),)
    assert raw(2) not in claim
    assert [*ledger.shards.ids(A)] == [raw(1), raw(2)]
    assert not ledger.to_renew(30.0)


async def test_a_renewal_counts_from_its_claim_and_not_from_the_question_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process stood still between the two."""
    ledger = SpyLedger(lease=2.0)
    ledger.read(1)
    entry = ledger.start_next()
    now = 1.5

    def replies(batch: Sequence[Command]) -> list[Any]:
        nonlocal now
        if batch and batch[0][0] == b"XPENDING":
            now = 3.5
            return [[PendingEntry(raw(1), b"c", 1500, 1)]]
        return [[raw(1)] for _ in batch]

    monkeypatch.setattr(_clock, "boottime", lambda: now)
    member = Membership("g", "c", mkstream=True, noack=False)
    connection = ScriptedConnection(replies)
    found = await renew(
        connection.for_commands, ledger, member, OwnClaims(member), lease=2.0
    )
    assert found == ([], None)
    assert [batch[0][0] for batch in connection.requests] == [b"XPENDING", b"EVAL"]
    assert entry.leased_at == 3.5
