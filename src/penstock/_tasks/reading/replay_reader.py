"""Replay reader: reads a stream's history on its own connection, over reconnects.

It needs no task: the next pages are requested before the present ones are yielded, and
their replies arrive while the caller looks at those. So there is nothing to stop when
the caller leaves.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import anyio

from penstock._connection.connection import Connection, Replies
from penstock._connection.reconnect import Connector, open_connector
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorKind, ErrorReply, RawEntry
from penstock._core.reading.request_size import RequestSize
from penstock._core.reading.shard_merge import ShardMerge, ShardPages
from penstock._tasks.group import refusal
from penstock._tasks.reading.positions import first_id, last_id
from penstock._tasks.reading.shard_records import ShardRecords
from penstock.credentials import Credentials
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import EntryId, Shard

__all__ = ["ReplayRange", "replay_pages"]

# The most shards of which one request reads a page.
_SHARDS: Final = 1000


@dataclass(frozen=True, slots=True)
class ReplayRange:
    """The range of entries to read.

    Attributes:
        stream: The stream's name.
        shards: Its shards to read; None for all of them.
        search: Whether its shards are looked for by name, and not by its record.
        low: The lowest id, or the first moment.
        high: The highest id, or the last moment.
        reverse: Whether to begin with the highest id.
        page: The most entries of one page.
    """

    stream: str
    shards: Sequence[Shard] | None
    search: bool
    low: EntryId | datetime
    high: EntryId | datetime
    reverse: bool
    page: int


async def replay_pages(
    url: str | None,
    reach: ReplayRange,
    on_event: OnEvent,
    credentials: Credentials | None = None,
) -> AsyncGenerator[Iterable[tuple[Shard, RawEntry]], None]:
    """Yield the entries that are in a stream now, some at a time.

    Raises:
        ConfigurationError: The URL is invalid.
        ConnectError: The server can't be reached at the beginning.
        AccessError: The server refuses this user.
        CommandError: The server refused a command, because a key is not a stream, for
            example.
        ConnectionLost: The connection ended before the first page.
    """
    owner = {"client": "replay", "streams": (reach.stream,)}
    async with open_connector(url, on_event, credentials, **owner) as connector:
        reader = _Reader(connector, await connector.connect(), on_event)
        try:
            merge = await reader.find_bounds(reach)
            while True:
                given = merge.ready()
                due = merge.due()
                asked = reader.ask(due)
                yield given
                if not due:
                    return
                await reader.fill(due, asked)
        finally:
            with anyio.CancelScope(shield=True):
                await reader.aclose()


class _Reader:
    """Reads pages.

    Args:
        connector: Makes another connection when one is lost.
        connection: The first connection.
        on_event: Receives refusals that are retried.
    """

    def __init__(
        self, connector: Connector, connection: Connection, on_event: OnEvent
    ) -> None:
        self._connector = connector
        self._connection = connection
        # Bounds the number of shards of which one request reads a page.
        self._shards = RequestSize(_SHARDS)
        self._on_event = on_event

    async def find_bounds(self, reach: ReplayRange) -> ShardMerge:
        """Find the shards, and the last id of each of them."""
        shards = reach.shards
        if shards is None:
            records = ShardRecords(
                self._connection.calls, self._on_event, search=reach.search
            )
            shards = await records.watch(reach.stream)
        ask = [commands.xrevrange_last(shard.key) for shard in shards]
        bounds = []
        for shard, reply in zip(shards, await self._connection.calls(ask), strict=True):
            if isinstance(reply, ErrorReply):
                raise self._refusal(shard, reply)
            bounds.append(_bounds(reach, EntryId.parse(reply[0][0])) if reply else None)
        return ShardMerge(shards, bounds, page=reach.page, reverse=reach.reverse)

    def ask(self, due: Sequence[ShardPages]) -> Replies | None:
        """Request pages, if there is a connection."""
        return self._request(due) if due and not self._connection.lost else None

    def _request(self, due: Sequence[ShardPages]) -> Replies:
        now = due[: self._shards.most]
        return self._connection.ask([each.span.ask() for each in now])

    async def fill(self, due: Sequence[ShardPages], asked: Replies | None) -> None:
        """Receive the pages, and request them again as often as needed."""
        while due:
            now = due[: self._shards.most]
            try:
                pages = await (asked or self._request(due))
            except ConnectionLost as error:
                self._shards.lost(len(now))
                for each in now:
                    each.span.lost()
                await self._connection.aclose()
                self._connection = await self._connector.reconnect(error.reason)
            else:
                if await self._take(now, pages):
                    self._shards.received(len(now), len(now))
                    due = due[len(now) :]
            asked = None

    async def _take(self, due: Sequence[ShardPages], pages: list[Any]) -> bool:
        for each, page in zip(due, pages, strict=True):
            if not isinstance(page, ErrorReply):
                continue
            if page.kind is not ErrorKind.TRANSIENT:
                raise self._refusal(each.shard, page)
            self._on_event(Event("read_refused", facts={"reply": page.text}))
            await self._connector.pause()
            return False
        self._connector.progress()
        for each, page in zip(due, pages, strict=True):
            each.take(page)
        return True

    def _refusal(self, shard: Shard, reply: ErrorReply) -> Exception:
        key = shard.key.decode("utf-8", "surrogateescape")
        what = f"XRANGE on {key!a:.80}"
        return refusal(self._connection.address.name, what, reply)

    async def aclose(self) -> None:
        """Close the connection; replies that are on their way are dropped."""
        await self._connection.aclose()


def _bounds(reach: ReplayRange, last: EntryId) -> tuple[EntryId, EntryId]:
    """Return the ids to read of a shard.

    Entries after its last one are not part of the replay, so that it ends.
    """
    return first_id(reach.low, last), min(last_id(reach.high, last), last)
