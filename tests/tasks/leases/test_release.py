"""The release of entries: what is refused is reported, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, PendingEntry
from penstock._tasks.group import Membership
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.release import release_entries
from support.events import Events
from support.ledger import A, B, raw
from support.scripted import ScriptedConnection


async def test_only_the_messages_of_refused_releases_are_reported(
    events: Events,
) -> None:
    def replies(batch: Sequence[Command]) -> list[Any]:
        broken = ErrorReply("WRONGTYPE Operation against a key")
        return [broken if B.key in command else [raw(1)] for command in batch]

    member = Membership("g", "c", mkstream=True, noack=False)
    await release_entries(
        ScriptedConnection(replies).for_commands,
        OwnClaims(member),
        [(A, 0, [raw(1), raw(2), raw(3)]), (B, 0, [raw(1), raw(2)])],
        member,
        idle=30.0,
        stranded=[B],
        on_event=events,
    )
    [event] = events.named("not_given_back")
    assert event.facts["messages"] == 2
    assert "WRONGTYPE" in str(event.facts["reply"])


async def test_without_scripts_nothing_is_taken_from_those_who_have_claimed_it(
    events: Events,
) -> None:
    """What was released a moment ago is listed still, and another one may have it."""
    released, unknown = raw(1), raw(2)

    def replies(batch: Sequence[Command]) -> list[Any]:
        if batch and batch[0][0] == b"XPENDING":
            pending = [PendingEntry(released, b"c", 30_004, 0)]
            return [[*pending, PendingEntry(unknown, b"c", 1_200, 1)]]
        refused = ErrorReply("NOPERM User default has no permissions to run eval")
        return [refused if command[0] == b"EVAL" else [unknown] for command in batch]

    member = Membership("g", "c", mkstream=True, noack=False)
    connection = ScriptedConnection(replies)
    await release_entries(
        connection.for_commands,
        OwnClaims(member),
        [],
        member,
        idle=30.0,
        stranded=[B],
        on_event=events,
    )
    sent = [command for batch in connection.requests for command in batch]
    [claim] = [command for command in sent if command[0] == b"XCLAIM"]
    assert claim[4:6] == (1_200, unknown)
    assert released not in claim
    assert not events.named("not_given_back")
