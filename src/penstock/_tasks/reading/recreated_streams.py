"""Recreated streams: a stream that was deleted and recreated is read from its start.

How it is recognized is in `_core/reading/stream_identity.py`. In a group, the entries
of the old stream are dropped from the ledger.
"""

from __future__ import annotations

import logging
from typing import Final

from penstock._connection.reading_connection import ReadingConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorKind, ErrorReply, StreamInfo
from penstock._core.reading.cursor import Cursor, Position
from penstock._core.reading.request_size import RequestSize
from penstock._tasks.group import Membership
from penstock._tasks.leases.pending_bodies import loss_recorded
from penstock._tasks.reporting import ShardReporter, id_list
from penstock._tasks.stream_info import StreamInspector
from penstock.message import EntryId

__all__ = ["RecreatedStreams"]

# The most entries of a stream that are compared with remembered ones.
_PROBES: Final = 8


class RecreatedStreams:
    """Compares the streams of one reader with what is remembered of them.

    Args:
        connection: The reader's connection.
        member: The consumer's place in the group that is read, or None for REALTIME.
        cursor: The positions at which the reader reads.
        ledger: The ledger, which drops the entries of a stream that was recreated.
        inspector: Requests descriptions of streams.
        reporter: Reports streams that were recreated, and rewinds.
    """

    def __init__(
        self,
        connection: ReadingConnection,
        member: Membership | None,
        *,
        cursor: Cursor,
        ledger: Ledger,
        inspector: StreamInspector,
        reporter: ShardReporter,
    ) -> None:
        self._connection = connection
        self._member = member
        self._cursor = cursor
        self._ledger = ledger
        self._inspector = inspector
        # Bounds how many entries of a stream are compared with remembered ones.
        self._probes = RequestSize(_PROBES)
        self._report = reporter.report

    async def check(
        self,
        position: Position,
        *,
        quiet: bool = False,
        compare: bool = True,
    ) -> bool:
        """Check whether a stream was deleted and recreated; rewind if it was.

        Args:
            position: The position in the stream.
            quiet: Whether there is no other sign that it was.
            compare: Whether entries may be read and compared.

        Returns:
            Whether the position was rewound.

        Raises:
            ConnectionLost: The connection ended.
        """
        position.doubtful = False
        info = await self._describe(position)
        if self._member is None:
            if isinstance(info, ErrorReply):
                # Before anything is known of the stream, it has only not been created.
                if info.kind is ErrorKind.REPAIR and not position.identity.empty:
                    position.identity.absent = True
                return False
            return await self.rewind_if_recreated(
                position, info, quiet=quiet, compare=compare
            )
        if isinstance(info, ErrorReply):
            return False  # the next read is refused, and leads to a repair
        if await self._is_other(position, info, compare=compare):
            self._drop(position)
            return True
        return False

    async def check_after_outage(self, position: Position, *, compare: bool) -> None:
        """Call `check` unless the group's position shows that the stream is the same.

        It does if it lies at or above the highest id that was read here.

        Args:
            position: The position in the stream.
            compare: Whether entries may be read and compared. They may not if the last
                connection ended after a comparison and before any other reply: where
                connections end often, no other reply would ever arrive.

        Raises:
            ConnectionLost: The connection ended.
        """
        if self._member is not None:
            # Unlike the description of a stream, this reply contains no entries.
            look = commands.xinfo_groups(position.shard.key)
            groups = await self._connection.current.call(look)
            name = self._member.group.encode()
            if isinstance(groups, ErrorReply) or not any(
                each.name == name
                and EntryId.parse(each.last_delivered) < position.highest
                for each in groups
            ):
                position.doubtful = False
                return
        await self.check(position, compare=compare)

    async def rewind_if_recreated(
        self,
        position: Position,
        info: StreamInfo,
        *,
        quiet: bool = False,
        replaced: bool = False,
        compare: bool = True,
    ) -> bool:
        """Rewind in a stream that was recreated, or of which the server lost entries.

        The last id is compared with ids that existed, not with the position: a
        consumer may start at an id that does not exist yet.

        Returns:
            Whether the position was rewound.
        """
        other = await self._is_other(position, info, quiet=quiet, compare=compare)
        if other or (replaced and info.last < position.highest):
            position.recreated()
        elif info.last < position.highest:
            # The server has lost entries (by a restart from an old snapshot), and the
            # next ones have lower ids.
            position.highest = info.last
            position.after = bytes(info.last)
        else:
            return False
        self.report_rewind(position, position.after)
        return True

    async def check_before_recreating(self, position: Position) -> ErrorReply | None:
        """Check whether the stream was deleted with its group.

        This comes before the group is recreated. Until then nothing in the stream is
        pending, and no outcome of an old entry can be taken for that of a new one.

        Returns:
            The refusal, if the server does not answer at present.
        """
        position.doubtful = False
        floor, blank = EntryId.parse(position.floor), position.identity.empty
        info = await self._describe(position)
        if not isinstance(info, ErrorReply):
            gone = await self._is_other(position, info) or info.last < floor
        elif info.kind is ErrorKind.REPAIR:
            gone = floor > EntryId.MIN or not blank
            position.identity.reset()
        elif info.kind is ErrorKind.TRANSIENT:
            return info  # without an answer: the stream may still be the same
        else:
            # The user may not request the description.
            gone, position.floor = False, b"0-0"
        if gone:
            self._drop(position)
        return None

    def report_rewind(self, position: Position, to: bytes) -> None:
        """Report that entries are redelivered, or may be."""
        position.rewind_reported = True
        self._report("set_back", position.shard, logging.ERROR, to=to.decode())

    async def _describe(self, position: Position) -> StreamInfo | ErrorReply:
        calls, key = self._connection.current.calls, position.shard.key
        return (await self._inspector.streams(calls, [key]))[0]

    async def _is_other(
        self,
        position: Position,
        info: StreamInfo,
        *,
        quiet: bool = False,
        compare: bool = True,
    ) -> bool:
        """Return whether this is another stream than the one that was read before."""
        identity = position.identity
        contradicted = identity.contradicts(info)
        other = contradicted or (identity.absent and not identity.empty)
        # Facts that contradict each other prove another stream, unless the connection
        # was down: only then can the server have lost data.
        if not other or identity.interrupted:
            most = self._probes.most if compare else 0
            ids = identity.probes(info, quiet=quiet and not other)[:most]
            ask = [commands.xrange_one(position.shard.key, id_) for id_ in ids]
            # Where connections end often, a reply with all of these entries may never
            # arrive.
            with loss_recorded(self._probes, len(ids)):
                found = await self._connection.current.calls(ask)
            self._probes.received(len(ids), len(ids))
            if not any(isinstance(reply, ErrorReply) for reply in found):
                shown = identity.is_other(info, ids, found)
                other = other if shown is None else shown
        if other or contradicted:
            identity.reset()
        identity.describe(info)
        return other

    def _drop(self, position: Position) -> None:
        """Drop the known entries of a recreated stream, and report that."""
        position.recreated()
        self._cursor.recover_again(position)
        lost = self._ledger.stream_recreated(position.shard)
        facts = {"messages": len(lost), "ids": id_list(lost)}
        self._report("stream_recreated", position.shard, logging.ERROR, **facts)
