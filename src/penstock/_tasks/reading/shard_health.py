"""Shard health: deleted groups are recreated, and unreadable shards are left out.

The server refuses every read that names a shard which can't be read. So when a read is
refused, the state of each shard is requested by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from penstock import _clock
from penstock._connection.reading_connection import ReadingConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.reading.cursor import Position
from penstock._tasks.group import Membership, refusal, rejoin
from penstock._tasks.reading.recreated_streams import RecreatedStreams
from penstock._tasks.reporting import ShardReporter
from penstock._tasks.stream_info import StreamInspector
from penstock.errors import ServerError
from penstock.message import EntryId

__all__ = ["EXAMINE_EVERY", "ShardHealth"]

# The seconds between two examinations of a broken shard.
EXAMINE_EVERY: Final = 1.0


class ShardHealth:
    """Checks and repairs the shards of one reader.

    Args:
        connection: The reader's connection.
        member: The consumer's place in the group that is read, or None for REALTIME.
        ledger: The ledger, which is notified of groups that were recreated.
        recreated: Compares streams with those that were read before.
        inspector: Requests descriptions of streams.
        reporter: Reports the shards that are broken, repaired or readable again.

    Attributes:
        examine_at: The time of the next examination of broken shards.
    """

    def __init__(
        self,
        connection: ReadingConnection,
        member: Membership | None,
        *,
        ledger: Ledger,
        recreated: RecreatedStreams,
        inspector: StreamInspector,
        reporter: ShardReporter,
    ) -> None:
        self._connection = connection
        self._member = member
        self._ledger = ledger
        self._recreated = recreated
        self._inspector = inspector
        self._report = reporter.report
        self.examine_at = 0.0

    async def examine(self, positions: Sequence[Position]) -> ServerError | None:
        """Check which of the shards can be read, and repair the others if possible.

        Args:
            positions: The positions in the shards.

        Returns:
            The server's permanent refusal, after which reading can't continue.

        Raises:
            ConnectionLost: The connection ended.
        """
        self.examine_at = _clock.boottime() + EXAMINE_EVERY
        answers = await self._ask([each.shard.key for each in positions])
        for position, answer in zip(positions, answers, strict=True):
            kind = answer.kind if isinstance(answer, ErrorReply) else None
            if kind is ErrorKind.FATAL:
                where = f"reading {position.shard.stream!r}"
                return refusal(self._connection.current.address.name, where, answer)
            if kind is ErrorKind.ISOLATE:
                self._mark_broken(position, answer.text)
            elif kind is ErrorKind.REPAIR:
                await self._repair(position)
            elif kind is None:
                await self._record_readable(position, answer)
        return None

    async def _ask(self, keys: Sequence[bytes]) -> list[Any]:
        calls = self._connection.current.calls
        if self._member is None:
            return await self._inspector.streams(calls, keys)
        group = self._member.group
        return await calls([commands.xpending_summary(key, group) for key in keys])

    async def _record_readable(self, position: Position, answer: Any) -> None:
        # If the key had another type meanwhile, this is another stream.
        replaced = position.broken is not None
        self._mark_healed(position)
        if self._member is None:
            await self._recreated.rewind_if_recreated(
                position, answer, replaced=replaced
            )

    async def _repair(self, position: Position) -> None:
        """Repair a shard whose stream or group does not exist."""
        if self._member is None:
            if position.highest > EntryId.MIN:
                # The stream was deleted: all entries of a later one are new.
                position.recreated()
                position.identity.reset()
            self._mark_healed(position)
            return
        shard = position.shard
        if position.broken is None:
            self._report("group_missing", shard, logging.WARNING)
        refused = await self._recreated.check_before_recreating(position)
        if refused is not None:
            self._mark_broken(position, refused.text)
            return
        # Entries that are in progress here will be read again. The ledger knows them,
        # so that is no rewind. It has to know now that they are pending for nobody:
        # another connection may ask for them before the reply to this one is here.
        self._ledger.shards.group_recreated(shard, _clock.boottime())
        position.highest = EntryId.MIN
        connection = self._connection.current
        made = await rejoin(connection, self._member, shard, position.floor)
        if not isinstance(made, ErrorReply):
            self._mark_healed(position)
            after = made.decode()
            self._report("group_recreated", shard, logging.ERROR, after=after)
        elif made.code == "BUSYGROUP":
            self._mark_healed(position)  # another consumer has recreated the group
        else:
            self._mark_broken(position, made.text)

    def _mark_broken(self, position: Position, reply: str) -> None:
        if position.broken is None:
            self._report("shard_broken", position.shard, logging.ERROR, reply=reply)
        position.broken = reply

    def _mark_healed(self, position: Position) -> None:
        if position.broken is not None:
            position.broken = None
            self._report("shard_healed", position.shard, logging.INFO)
