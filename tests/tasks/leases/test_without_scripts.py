"""Claims of own entries where scripts are forbidden, so that idle times have to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from penstock import _clock
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, PendingEntry
from penstock._tasks.group import Membership
from penstock._tasks.leases.delivery_counts import DeliveryCounts
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims
from support.events import Events
from support.ledger import A, SpyLedger, raw
from support.scripted import ScriptedConnection

MEMBER = Membership("g", "c", mkstream=True, noack=False)


class Server:
    """A server without scripts, on which entries are pending.

    Args:
        idle: The milliseconds for which each has been idle, by id. The other ones are
            another consumer's.
        tells: Whether the user may list what is pending.
    """

    def __init__(self, idle: dict[bytes, int], *, tells: bool = True) -> None:
        self.idle = idle
        self.tells = tells
        # The least idle times that were demanded.
        self.demanded: list[int] = []

    def __call__(self, batch: Sequence[Command]) -> list[Any]:
        return [self._reply(command) for command in batch]

    def _reply(self, command: Command) -> Any:
        match command[0]:
            case b"EVAL":
                return ErrorReply("NOPERM User default has no permissions to run eval")
            case b"XPENDING":
                id_ = cast("bytes", command[3])
                if not self.tells:
                    return ErrorReply("NOPERM User default has no permissions")
                idle = self.idle.get(id_)
                return [] if idle is None else [PendingEntry(id_, b"c", idle, 1)]
        least = cast("int", command[4])
        self.demanded.append(least)
        ids = [word for word in command[5:] if isinstance(word, bytes)]
        return [id_ for id_ in ids if self.idle.get(id_, -1) >= least]


async def test_an_entry_that_another_own_claim_has_renewed_is_claimed() -> None:
    server = Server({raw(1): 900, raw(2): 40})
    connection = ScriptedConnection(server).for_commands
    claim = OwnClaim(A, [raw(1), raw(2), raw(3)], min_idle=500)
    [owned] = await OwnClaims(MEMBER).claim(connection, [claim])
    assert owned == [raw(1), raw(2)], "the third one is another consumer's"
    assert server.demanded == [500, 40]


@pytest.mark.parametrize("tells", [True, False])
async def test_what_another_consumer_owns_is_not_claimed_again(*, tells: bool) -> None:
    server = Server({}, tells=tells)
    connection = ScriptedConnection(server).for_commands
    claim = OwnClaim(A, [raw(1)], min_idle=500)
    assert await OwnClaims(MEMBER).claim(connection, [claim]) == [[]]
    assert server.demanded == [500]


@pytest.mark.parametrize("owned", [True, False])
async def test_a_start_is_counted_beside_a_renewal_that_is_under_way(
    monkeypatch: pytest.MonkeyPatch, events: Events, *, owned: bool
) -> None:
    """The server has renewed the lease, and the reply to that is not here."""
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, now=0.0)
    monkeypatch.setattr(_clock, "boottime", lambda: 19.0)
    first, second = ledger.start_next(), ledger.start_next()
    server = Server({raw(1): 10, raw(2): 19_000} if owned else {raw(2): 19_000})
    counts = DeliveryCounts(
        ScriptedConnection(server).for_commands,
        OwnClaims(MEMBER),
        ledger,
        single_attempt=True,
        settle=never,
        on_lost=lambda: None,
        on_event=events,
    )
    started = await counts.begin([first, second])
    assert started == ([first, second] if owned else [second])
    assert server.demanded == ([4000, 10] if owned else [4000])
    assert ledger.counters.lost == (not owned)


async def never() -> None:
    raise AssertionError
