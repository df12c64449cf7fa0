"""Assignment: the shards that a consumer reads, and their changes while it runs.

All changes are made between two reads, so that no reply can arrive for a shard that is
no longer read; see `read_pauses.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from penstock._connection.command_connection import CommandConnection
from penstock._connection.connection import Connection
from penstock._core.ledger.ledger import Ledger
from penstock._core.messages import shard_keys
from penstock._core.protocol import commands, replies
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply, StreamInfo
from penstock._core.reading.cursor import Cursor, Position
from penstock._core.reading.owned_cursors import OwnedCursors
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.group import join, pin, refusal
from penstock._tasks.leases.claimer import Claimer
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.release import release_entries
from penstock._tasks.reading.positions import exclusive_start
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock._tasks.reading.shard_records import ShardRecords
from penstock._tasks.stream_info import StreamInspector
from penstock.errors import (
    AccessError,
    ClosedError,
    CommandError,
    ConfigurationError,
    ServerError,
    UsageError,
)
from penstock.events import Event
from penstock.message import EntryId, Shard
from penstock.options import Start, StartAt

__all__ = ["Assignment"]


class Assignment:
    """The shards of one consumer.

    Args:
        config: The consumer's configuration.
        connection: The command connection.
        ledger: The consumer's ledger.
        shard_records: Finds shards.
        claims: Claims the consumer's own entries; None where there is no group.

    Attributes:
        cursors: The positions in the shards.
        owned: The same, where shards are owned; else None.
        found: The shards of each stream that were found on opening.
        error: What is wrong with a key that was never a stream. In REALTIME it is
            raised when the consumer is asked for messages.
        inspector: Requests descriptions of streams.
        readers: The readers, once the consumer is open.
        claimer: The claimer, once the consumer is open; None where there is no group.
        on_more: Called with more shards, where shards are owned.
    """

    def __init__(
        self,
        config: ConsumerConfig[Any],
        connection: CommandConnection,
        ledger: Ledger,
        shard_records: ShardRecords,
        claims: OwnClaims | None,
    ) -> None:
        self._config = config
        self._connection = connection
        self._ledger = ledger
        self._shard_records = shard_records
        self._claims = claims
        group, recover = config.member is not None, config.acknowledges

        def make() -> Cursor:
            return Cursor((), group=group, recover=recover)

        self.owned = OwnedCursors(make) if config.ownership is not None else None
        self.cursors: SlotCursors = self.owned or SlotCursors(make)
        self.error: ServerError | None = None
        self.inspector = StreamInspector()
        self.found: dict[str, Sequence[Shard]] = {}
        self.readers: ReaderPool | None = None
        self.claimer: Claimer | None = None
        self.on_more: Callable[[Sequence[Shard]], None] = lambda _: None

    async def open(self) -> None:
        """Find the shards of all streams and set the positions at which to read them.

        Raises:
            StreamMissing: A stream does not exist, and may not be created.
            CommandError: The server refused a command, because a key is not a stream,
                for example.
            AccessError: The user lacks a permission.
            ConnectionLost: The connection ended.
        """
        self.found = {
            stream: await self._find(stream) for stream in self._config.streams
        }
        if self.owned is not None:
            self._check_found()
        shards = [shard for each in self.found.values() for shard in each]
        begun = await self._begin(shards, self._config.start)
        if self.owned is not None:
            return  # members are assigned their shards later
        for shard, after in begun:
            if shard not in self.cursors:  # its key may be another stream's name
                cursor = self.cursors.open(shard)
                cursor.add(shard, after, pinned=self._pins(self._config.start))

    def _check_found(self) -> None:
        """Raise if shards may have been missed.

        Otherwise a member would be assigned shards that it does not find, so that
        nobody would read them.
        """
        for stream, reply in self._shard_records.refused.items():
            what = f"finding the shards of {stream!r:.80}"
            raise refusal(self._connection.server, what, reply)

    async def _find(self, stream: str) -> Sequence[Shard]:
        if self._config.numbers is None:
            return await self._shard_records.watch(stream)
        return [shard_keys.numbered(stream, number) for number in self._config.numbers]

    async def _begin(
        self, shards: Sequence[Shard], start: StartAt
    ) -> list[tuple[Shard, bytes]]:
        """Return the shards with the ids after which to read them.

        In a group, the group is created where it does not exist. Otherwise LATEST
        becomes the last id of each stream.
        """
        member = self._config.member
        if member is not None:
            after = await self._group_starts(shards, start)
            found = await join(self._connection, member, shards, after)
        else:
            latest = self._pins(start)
            found, self.error = await pin(
                self._connection, shards, self.inspector, needed=latest
            )
            if not latest:
                found = _starts(start, found)
        return list(zip(shards, found, strict=True))

    async def _group_starts(
        self, shards: Sequence[Shard], start: StartAt
    ) -> list[bytes]:
        """Return the ids after which a new group delivers."""
        ends = [b"0-0"] * len(shards)
        if isinstance(start, datetime):
            ends, _ = await pin(self._connection, shards, self.inspector, needed=False)
        return _starts(start, ends)

    def _pins(self, start: StartAt) -> bool:
        """Return whether a start becomes the last id of each stream."""
        return self._config.member is None and start is Start.LATEST

    async def add_found(self, shards: Sequence[Shard]) -> Iterable[Shard]:
        """Read shards that did not exist when the consumer opened.

        Args:
            shards: The shards that were found.

        Returns:
            The shards that are read now.

        Raises:
            ConnectionLost: The connection ended.
        """
        start = self._config.start
        # All entries of these shards were sent after the consumer opened.
        start = Start.EARLIEST if start is Start.LATEST else start
        try:
            await self._add(shards, start)
        except (CommandError, AccessError, ClosedError):
            # The key was deleted or has another type by now, or the user may not read
            # it, or the consumer is closing.
            return ()
        for shard in shards:
            facts = {"stream": shard.stream, "shard": shard.number}
            self._config.on_event(Event("shard_found", logging.INFO, facts))
        return shards

    async def _add(self, shards: Sequence[Shard], start: StartAt) -> None:
        begun = await self._begin(shards, start)
        if self.owned is not None:
            self.on_more(shards)
            return
        await self._reading.add(begun, pinned=self._pins(start))
        if self.claimer is not None:
            self.claimer.search_now()

    @property
    def _reading(self) -> ReaderPool:
        assert self.readers is not None  # noqa: S101 - only called once it is open
        return self.readers

    async def assign(self, stream: str, shards: Sequence[Shard] | None) -> None:
        """Begin to read a stream, or some of its shards; if this fails, none."""
        self._check_shared("assign")
        is_new = not self._reads(stream)
        try:
            await self._add(shards or await self._find(stream), self._config.start)
        except BaseException:
            # Otherwise its shards would be found, and read, later.
            if is_new and not self._reads(stream):
                self._shard_records.ignore(stream)
            raise

    def _check_shared(self, call: str) -> None:
        if self.owned is not None:
            raise UsageError(
                f"{call}() chooses what this consumer reads, but the members of its "
                f"group divide all shards among them; name all streams when you create "
                f"the consumer, move a shard with admin.move(...), or use "
                f"ownership='shared'"
            )

    def _reads(self, stream: str) -> bool:
        return any(shard.stream == stream for shard in self.cursors.shards)

    async def unassign(self, stream: str, shards: Sequence[Shard] | None) -> None:
        """Stop reading a stream, or some of its shards."""
        self._check_shared("unassign")
        if shards is None:
            self._shard_records.ignore(stream)
        leaving = [
            shard
            for shard in self.cursors.shards
            if (shard.stream == stream if shards is None else shard in shards)
        ]
        if not leaving:
            raise ConfigurationError(
                f"this consumer does not read {stream!r:.80}, or not that shard of "
                f"it; `consumer.shards` lists what it reads"
            )

        async def remove(_: Connection, cursor: Cursor) -> None:
            for shard in leaving:
                if shard in cursor:
                    cursor.remove(shard)
                    await self._release_shard(shard)

        await self._reading.between_reads(remove)

    async def _release_shard(self, shard: Shard) -> None:
        config, claims = self._config, self._claims
        if config.member is None or claims is None or not config.acknowledges:
            self._ledger.removals.drop(shard)
            return
        await release_entries(
            self._connection,
            claims,
            self._ledger.removals.release_shard(shard),
            config.member,
            idle=config.lease,
            on_event=config.on_event,
        )

    async def lag(self) -> dict[Shard, int | None]:
        """Return how many entries of each shard have not been delivered yet."""
        positions, member = self.cursors.positions, self._config.member
        keys = [position.shard.key for position in positions]
        shards = [position.shard for position in positions]
        if member is None:
            streams = await self.inspector.streams(self._connection.calls, keys)
            return dict(zip(shards, map(_unread, positions, streams), strict=True))
        if not keys:
            return {}  # no shard is owned now
        found = await self.inspector.with_more(
            self._connection.calls, keys, _groups, bulk=self._reading.calls
        )
        counts, trusted = (
            [replies.lag(facts, member.group, trusted=trust) for facts in found]
            for trust in (False, True)
        )
        if counts != trusted:
            # The answer is not kept: after a failover it may be another server.
            [commands_there] = await self._connection.calls([commands.counts_lag()])
            counts = trusted if replies.counts_lag(commands_there) else counts
        return dict(zip(shards, counts, strict=True))


def _groups(key: bytes) -> list[Command]:
    return [commands.xinfo_groups(key)]


def _starts(start: StartAt, ends: Iterable[bytes]) -> list[bytes]:
    """Return the ids after which to read streams that end with these ids."""
    return [exclusive_start(start, EntryId.parse(end)) for end in ends]


def _unread(position: Position, stream: StreamInfo | ErrorReply) -> int | None:
    """Return how many entries lie above the position of a consumer without a group."""
    if isinstance(stream, ErrorReply):
        return 0 if stream.kind is ErrorKind.REPAIR else None  # no stream yet
    return stream.count_above(EntryId.parse(position.after), None)
