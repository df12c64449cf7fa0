"""Shard health: deleted groups are recreated, and unreadable shards are left out.

The server refuses every read that names a shard which can't be read. So when a read is
refused, the state of each shard is requested by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from penstock import _clock
from penstock._connection.connection import Connection
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorKind, ErrorReply, StreamInfo
from penstock._core.reading.cursor import Position
from penstock._core.reading.request_size import RequestSize
from penstock._tasks.group import Membership, refusal, rejoin
from penstock._tasks.leases.pending_bodies import loss_recorded
from penstock._tasks.reporting import id_list
from penstock._tasks.stream_info import StreamInspector
from penstock.errors import ServerError
from penstock.events import Event, OnEvent
from penstock.message import EntryId, Shard

__all__ = ["ShardHealth"]

_PROBES: Final = 8


class ShardHealth:
    """Checks and repairs the shards of one consumer.

    Args:
        member: The consumer's place in the group that is read, or None for REALTIME.
        on_group_recreated: Called with a shard whose group was recreated.
        on_recreated: Called with the position of a stream that was deleted and
            recreated, in a group; returns the ids of the entries that are dropped.
        on_event: Receives the shards that are broken, repaired or readable again.
    """

    def __init__(
        self,
        member: Membership | None,
        on_group_recreated: Callable[[Shard], None],
        on_recreated: Callable[[Position], Sequence[bytes]],
        on_event: OnEvent,
    ) -> None:
        self._member = member
        self._inspector = StreamInspector()
        # Bounds how many entries of a stream are compared with remembered ones.
        self._probes = RequestSize(_PROBES)
        self._on_group_recreated = on_group_recreated
        self._on_recreated = on_recreated
        self._on_event = on_event

    async def examine(
        self, connection: Connection, positions: Sequence[Position]
    ) -> ServerError | None:
        """Check which of the shards can be read, and repair the others if possible.

        Args:
            connection: The reader's connection.
            positions: The positions in the shards.

        Returns:
            The server's permanent refusal, after which reading can't continue.

        Raises:
            ConnectionLost: The connection ended.
        """
        answers = await self._ask(connection, [each.shard.key for each in positions])
        for position, answer in zip(positions, answers, strict=True):
            kind = answer.kind if isinstance(answer, ErrorReply) else None
            if kind is ErrorKind.FATAL:
                where = f"reading {position.shard.stream!r}"
                return refusal(connection.address.name, where, answer)
            if kind is ErrorKind.ISOLATE:
                self._mark_broken(position, answer.text)
            elif kind is ErrorKind.REPAIR:
                await self._repair(connection, position)
            elif kind is None:
                await self._record_readable(connection, position, answer)
        return None

    async def _ask(self, connection: Connection, keys: Sequence[bytes]) -> list[Any]:
        if self._member is None:
            return await self._inspector.streams(connection.calls, keys)
        group = self._member.group
        return await connection.calls(
            [commands.xpending_summary(key, group) for key in keys]
        )

    async def _record_readable(
        self, connection: Connection, position: Position, answer: Any
    ) -> None:
        # If the key had another type meanwhile, this is another stream.
        replaced = position.broken is not None
        self._mark_healed(position)
        if self._member is None:
            await self._rewind_if_recreated(
                connection, position, answer, replaced=replaced
            )

    async def _rewind_if_recreated(
        self,
        connection: Connection,
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
        other = await self._is_other(
            connection, position, info, quiet=quiet, compare=compare
        )
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

    async def check(
        self,
        connection: Connection,
        position: Position,
        *,
        quiet: bool = False,
        compare: bool = True,
    ) -> bool:
        """Check whether a stream was deleted and recreated; rewind if it was.

        Args:
            connection: The reader's connection.
            position: The position in the stream.
            quiet: Whether there is no other sign that it was.
            compare: Whether entries may be read and compared.

        Returns:
            Whether the position was rewound.

        Raises:
            ConnectionLost: The connection ended.
        """
        position.doubtful = False
        [info] = await self._inspector.streams(connection.calls, [position.shard.key])
        if self._member is None:
            if isinstance(info, ErrorReply):
                # Before anything is known of the stream, it has only not been created.
                if info.kind is ErrorKind.REPAIR and not position.identity.empty:
                    position.identity.absent = True
                return False
            return await self._rewind_if_recreated(
                connection, position, info, quiet=quiet, compare=compare
            )
        if isinstance(info, ErrorReply):
            return False  # the next read is refused, and leads to a repair
        if await self._is_other(connection, position, info, compare=compare):
            self._recreated(position)
            return True
        return False

    async def check_after_outage(
        self, connection: Connection, position: Position, *, compare: bool
    ) -> None:
        """Call `check` unless the group's position shows that the stream is the same.

        It does if it lies at or above the highest id that was read here.

        Args:
            connection: The reader's connection.
            position: The position in the stream.
            compare: Whether entries may be read and compared. They may not if the last
                connection ended after a comparison and before any other reply: where
                connections end often, no other reply would ever arrive.

        Raises:
            ConnectionLost: The connection ended.
        """
        if self._member is not None:
            # Unlike the description of a stream, this reply contains no entries.
            groups = await connection.call(commands.xinfo_groups(position.shard.key))
            name = self._member.group.encode()
            if isinstance(groups, ErrorReply) or not any(
                each.name == name
                and EntryId.parse(each.last_delivered) < position.highest
                for each in groups
            ):
                position.doubtful = False
                return
        await self.check(connection, position, compare=compare)

    async def _is_other(
        self,
        connection: Connection,
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
            key = position.shard.key
            # Where connections end often, a reply with all of these entries may never
            # arrive.
            with loss_recorded(self._probes, len(ids)):
                found = await connection.calls(
                    [commands.xrange_one(key, id_) for id_ in ids]
                )
            self._probes.received(len(ids), len(ids))
            if not any(isinstance(reply, ErrorReply) for reply in found):
                shown = identity.is_other(info, ids, found)
                other = other if shown is None else shown
        if other or contradicted:
            identity.reset()
        identity.describe(info)
        return other

    async def check_trimmed(
        self, connection: Connection, positions: Sequence[Position]
    ) -> None:
        """Report entries that were trimmed before they were delivered to the group.

        Args:
            connection: The reader's connection, between two reads.
            positions: The positions in the shards.

        Raises:
            ConnectionLost: The connection ended.
        """
        assert self._member is not None  # noqa: S101 - only called for groups
        name = self._member.group.encode()
        ask = [commands.xinfo_groups(position.shard.key) for position in positions]
        answers, now = await connection.calls(ask), _clock.monotonic()
        for position, groups in zip(positions, answers, strict=True):
            if isinstance(groups, ErrorReply):
                continue
            for group in groups:
                if group.name == name and (count := position.trimmed.look(group, now)):
                    await self._report_trimmed(connection, position, count)

    async def _report_trimmed(
        self, connection: Connection, position: Position, count: int
    ) -> None:
        [info] = await self._inspector.streams(connection.calls, [position.shard.key])
        if isinstance(info, ErrorReply):
            return
        # Trimming removes the first entries of a stream. If the stream still begins at
        # or before the group's earlier position, another consumer has the entries.
        if info.first is None or info.first > position.trimmed.since:
            self._report("trimmed_unread", position, logging.ERROR, messages=count)

    def _recreated(self, position: Position) -> None:
        """Drop the known entries of a recreated stream, and report that."""
        lost = self._on_recreated(position)
        facts = {"messages": len(lost), "ids": id_list(lost)}
        self._report("stream_recreated", position, logging.ERROR, **facts)

    async def _repair(self, connection: Connection, position: Position) -> None:
        """Repair a shard whose stream or group does not exist."""
        if self._member is None:
            if position.highest > EntryId.MIN:
                # The stream was deleted: all entries of a later one are new.
                position.recreated()
                position.identity.reset()
            self._mark_healed(position)
            return
        if position.broken is None:
            self._report("group_missing", position, logging.WARNING)
        if (
            refused := await self._check_before_recreating(connection, position)
        ) is not None:
            self._mark_broken(position, refused.text)
            return
        # Entries that are in progress here will be read again. The ledger knows them,
        # so that is no rewind.
        position.highest = EntryId.MIN
        made = await rejoin(connection, self._member, position.shard, position.floor)
        if not isinstance(made, ErrorReply):
            self._on_group_recreated(position.shard)
            self._mark_healed(position)
            self._report(
                "group_recreated", position, logging.ERROR, after=made.decode()
            )
        elif made.code == "BUSYGROUP":
            self._on_group_recreated(position.shard)
            self._mark_healed(position)  # another consumer has recreated the group
        else:
            self._mark_broken(position, made.text)

    async def _check_before_recreating(
        self, connection: Connection, position: Position
    ) -> ErrorReply | None:
        """Check whether the stream was deleted with its group.

        This comes before the group is recreated. Until then nothing in the stream is
        pending, and no outcome of an old entry can be taken for that of a new one.

        Returns:
            The refusal, if the server does not answer at present.
        """
        position.doubtful = False
        floor, blank = EntryId.parse(position.floor), position.identity.empty
        [info] = await self._inspector.streams(connection.calls, [position.shard.key])
        if not isinstance(info, ErrorReply):
            gone = await self._is_other(connection, position, info) or info.last < floor
        elif info.kind is ErrorKind.REPAIR:
            gone = floor > EntryId.MIN or not blank
            position.identity.reset()
        elif info.kind is ErrorKind.TRANSIENT:
            return info  # without an answer: the stream may still be the same
        else:
            # The user may not request the description.
            gone, position.floor = False, b"0-0"
        if gone:
            self._recreated(position)
        return None

    def _mark_broken(self, position: Position, reply: str) -> None:
        if position.broken is None:
            self._report("shard_broken", position, logging.ERROR, reply=reply)
        position.broken = reply

    def _mark_healed(self, position: Position) -> None:
        if position.broken is not None:
            position.broken = None
            self._report("shard_healed", position, logging.INFO)

    def report_rewind(self, position: Position, to: bytes) -> None:
        """Report that entries are redelivered, or may be."""
        position.rewind_reported = True
        self._report("set_back", position, logging.ERROR, to=to.decode())

    def _report(
        self, name: str, position: Position, level: int, **facts: object
    ) -> None:
        names: dict[str, object] = {"stream": ascii(position.shard.stream)}
        names["shard"] = position.shard.number
        if self._member is not None:
            names["group"] = ascii(self._member.group)
        self._on_event(Event(name, level, {**names, **facts}))
