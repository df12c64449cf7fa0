"""Seek: sets the position of a consumer.

Entries that were read before and only wait are dropped. In a group they are also
acknowledged, since they would be redelivered after the next reconnect otherwise.
Entries that a handler or loop has, or has received and not acknowledged, are the
user's. They stay pending until they are acknowledged, unless they will be redelivered.

The group's position is set before anything is dropped or acknowledged. So nothing is
lost if the server refuses to set it, or if this process ends between the two.

No outcomes may be sent meanwhile. An outcome that was recorded before could reach the
server after the position was set, and acknowledge an entry that was delivered again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import TypeAlias

from penstock._connection.connection import Connection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.reading.cursor import Position
from penstock._tasks.group import Membership, refusal
from penstock._tasks.leases.pending_pages import pending_pages
from penstock._tasks.reading.positions import exclusive_start
from penstock._tasks.stream_info import StreamInspector
from penstock.message import EntryId
from penstock.options import Start, StartAt

__all__ = ["seek"]

# The most pending entries that one command lists.
_PAGE = 1000

# A position, and the id after which to read from now on.
_Move: TypeAlias = tuple[Position, bytes]


async def seek(
    connection: Connection,
    ledger: Ledger,
    member: Membership | None,
    positions: Sequence[Position],
    place: StartAt,
    *,
    inspector: StreamInspector,
) -> None:
    """Set the position in each of the shards.

    Args:
        connection: The reader's connection, between two reads.
        ledger: The consumer's ledger.
        member: The consumer's place in the group that is read, or None for REALTIME.
        positions: The positions to set.
        place: The first entry to be delivered.
        inspector: Requests the last ids of the streams.

    Raises:
        CommandError: The server refuses it for a shard, which goes on as before; the
            others are set.
        AccessError: The user may not set it; nothing that was read is dropped.
        ConnectionLost: The connection ended; the seek can be repeated.
    """
    after = await _resolve(connection, positions, place, inspector)
    moves = list(zip(positions, after, strict=True))
    refused: list[ErrorReply] = []
    if member is not None:
        moves, refused = await _set_groups(connection, member, moves)
    for position, id_ in moves:
        ledger.removals.drop(position.shard)
        if member is not None:
            ledger.removals.rewind(position.shard, EntryId.parse(id_))
        position.restart(id_)
        if place is Start.LATEST:
            position.highest = max(position.highest, EntryId.parse(id_))
    if member is not None:
        for position, _ in moves:
            refused += await _ack_unheld(connection, ledger, member, position)
    if refused:
        raise refusal(connection.address.name, "seek()", refused[0])


async def _resolve(
    connection: Connection,
    positions: Sequence[Position],
    place: StartAt,
    inspector: StreamInspector,
) -> list[bytes]:
    """Return the id after which to read, per shard; LATEST becomes the last id."""
    if place is Start.EARLIEST or isinstance(place, EntryId):
        return [exclusive_start(place, EntryId.MIN)] * len(positions)
    keys = [position.shard.key for position in positions]
    found: list[bytes] = []
    for info in await inspector.streams(connection.calls, keys):
        if not isinstance(info, ErrorReply):
            last = info.last
        elif info.kind in {ErrorKind.REPAIR, ErrorKind.ISOLATE}:
            # There is no stream yet, so all its entries will be new.
            last = EntryId.MIN
        else:
            raise refusal(connection.address.name, "XINFO STREAM", info)
        found.append(
            bytes(last) if place is Start.LATEST else exclusive_start(place, last)
        )
    return found


async def _set_groups(
    connection: Connection, member: Membership, moves: Sequence[_Move]
) -> tuple[list[_Move], list[ErrorReply]]:
    """Set the group's position in each shard; return what was set, and the refusals."""
    batch: list[Command] = []
    for position, id_ in moves:
        key, group = position.shard.key, member.group
        # The group may have been deleted. If it exists, the reply is BUSYGROUP.
        made = commands.xgroup_create(key, group, id_, mkstream=member.mkstream)
        batch += [made, commands.xgroup_setid(key, group, id_)]
    answers = (await connection.calls(batch))[1::2]
    refused = [reply for reply in answers if isinstance(reply, ErrorReply)]
    done = [
        move
        for move, reply in zip(moves, answers, strict=True)
        if not isinstance(reply, ErrorReply)
    ]
    return done, refused


async def _ack_unheld(
    connection: Connection, ledger: Ledger, member: Membership, position: Position
) -> list[ErrorReply]:
    """Acknowledge own pending entries that the ledger does not keep.

    Returns:
        What the server refused.
    """
    shard, group = position.shard, member.group
    pages = pending_pages(connection.calls, shard, group, member.name, _PAGE)
    async with aclosing(pages):
        async for page in pages:
            if isinstance(page, ErrorReply):
                # Without a group nothing is pending.
                return [] if page.kind is ErrorKind.REPAIR else [page]
            kept = ledger.shards.ids(shard)
            if gone := [each.id for each in page if each.id not in kept]:
                ack = commands.xack(shard.key, group, gone)
                [reply] = await connection.calls([ack])
                if isinstance(reply, ErrorReply):
                    return [reply]
    return []
