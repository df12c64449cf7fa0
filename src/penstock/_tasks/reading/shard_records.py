"""Shard records: which shards streams have by their records, and when that changes.

A record is read when a consumer opens, and every two seconds after that: all of them
with one command, or with one for each stream where a command may not name keys of
several slots. Where a record does not say how many shards there are, or where the user
asked for a search, shards are looked up by name, see `shard_discovery.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import anyio

from penstock._core.messages import shard_keys, shard_record
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._tasks.reading.shard_discovery import Calls, OnFound, ShardDiscovery
from penstock._tasks.task_scopes import StoppableTask
from penstock.errors import CommandError, ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["ShardRecords"]

# Seconds between two rounds, and the rounds between two looks at the records.
_INTERVAL: Final = 1.0
_ROUNDS: Final = 2


class ShardRecords(StoppableTask):
    """Finds the shards of streams by their records.

    A shard that was found stays known, even if the record is lost.

    Args:
        calls: Sends commands in one write and returns their replies, errors as values.
        on_event: Receives the refusals to read a record, and records that can't be
            understood.
        search: Whether to look for all shards by name, and not to read records.
        create: Whether shards that do not exist yet are returned, because whoever reads
            them may create them.
    """

    def __init__(
        self,
        calls: Calls,
        on_event: OnEvent,
        *,
        search: bool = False,
        create: bool = True,
    ) -> None:
        super().__init__()
        self._calls = calls
        self._on_event = on_event
        self._search = search
        self._create = create
        self._discovery = ShardDiscovery(calls, on_event)
        # The shards that are known, of the streams whose records are read.
        self._known: dict[str, dict[Shard, None]] = {}
        # Streams whose record was reported as unreadable; and those of them that this
        # user may not read, so that looking again would fill the server's ACL log.
        self._reported: set[str] = set()
        self._refused: dict[str, ErrorReply] = {}
        # The last record that was seen of each stream.
        self._seen: dict[str, bytes] = {}
        self._may_restore = True
        self._rounds = 0
        # Whether one command may ask for several records.
        self._one_command = True

    async def watch(self, stream: str) -> list[Shard]:
        """Return a stream's shards, and look for changes from now on.

        Args:
            stream: The stream's name.

        Returns:
            The shards; the stream's own key is among them if it exists, or if there are
            no others.

        Raises:
            CommandError: The server can't answer at present.
            ConnectionLost: The connection ended before the reply.
        """
        if self._search:
            return await self._discovery.watch(stream)
        before = self._known.pop(stream, None)
        self._known[stream] = {}
        try:
            stored = await self._calls([commands.get(shard_record.key(stream))])
            [shards] = await self._found([stream], stored)
        except BaseException:
            self._known.pop(stream, None)
            if before is not None:
                self._known[stream] = before
            raise
        if stream not in self._known:  # its record is open
            return await self._discovery.watch(stream)
        shards = shards or [shard_keys.single(stream)]
        self._known[stream] |= dict.fromkeys(shards)
        return shards

    @property
    def refused(self) -> Mapping[str, ErrorReply]:
        """The streams whose shards this user may not look for, with the refusals."""
        return {**self._refused, **self._discovery.refused}

    def ignore(self, stream: str) -> None:
        """Stop looking for new shards of a stream."""
        self._known.pop(stream, None)
        self._discovery.ignore(stream)

    async def run(
        self, on_found: OnFound, restore: Callable[[str], Awaitable[None]]
    ) -> None:
        """Look for new shards, until cut.

        Args:
            on_found: Called with new shards. Those that it does not return are passed
                to it again.
            restore: Waits for a connection, given the reason why there is none.
        """
        with self._until_cut():
            while True:
                await anyio.sleep(_INTERVAL)
                try:
                    await self._round(on_found)
                except ConnectionLost as error:
                    await restore(error.reason)
                except CommandError:
                    pass  # transient: the server is loading, or a script is running

    async def _round(self, on_found: OnFound) -> None:
        self._rounds += 1
        await self._discovery.look(on_found)
        if self._rounds % _ROUNDS or not self._known:
            return
        streams = [stream for stream in self._known if stream not in self._refused]
        stored = await self._stored(streams)
        await self._restore(streams, stored)
        found = await self._found(streams, stored)
        new = [
            shard
            for stream, shards in zip(streams, found, strict=True)
            for shard in shards
            if shard not in self._known.get(stream, ())
        ]
        for shard in await on_found(new) if new else ():
            if shard.stream in self._known:
                self._known[shard.stream][shard] = None

    async def _stored(self, streams: Sequence[str]) -> Sequence[Any]:
        """Return the stored record of each stream, by one command where that works."""
        keys = [shard_record.key(stream) for stream in streams]
        if self._one_command and len(keys) > 1:
            [reply] = await self._calls([commands.mget(keys)])
            if not isinstance(reply, ErrorReply):
                return list(reply)
            if reply.kind is ErrorKind.TRANSIENT:
                raise CommandError("MGET", reply.code, reply.text)
            # The keys are in several slots of a cluster, or MGET is not allowed.
            self._one_command = False
        return await self._calls([commands.get(key) for key in keys])

    async def _restore(self, streams: Sequence[str], stored: Sequence[Any]) -> None:
        """Write records again that were lost with the server's memory.

        Otherwise a consumer that opens later would not find the shards, unless a
        producer sends to the stream before.
        """
        gone = [
            stream
            for stream, reply in zip(streams, stored, strict=True)
            if reply is None and stream in self._seen
        ]
        if not gone or not self._may_restore:
            return
        replies = await self._calls(
            [
                commands.set_if_missing(shard_record.key(stream), self._seen[stream])
                for stream in gone
            ]
        )
        self._may_restore = not any(
            isinstance(reply, ErrorReply) and reply.kind is ErrorKind.FATAL
            for reply in replies
        )

    async def _found(
        self, streams: Sequence[str], stored: Sequence[Any]
    ) -> list[list[Shard]]:
        """Return the shards of each stream by its record; none where there is none.

        Streams whose record is open are left to the discovery.
        """
        found = [self._recorded(*each) for each in zip(streams, stored, strict=True)]
        if not self._create:
            found = await self._existing(found)
        return await self._with_own_keys(streams, found)

    async def _with_own_keys(
        self, streams: Sequence[str], found: list[list[Shard]]
    ) -> list[list[Shard]]:
        """Add the key of a stream's own name where it exists beside shards."""
        own = [
            shard
            for shard, shards in zip(
                map(shard_keys.single, streams), found, strict=True
            )
            if shards and shard not in self._known.get(shard.stream, ())
        ]
        if not own:
            return found
        replies = await self._calls([commands.exists([shard.key]) for shard in own])
        # Where EXISTS is refused, the key is not read beside the shards.
        there = {s.stream: s for s, n in zip(own, replies, strict=True) if n == 1}
        return [
            [there[stream], *shards] if stream in there else shards
            for stream, shards in zip(streams, found, strict=True)
        ]

    def _recorded(self, stream: str, reply: bytes | ErrorReply | None) -> list[Shard]:
        if isinstance(reply, ErrorReply):
            if reply.kind is ErrorKind.TRANSIENT:
                raise CommandError("GET", reply.code, reply.text)
            if reply.kind is ErrorKind.FATAL:
                self._refused[stream] = reply
                self._report("looking_refused", logging.INFO, stream, reply.text)
            else:
                self._report("shards_unreadable", logging.ERROR, stream, reply.text)
            return []
        try:
            record = shard_record.load(reply)
        except ValueError:
            text = "it is no record of shards"
            self._report("shards_unreadable", logging.ERROR, stream, text)
            return []
        self._reported.discard(stream)
        if reply is None or record is None:
            return []
        self._seen[stream] = reply
        if record.number is None:
            self._discovery.follow(stream, self._known.pop(stream, ()))
            return []
        return shard_record.shards(stream, record.number)

    async def _existing(self, found: list[list[Shard]]) -> list[list[Shard]]:
        """Return those of the shards that exist."""
        flat = [shard for shards in found for shard in shards]
        if not flat:
            return found
        replies = await self._calls([commands.exists([one.key]) for one in flat])
        # A refusal does not hide a shard: whoever reads it is refused and told why.
        exist = {one for one, reply in zip(flat, replies, strict=True) if reply != 0}
        return [[one for one in shards if one in exist] for shards in found]

    def _report(self, name: str, level: int, stream: str, reply: str) -> None:
        """Report once that a record can't be read."""
        if stream not in self._reported:
            self._reported.add(stream)
            facts = {"stream": stream, "reply": reply}
            self._on_event(Event(name, level, facts))
