"""Setting a consumer's position anew.

What was read before is forgotten with it: dropped from the queue, and in a group
acknowledged, since it would come again with the next reconnect otherwise. Not so what
a handler or loop has in hand, or was handed and has not acknowledged: that is the
user's, and stays pending until it is acknowledged, unless it is about to come again.

Nobody may send outcomes meanwhile. One that was recorded before could reach the server
after the position was set, and acknowledge what had been delivered anew.
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

# Pending entries that one command lists.
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
    """Go on at a place, on each of the shards.

    Args:
        connection: The reader's connection, between two reads.
        ledger: What is in hand.
        member: The group that is read, or None for REALTIME.
        positions: Those to be set.
        place: Where to; inclusive.
        inspector: Asks for the streams' last ids.

    Raises:
        CommandError: The server refuses it for a shard; the others are set.
        AccessError: The user may not.
        ConnectionLost: The connection ended; it can be done again.
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
    """Make LATEST a concrete id of each shard."""
    if place is not Start.LATEST:
        return [exclusive_start(place)] * len(positions)
    keys = [position.shard.key for position in positions]
    found: list[bytes] = []
    for info in await inspector.streams(connection.calls, keys):
        if not isinstance(info, ErrorReply):
            found.append(bytes(info.last))
        elif info.trouble in {ErrorKind.REPAIR, ErrorKind.ISOLATE}:
            # There is no stream: whatever will be in it is new.
            found.append(b"0-0")
        else:
            raise refusal(connection.address.name, "XINFO STREAM", info)
    return found


async def _ack_unheld(
    connection: Connection, ledger: Ledger, member: Membership, position: Position
) -> ErrorReply | None:
    """Acknowledge what is pending for us and in nobody's hands; gives a refusal."""
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
    """Set the group back or forth on each shard; gives a refusal if there is one."""
    batch: list[Command] = []
    for position, id_ in zip(positions, after, strict=True):
        key, group = position.shard.key, member.group
        # First made, should it have vanished; else the server says BUSYGROUP.
        made = commands.xgroup_create(key, group, id_, mkstream=member.mkstream)
        batch += [made, commands.xgroup_setid(key, group, id_)]
    answers = (await connection.calls(batch))[1::2]
    return next((reply for reply in answers if isinstance(reply, ErrorReply)), None)
