"""Seek: sets the position of a consumer.

Entries that were read before and only wait are dropped. In a group they are also
acknowledged, since they would be redelivered after the next reconnect otherwise.
Entries that a handler or loop has, or has received and not acknowledged, are the
user's. They stay pending until they are acknowledged, unless they will be redelivered.

No outcomes may be sent meanwhile. An outcome that was recorded before could reach the
server after the position was set, and acknowledge an entry that was delivered again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from penstock._connection.connection import Connection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.reading.cursor import Position
from penstock._tasks.group import Membership, refusal
from penstock._tasks.leases.pending_pages import pending_pages
from penstock._tasks.reading.assignment import exclusive_start
from penstock._tasks.stream_info import StreamInspector
from penstock.message import EntryId
from penstock.options import Start

__all__ = ["seek"]

# The most pending entries that one command lists.
_PAGE = 1000


async def seek(
    connection: Connection,
    ledger: Ledger,
    member: Membership | None,
    positions: Sequence[Position],
    place: Start | EntryId,
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
        CommandError: The server refuses it for a shard; the others are set.
        AccessError: The user may not set it.
        ConnectionLost: The connection ended; the seek can be repeated.
    """
    after = await _resolve(connection, positions, place, inspector)
    for position in positions:
        ledger.removals.drop(position.shard)
    refused: ErrorReply | None = None
    if member is not None:
        for position, id_ in zip(positions, after, strict=True):
            ledger.removals.rewind(position.shard, EntryId.parse(id_))
            refused = await _ack_unheld(connection, ledger, member, position) or refused
        refused = await _set_groups(connection, member, positions, after) or refused
    for position, id_ in zip(positions, after, strict=True):
        position.restart(id_)
        if place is Start.LATEST:
            position.highest = max(position.highest, EntryId.parse(id_))
    if refused is not None:
        raise refusal(connection.address.name, "seek()", refused)


async def _resolve(
    connection: Connection,
    positions: Sequence[Position],
    place: Start | EntryId,
    inspector: StreamInspector,
) -> list[bytes]:
    """Return the id after which to read, per shard; LATEST becomes the last id."""
    if place is not Start.LATEST:
        return [exclusive_start(place)] * len(positions)
    keys = [position.shard.key for position in positions]
    found: list[bytes] = []
    for info in await inspector.streams(connection.calls, keys):
        if not isinstance(info, ErrorReply):
            found.append(bytes(info.last))
        elif info.trouble in {ErrorKind.REPAIR, ErrorKind.ISOLATE}:
            # There is no stream yet, so all its entries will be new.
            found.append(b"0-0")
        else:
            raise refusal(connection.address.name, "XINFO STREAM", info)
    return found


async def _ack_unheld(
    connection: Connection, ledger: Ledger, member: Membership, position: Position
) -> ErrorReply | None:
    """Acknowledge own pending entries that the ledger does not keep.

    Returns:
        What the server refused, if it refused something.
    """
    shard, group = position.shard, member.group
    pages = pending_pages(connection.calls, shard, member, _PAGE)
    async with aclosing(pages):
        async for page in pages:
            if isinstance(page, ErrorReply):
                # Without a group nothing is pending.
                return None if page.trouble is ErrorKind.REPAIR else page
            kept = ledger.shards.ids(shard)
            if gone := [id_ for id_ in page if id_ not in kept]:
                ack = commands.xack(shard.key, group, gone)
                [reply] = await connection.calls([ack])
                if isinstance(reply, ErrorReply):
                    return reply
    return None


async def _set_groups(
    connection: Connection,
    member: Membership,
    positions: Sequence[Position],
    after: Sequence[bytes],
) -> ErrorReply | None:
    """Set the group's position in each shard; return a refusal if there is one."""
    batch: list[Command] = []
    for position, id_ in zip(positions, after, strict=True):
        key, group = position.shard.key, member.group
        # The group may have been deleted. If it exists, the reply is BUSYGROUP.
        made = commands.xgroup_create(key, group, id_, mkstream=member.mkstream)
        batch += [made, commands.xgroup_setid(key, group, id_)]
    answers = (await connection.calls(batch))[1::2]
    return next((reply for reply in answers if isinstance(reply, ErrorReply)), None)
