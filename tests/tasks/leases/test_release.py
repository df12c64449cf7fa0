"""The release of entries: what is refused is reported, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
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
