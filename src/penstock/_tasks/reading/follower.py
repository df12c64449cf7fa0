"""Follower: reads what is added to a stream from now on, without a group.

It reads with XREAD on a connection of its own, and continues after an outage where it
stopped. `replay_reader.py` reads what was added before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any, Final

import anyio

from penstock import _clock
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector, open_connector
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorKind, ErrorReply, RawEntry
from penstock._tasks.group import refusal
from penstock._tasks.reading.shard_records import ShardRecords
from penstock.errors import CommandError, ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import EntryId, Shard

__all__ = ["Follower", "open_follower"]

# Seconds for which the server waits for an entry; between two reads where it can't; and
# between two looks for new shards.
_BLOCK: Final = 2.0
_POLL: Final = 0.1
_LOOK: Final = 2.0
# The most entries that one read returns of a shard.
_COUNT: Final = 100


class Follower:
    """Reads the entries that are added to a stream's shards.

    Args:
        connector: Makes another connection when one is lost.
        connection: The first connection.
        stream: The stream's name.
        shards: The shards to read; None for all of them, also those that are added.
        on_event: Receives refusals that are retried.
    """

    def __init__(
        self,
        connector: Connector,
        connection: Connection,
        stream: str,
        shards: Sequence[Shard] | None,
        on_event: OnEvent,
    ) -> None:
        self._connector = connector
        self._connection = connection
        self._stream = stream
        self._on_event = on_event
        self._grows = shards is None
        self._records = ShardRecords(self._calls, on_event)
        # The last id that was read of each shard, or that is not to be read.
        self._after: dict[Shard, EntryId] = dict.fromkeys(shards or (), EntryId.MIN)
        # Whether the server waits for entries of all shards with one command.
        self._blocks = True
        self._looked_at = _clock.monotonic()

    async def _calls(self, batch: Sequence[commands.Command]) -> list[Any]:
        return await self._connection.ask(batch)

    async def start(self) -> None:
        """Begin after the last entry that each shard has now.

        Raises:
            ServerError: A command was refused, or the connection ended.
        """
        if self._grows:
            shards = await self._records.watch(self._stream)
            self._after = dict.fromkeys(shards, EntryId.MIN)
        ask = [commands.xrevrange_last(shard.key) for shard in self._after]
        replies = await self._calls(ask)
        for shard, reply in zip(list(self._after), replies, strict=True):
            if isinstance(reply, ErrorReply):
                raise self._refusal(shard, reply)
            if reply:
                self.passed(shard, EntryId.parse(reply[0][0]))

    def passed(self, shard: Shard, id_: EntryId) -> None:
        """Do not read entries of a shard up to an id: they have been read elsewhere."""
        self._after[shard] = max(self._after.get(shard, EntryId.MIN), id_)

    async def entries(self) -> AsyncGenerator[list[tuple[Shard, RawEntry]], None]:
        """Yield what is added, some entries at a time, in the order of their ids.

        Raises:
            ServerError: The server refuses to read a shard.
        """
        while True:
            try:
                await self._look_for_shards()
                came = await self._read()
            except ConnectionLost as error:
                await self._connection.aclose()
                self._connection = await self._connector.reconnect(error.reason)
                self._blocks = True
                continue
            if came:
                came.sort(key=_id_of)
                yield came
            elif not self._blocks:
                await anyio.sleep(_POLL)

    async def _look_for_shards(self) -> None:
        if not self._grows or _clock.monotonic() < self._looked_at + _LOOK:
            return
        self._looked_at = _clock.monotonic()
        try:
            found = await self._records.watch(self._stream)
        except CommandError:
            return  # transient: the server is loading, or a script is running
        for shard in found:
            self.passed(shard, EntryId.MIN)

    async def _read(self) -> list[tuple[Shard, RawEntry]]:
        """Read once, and wait for entries if the server can."""
        shards = list(self._after)
        keys = [shard.key for shard in shards]
        after = [bytes(id_) for id_ in self._after.values()]
        if self._blocks:
            block = int(_BLOCK * 1000)
            read = commands.xread(keys, after, _COUNT, block)
            began = _clock.monotonic()
            [reply] = await self._connection.ask([read], _BLOCK)
            if not isinstance(reply, ErrorReply):
                # Behind some proxies nothing waits.
                early = _clock.monotonic() - began < _BLOCK / 2
                self._blocks = bool(reply) or not early
                return await self._take(shards, [reply])
        # The keys may be in several slots of a cluster, or BLOCK may be refused.
        self._blocks = False
        reads = [
            commands.xread([key], [id_], _COUNT, None)
            for key, id_ in zip(keys, after, strict=True)
        ]
        return await self._take(shards, await self._connection.ask(reads))

    async def _take(
        self, shards: Sequence[Shard], replies: Sequence[Any]
    ) -> list[tuple[Shard, RawEntry]]:
        by_key = {shard.key: shard for shard in shards}
        came: list[tuple[Shard, RawEntry]] = []
        for reply in replies:
            if isinstance(reply, ErrorReply):
                if reply.kind is not ErrorKind.TRANSIENT:
                    raise self._refusal(shards[0], reply)
                self._on_event(Event("read_refused", facts={"reply": reply.text}))
                await self._connector.pause()
                return came
            for key, entries in reply or ():
                shard = by_key[key]
                came += zip(repeat(shard), entries)
                self.passed(shard, EntryId.parse(entries[-1][0]))
        if came:
            self._connector.progress()
        return came

    def _refusal(self, shard: Shard, reply: ErrorReply) -> Exception:
        key = shard.key.decode("utf-8", "surrogateescape")
        what = f"XREAD on {key!a:.80}"
        return refusal(self._connection.address.name, what, reply)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()


@asynccontextmanager
async def open_follower(
    url: str | None, stream: str, shards: Sequence[Shard] | None, on_event: OnEvent
) -> AsyncIterator[Follower]:
    """Connect, and begin after the last entry that each shard has now.

    Args:
        url: The server.
        stream: The stream's name.
        shards: The shards to read; None for all of them, also those that are added.
        on_event: Called with what happens in the background.

    Raises:
        PenstockError: See `replay_pages`.
    """
    owner = {"client": "follower", "streams": (stream,)}
    async with open_connector(url, on_event, None, **owner) as connector:
        connection = await connector.connect()
        follower = Follower(connector, connection, stream, shards, on_event)
        try:
            await follower.start()
            yield follower
        finally:
            with anyio.CancelScope(shield=True):
                await follower.aclose()


def _id_of(found: tuple[Shard, RawEntry]) -> EntryId:
    return EntryId.parse(found[1][0])
