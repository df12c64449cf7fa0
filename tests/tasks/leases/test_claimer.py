"""Takeovers and renewals where the server knows of more than the books."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._connection.address import parse
from penstock._connection.connect import connect
from penstock._connection.reconnect import CommandConnection
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import Claimed, Pending
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.group import Membership
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.leases.claimer import Claimer
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.pending_bodies import OnEntries
from penstock._tasks.leases.renewal import renew
from penstock.message import Shard
from support.events import Events
from support.ledger import A, Books, raw, the
from support.scripted import ScriptedConnection


def pending(batch: Sequence[Command]) -> list[Any]:
    """Reply as a server on which two entries are pending for somebody else."""
    match batch[0][0]:
        case b"XAUTOCLAIM":
            return [Claimed(b"0-0", [raw(1), raw(2)])]
        case b"XPENDING":
            # As far as the server knows, the second one has been started once.
            return [[Pending(raw(n), b"c", 0, n)] for n in (1, 2)]
    return [[raw(2)]]


@pytest.mark.parametrize("confirms", [True, False])
async def test_what_is_confirmed_before_it_is_booked_is_done(
    events: Events, *, confirms: bool
) -> None:
    """The server stood still for a lease, and then did the one before the other."""
    books = Books()
    books.read(1)
    entry = books.started()
    books.finish(entry, ack=True)
    member = SimpleNamespace(group="g", name="c")
    batch = the(books.acks.to_send())

    async def fetch(
        _: Shard, ids: Sequence[bytes], on_entries: OnEntries
    ) -> tuple[Sequence[bytes], None]:
        if confirms:
            books.ack_confirmed(batch)
        on_entries([(id_, (b"msg", b"x")) for id_ in ids])
        return (), None

    claimer = Claimer(
        ScriptedConnection(pending).for_commands,
        fetch=fetch,
        ledger=books,
        entry_queue=cast("EntryQueue", SimpleNamespace(notify_ready=lambda _: None)),
        member=cast("Membership", member),
        claims=OwnClaims(cast("Membership", member)),
        cursors=cast("SlotCursors", SimpleNamespace(shards=[A])),
        lease=1.0,
        interval=1.0,
        on_event=events,
    )
    await claimer._search(A)
    assert books.started().id == raw(2)
    assert books.next() is None


async def test_what_is_ours_stays_so_whatever_else_is_pending_for_us_in_between(
    url: str, stream: str, redis: Any
) -> None:
    """So it is after acknowledgements were dropped: their key was of another type."""
    await redis.xgroup_create(stream, "g", mkstream=True)
    ids = [await redis.xadd(stream, {"msg": "x"}) for _ in range(50)]
    await redis.xreadgroup("g", "c", {stream: ">"})
    shard = Shard(stream, 0, stream.encode())
    books = Books(lease=1.0)
    books.deliveries.received(
        shard, [[ids[0], [b"msg", b"x"]], [ids[-1], [b"msg", b"x"]]], 0.0, 2
    )
    first, last = books.started(), books.started()
    member = SimpleNamespace(group="g", name="c")
    wire = await connect(parse(url))
    try:
        claims = OwnClaims(cast("Membership", member))
        found = await renew(
            cast("CommandConnection", wire),
            books,
            cast("Membership", member),
            claims,
            1.0,
        )
    finally:
        await wire.aclose()
    assert found == ([], None)
    assert books.may_start(first)
    assert books.may_start(last)
