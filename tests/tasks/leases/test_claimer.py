"""Claims and renewals while the server lists entries that the ledger lacks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._connection.address import parse
from penstock._connection.command_connection import CommandConnection
from penstock._connection.connect import connect
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import Claimed, PendingEntry
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.group import Membership
from penstock._tasks.handling.waiters import Waiters
from penstock._tasks.leases.claimer import Claimer
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.pending_bodies import OnEntries
from penstock._tasks.leases.renewal import renew
from penstock.errors import ClosedError
from penstock.message import Shard
from support.events import Events
from support.ledger import A, SpyLedger, only, raw
from support.scripted import ScriptedConnection


def pending(batch: Sequence[Command]) -> list[Any]:
    """Reply as a server on which two entries are pending for another consumer."""
    match batch[0][0]:
        case b"XAUTOCLAIM":
            return [Claimed(b"0-0", [raw(1), raw(2)])]
        case b"XPENDING":
            # By the server's count, the second entry has been started once.
            return [[PendingEntry(raw(n), b"c", 0, n)] for n in (1, 2)]
    return [[raw(2)]]


@pytest.mark.parametrize("confirms", [True, False])
async def test_an_entry_confirmed_before_its_claim_is_recorded_is_not_claimed(
    events: Events, *, confirms: bool
) -> None:
    """The server was blocked for a lease, and then ran the claim before the ack."""
    ledger = SpyLedger(lease=1.0)
    ledger.read(1)
    entry = ledger.start_next()
    ledger.finish(entry, ack=True)
    member = Membership("g", "c", mkstream=True, noack=False)
    batch = only(ledger.acks.to_send())

    async def fetch(
        _: Shard, ids: Sequence[bytes], on_entries: OnEntries
    ) -> tuple[Sequence[bytes], None]:
        if confirms:
            ledger.ack_confirmed(batch)
        on_entries([(id_, (b"msg", b"x")) for id_ in ids])
        return (), None

    claimer = Claimer(
        ScriptedConnection(pending).for_commands,
        fetch=fetch,
        ledger=ledger,
        waiters=cast("Waiters", SimpleNamespace(notify_ready=lambda _: None)),
        claims=OwnClaims(member),
        cursors=cast("SlotCursors", SimpleNamespace(shards=[A])),
        interval=1.0,
        on_event=events,
    )
    await claimer._search(A)
    assert ledger.start_next().id == raw(2)
    assert ledger.take_next() is None


@pytest.mark.parametrize("fits", [True, False, None])
async def test_the_count_of_an_unstarted_entry_is_set_before_it_can_start(
    events: Events, *, fits: bool | None
) -> None:
    """Later it would take back the count of the start. None: the reader has ended."""
    ledger = SpyLedger(lease=1.0)
    member = Membership("g", "c", mkstream=True, noack=False)

    def released(batch: Sequence[Command]) -> list[Any]:
        match batch[0][0]:
            case b"XAUTOCLAIM":
                return [Claimed(b"0-0", [raw(1), raw(2)])]
            case b"XPENDING":
                return [[PendingEntry(raw(n), b"c", 0, n - 1)] for n in (1, 2)]
        return [[raw(1)] for _ in batch]

    connection = ScriptedConnection(released)

    async def fetch(
        _: Shard, ids: Sequence[bytes], on_entries: OnEntries
    ) -> tuple[Sequence[bytes], None]:
        [count] = connection.requests[-1]
        assert count[0] == b"EVAL"
        assert count[-3:] == (b"RETRYCOUNT", 1, raw(1))
        if fits is None:
            raise ClosedError("consumer")
        if not fits:
            return ids, None
        on_entries([(id_, (b"msg", b"x")) for id_ in ids])
        return (), None

    claimer = Claimer(
        connection.for_commands,
        fetch=fetch,
        ledger=ledger,
        waiters=cast("Waiters", SimpleNamespace(notify_ready=lambda _: None)),
        claims=OwnClaims(member),
        cursors=cast("SlotCursors", SimpleNamespace(shards=[A])),
        interval=1.0,
        on_event=events,
    )
    with pytest.raises(ClosedError) if fits is None else nullcontext():
        await claimer._search(A)
    after = [command[-5:] for command in connection.requests[-1]]
    if fits:
        assert ledger.work.length == 2
        assert len(connection.requests) == 3
    else:
        # It is given back as what it was.
        assert after[0] == (b"IDLE", 1000, b"RETRYCOUNT", 0, raw(1))
        assert after[1][2:] == (b"IDLE", 1000, raw(2))


async def test_a_renewal_keeps_entries_whatever_else_is_pending_in_between(
    url: str, stream: str, redis: Any
) -> None:
    """The pending entries in between remain after their acknowledgements were dropped.

    That happens if the key was of another type.
    """
    await redis.xgroup_create(stream, "g", mkstream=True)
    ids = [await redis.xadd(stream, {"msg": "x"}) for _ in range(50)]
    await redis.xreadgroup("g", "c", {stream: ">"})
    shard = Shard(stream, 0, stream.encode())
    ledger = SpyLedger(lease=1.0)
    ledger.deliveries.received(
        shard, [[ids[0], [b"msg", b"x"]], [ids[-1], [b"msg", b"x"]]], 0.0, 2
    )
    first, last = ledger.start_next(), ledger.start_next()
    member = Membership("g", "c", mkstream=True, noack=False)
    connection = await connect(parse(url))
    try:
        claims = OwnClaims(member)
        found = await renew(
            cast("CommandConnection", connection),
            ledger,
            member,
            claims,
            1.0,
        )
    finally:
        await connection.aclose()
    assert found == ([], None)
    assert ledger.may_start(first)
    assert ledger.may_start(last)
