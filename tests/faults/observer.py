"""Observer of the server: it records acknowledged entries, and those that remain."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError

from faults.history import Acked, DeadLettered, Pending, Stored, digest
from faults.journal import Journal
from faults.task import parse
from penstock import EntryId
from penstock.admin import Admin
from support.server import Server

__all__ = ["Observer"]

_EVERY = 0.2


class _Shard:
    """A shard as last seen, with the entries that each group has not acknowledged.

    Attributes:
        after: The last entry that was seen.
    """

    def __init__(self) -> None:
        self.after = "-"
        self.open: defaultdict[str, set[str]] = defaultdict(set)
        self._ids: list[str] = []

    def seen(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self.after = f"({id_}"
            self._ids.append(id_)
            for group in self.open.values():
                group.add(id_)

    def watch(self, group: str) -> set[str]:
        if group not in self.open:
            self.open[group] = set(self._ids)
        return self.open[group]


class Observer:
    """Inspects the server.

    Args:
        server: The server, which is reached without a proxy.
        stream: The name of the stream.
        shards: The number of its shards.
        groups: The names of its groups.
        journal: The journal of the observer.
    """

    def __init__(
        self,
        server: Server,
        stream: str,
        shards: int,
        groups: Iterable[str],
        journal: Journal,
    ) -> None:
        self._server = server
        self._stream = stream
        self.keys = [f"{stream}:{number}" for number in range(shards)]
        self._groups = [*groups]
        self._journal = journal
        self._shards = [_Shard() for _ in self.keys]

    async def watch(self) -> None:
        """Inspect the server until cancelled."""
        client = self._server.client()
        try:
            while True:
                try:
                    await self.inspect(client)
                except (RedisError, OSError):
                    await client.connection_pool.disconnect()
                await asyncio.sleep(_EVERY)
        finally:
            await client.aclose()

    async def inspect(self, client: Any) -> None:
        """Record the entries that were acknowledged since the last call."""
        for number, (key, shard) in enumerate(
            zip(self.keys, self._shards, strict=True)
        ):
            shard.seen(id_.decode() for id_, _ in await client.xrange(key, shard.after))
            for group in self._groups:
                open_ = shard.watch(group)
                state = await _state(client, key, group)
                if state is None:
                    continue
                last, pending = state
                done = {
                    id_
                    for id_ in open_ - pending
                    if EntryId.parse(id_) <= EntryId.parse(last)
                }
                if done:
                    open_ -= done
                    facts = {"group": group, "shard": number, "ids": sorted(done)}
                    self._journal.add(Acked, **facts)

    async def waiting(self, client: Any) -> list[tuple[str, int, str]]:
        """Return group, shard and id of entries that are not acknowledged."""
        found = []
        for number, key in enumerate(self.keys):
            for group in self._groups:
                state = await _state(client, key, group)
                last, pending = state or ("0-0", set())
                unread = await client.xrange(key, f"({last}")
                ids = [*sorted(pending), *(id_.decode() for id_, _ in unread)]
                found += [(group, number, id_) for id_ in ids]
        return found

    async def conclude(self, client: Any) -> None:
        """Record the entries and dead letters that there are at the end."""
        for number, key in enumerate(self.keys):
            for id_, fields in await client.xrange(key):
                self._journal.add(
                    Stored,
                    shard=number,
                    id=id_.decode(),
                    message=parse(fields[b"msg"]).message,
                    key=fields.get(b"key", b"").decode(),
                    digest=digest(fields[b"msg"]),
                )
        for group, number, id_ in await self.waiting(client):
            self._journal.add(Pending, group=group, shard=number, id=id_)
        async with Admin(self._server.url) as admin:
            for dead_letter in await admin.dead.list(self._stream, limit=None):
                payload = dead_letter.payload or b""
                self._journal.add(
                    DeadLettered,
                    group=dead_letter.group,
                    shard=dead_letter.shard,
                    id=str(dead_letter.entry_id),
                    message=parse(payload).message,
                    digest=digest(payload),
                )


async def _state(client: Any, key: str, group: str) -> tuple[str, set[str]] | None:
    """Return a group's position and its pending ids, both of the same moment."""
    pipeline = client.pipeline(transaction=True)
    pipeline.xinfo_groups(key)
    pipeline.xpending_range(key, group, "-", "+", 100_000)
    infos, lines = await pipeline.execute(raise_on_error=False)
    if isinstance(infos, Exception) or isinstance(lines, Exception):
        return None
    for info in infos:
        if info["name"].decode() == group:
            pending = {line["message_id"].decode() for line in lines}
            return info["last-delivered-id"].decode(), pending
    return None
