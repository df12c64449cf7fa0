"""Questions that are not polled: consumers, pending messages, details of a stream."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from penstock import _clock
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ConsumerInfo, ErrorReply, PendingEntry
from penstock.admin._connection import AdminConnection
from penstock.admin._shards import ShardAdmin
from penstock.errors import CommandError, ServerError, StreamMissing
from penstock.message import EntryId, Shard
from penstock.monitor._observation import StreamSeen, age, text
from penstock.monitor._poll import in_chunks
from penstock.monitor._states import Limits, consumer_state
from penstock.monitor.model import (
    ConsumerStatus,
    PendingCount,
    PendingStatus,
    ServerStatus,
    ShardStatus,
    StreamDetails,
    StreamStatus,
)

__all__ = ["Pending", "consumers", "details", "pending", "pending_counts", "server"]

_PAGE: Final = 1000
_MOST_NAMES: Final = 10
_SAMPLES: Final = 5  # entries by which the server estimates memory
# `<host id>:<pid>:<random>`, and for owned shards `#number` behind it.
_NAME: Final = re.compile(r"(?P<host>.+):(?P<pid>[0-9]{1,10}):[^:]+")


@dataclass(slots=True)
class _Consumer:
    """A consumer over all shards: its pending entries, and when it asked last."""

    pending: int
    idle: int
    inactive: int | None
    oldest: list[EntryId]


async def consumers(
    connection: AdminConnection,
    stream: str,
    shards: Sequence[Shard],
    group: str,
    limits: Limits,
) -> list[ConsumerStatus]:
    """Return the consumers of a group; see `Collector.consumers`."""
    ask = [commands.xinfo_consumers(shard.key, group) for shard in shards]
    listed = await in_chunks(connection.calls, ask)
    found: dict[bytes, _Consumer] = {}
    holders: list[tuple[Shard, bytes]] = []
    for shard, infos in await _of_group(connection, stream, group, shards, listed):
        for info in infos:
            _add(found, info)
            if info.pending:
                holders.append((shard, info.name))
    firsts = await in_chunks(
        connection.calls,
        [_first_of(shard.key, group, name) for shard, name in holders],
    )
    for (_, name), page in zip(holders, firsts, strict=True):
        if page and not isinstance(page, ErrorReply):
            found[name].oldest.append(EntryId.parse(page[0].id))
    now = await _now(connection)
    return [
        _consumer(stream, group, text(name), one, now=now, limits=limits)
        for name, one in sorted(found.items())
    ]


def _add(found: dict[bytes, _Consumer], info: ConsumerInfo) -> None:
    """Add what is known of a consumer in one shard."""
    one = found.get(info.name)
    if one is None:
        found[info.name] = _Consumer(info.pending, info.idle, info.inactive, [])
        return
    one.pending += info.pending
    one.idle = min(one.idle, info.idle)
    if info.inactive is not None:
        one.inactive = min(info.inactive, one.inactive or info.inactive)


def _consumer(
    stream: str, group: str, name: str, one: _Consumer, *, now: int, limits: Limits
) -> ConsumerStatus:
    parts = _NAME.fullmatch(name)
    return ConsumerStatus(
        stream=stream,
        group=group,
        consumer=name,
        state=consumer_state(one.idle / 1000, limits),
        pending=one.pending,
        oldest_age_seconds=age(min(one.oldest, default=None), now),
        asked_seconds=one.idle / 1000,
        got_seconds=None if one.inactive is None else one.inactive / 1000,
        host=parts["host"] if parts else None,
        pid=int(parts["pid"]) if parts else None,
    )


class Pending(NamedTuple):
    """Which pending messages are asked for.

    Attributes:
        stream: The stream.
        group: The group.
        consumer: Whose they are; None for all.
        idle: The seconds for which they were not delivered, claimed or renewed.
    """

    stream: str
    group: str
    consumer: str | None
    idle: float

    def page(self, shard: Shard, low: bytes, count: int) -> Command:
        """Return the command that lists them from an id on."""
        return commands.xpending_between(
            shard.key,
            self.group,
            None if self.consumer is None else _bytes(self.consumer),
            low=low,
            high=b"+",
            count=count,
            idle=int(1000 * self.idle),
        )


async def pending(
    connection: AdminConnection, shards: Sequence[Shard], asked: Pending, limit: int
) -> list[PendingStatus]:
    """Return pending messages, the oldest first; see `Collector.pending`."""
    pages = await in_chunks(
        connection.calls, [asked.page(shard, b"-", limit) for shard in shards]
    )
    there = await _of_group(connection, asked.stream, asked.group, shards, pages)
    found = [
        (EntryId.parse(entry.id), shard, entry)
        for shard, page in there
        for entry in page
    ]
    found.sort(key=lambda each: (each[0], each[1].number))
    now = await _now(connection)
    return [
        PendingStatus(
            stream=asked.stream,
            group=asked.group,
            id=str(id_),
            shard=shard.number,
            age_seconds=age(id_, now),
            idle_seconds=entry.idle / 1000,
            attempts=entry.deliveries,
            consumer=text(entry.consumer),
        )
        for id_, shard, entry in found[:limit]
    ]


@dataclass(slots=True)
class _Count:
    """A number of pending entries, and the lowest id among them."""

    number: int
    oldest: EntryId


async def pending_counts(
    connection: AdminConnection, shards: Sequence[Shard], asked: Pending
) -> list[PendingCount]:
    """Count pending messages; see `Collector.pending_counts`."""
    by_consumer: dict[bytes, _Count] = {}
    by_attempts: dict[int, _Count] = {}
    async for entry in _all_pending(connection, shards, asked):
        id_ = EntryId.parse(entry.id)
        _count(by_consumer, entry.consumer, id_)
        _count(by_attempts, entry.deliveries, id_)
    now = await _now(connection)

    def row(count: _Count, consumer: str | None, attempts: int | None) -> PendingCount:
        return PendingCount(
            stream=asked.stream,
            group=asked.group,
            consumer=consumer,
            attempts=attempts,
            pending=count.number,
            oldest_id=str(count.oldest),
            oldest_age_seconds=age(count.oldest, now),
        )

    most = sorted(by_consumer.items(), key=lambda each: (-each[1].number, each[0]))
    return [
        *(row(count, text(name), None) for name, count in most),
        *(row(count, None, number) for number, count in sorted(by_attempts.items())),
    ]


def _count(counts: dict[Any, _Count], key: object, id_: EntryId) -> None:
    one = counts.get(key)
    if one is None:
        counts[key] = _Count(1, id_)
    else:
        one.number += 1
        one.oldest = min(one.oldest, id_)


async def _all_pending(
    connection: AdminConnection, shards: Sequence[Shard], asked: Pending
) -> AsyncIterator[PendingEntry]:
    exists = False
    error: ServerError | None = None
    for shard in shards:
        low = b"-"
        while True:
            [page] = await connection.calls([asked.page(shard, low, _PAGE)])
            if isinstance(page, ErrorReply):
                error = _failure(connection, asked.stream, asked.group, page)
                if error is None:
                    break
                raise error
            exists = True
            for entry in page:
                yield entry
            if len(page) < _PAGE:
                break
            low = b"(" + page[-1].id
    if not exists:
        raise await _missing(connection, asked.stream, asked.group, shards)


async def _of_group(
    connection: AdminConnection,
    stream: str,
    group: str,
    shards: Sequence[Shard],
    found: Sequence[Any],
) -> list[tuple[Shard, Any]]:
    """Return the replies of the shards that have a group.

    Raises:
        CommandError: No shard has it, or a reply is another error.
    """
    there = []
    for shard, reply in zip(shards, found, strict=True):
        if not isinstance(reply, ErrorReply):
            there.append((shard, reply))
        elif (error := _failure(connection, stream, group, reply)) is not None:
            raise error
    if not there:
        raise await _missing(connection, stream, group, shards)
    return there


def _failure(
    connection: AdminConnection, stream: str, group: str, reply: ErrorReply
) -> ServerError | None:
    """Return the error for a reply; None if a shard only lacks the group."""
    if reply.code == "NOGROUP" or "no such key" in reply.text.lower():
        return None
    return connection.refusal(f"looking at group {group!r:.80} of {stream!r}", reply)


async def _missing(
    connection: AdminConnection, stream: str, group: str, shards: Sequence[Shard]
) -> CommandError:
    """Return the error for a group that no shard has, with the groups that it has."""
    ask = [commands.xinfo_groups(shard.key) for shard in shards]
    found = [
        reply
        for reply in await in_chunks(connection.calls, ask)
        if not isinstance(reply, ErrorReply)
    ]
    if not found:
        hint = "`penstock streams` lists those that exist"
        return StreamMissing(stream, "XINFO GROUPS", hint)
    names = sorted({text(info.name) for infos in found for info in infos})
    listed = ", ".join(f"{name!a:.80}" for name in names[:_MOST_NAMES])
    hint = f"its groups are: {listed}" if names else "it has no groups"
    what = f"stream {stream!r} has no group {group!r:.80}"
    return CommandError("XINFO GROUPS", "NOGROUP", what, hint)


def _first_of(key: bytes, group: str, consumer: bytes) -> Command:
    return commands.xpending_between(key, group, consumer, low=b"-", high=b"+", count=1)


async def _now(connection: AdminConnection) -> int:
    """Return the server's time in milliseconds; by our clock if it does not tell."""
    [now] = await connection.calls([commands.time()])
    return int(1000 * _clock.wall()) if isinstance(now, ErrorReply) else int(now)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


async def details(
    connection: AdminConnection,
    shards: ShardAdmin,
    stream: StreamStatus,
    seen: StreamSeen,
) -> StreamDetails:
    """Return what else is known of a stream; see `Collector.details`."""
    record = None
    with suppress(ServerError):  # a record that this user may not read
        record = await shards.record(stream.stream)
    ask = [commands.memory_usage(one.shard.key, _SAMPLES) for one in seen.shards]
    sizes = [
        None if isinstance(reply, ErrorReply) else reply
        for reply in await in_chunks(connection.calls, ask)
    ]
    added = stream.entries_added
    return StreamDetails(
        stream=stream.stream,
        recorded_shards=None if record is None else record.number,
        sharder=None if record is None else record.sharder,
        length=stream.length,
        memory_bytes=_total(sizes),
        shards=[
            ShardStatus(
                shard=one.shard.number,
                key=text(one.shard.key),
                length=one.info.length,
                first_id=None if one.info.first is None else str(one.info.first),
                last_id=str(one.info.last),
                entries_added=one.info.added,
                memory_bytes=size,
            )
            for one, size in zip(seen.shards, sizes, strict=True)
        ],
        groups=stream.groups,
        dead_letters=stream.dead_letters,
        entries_added=added,
        entries_removed=None if added is None else added - stream.length,
    )


def _total(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


async def server(connection: AdminConnection) -> ServerStatus:
    """Return the server's version and memory; see `Collector.server`."""
    ask = [commands.info(b"server"), commands.info(b"memory")]
    facts: dict[str, str] = {}
    for reply in await connection.calls(ask):
        if isinstance(reply, bytes):
            lines = reply.decode("utf-8", "replace").split("\r\n")
            facts |= dict(line.partition(":")[::2] for line in lines)
    return ServerStatus(
        address=connection.server,
        version=_version(facts),
        used_memory_bytes=_number(facts.get("used_memory")),
        max_memory_bytes=_number(facts.get("maxmemory")) or None,
        policy=facts.get("maxmemory_policy"),
    )


def _version(facts: Mapping[str, str]) -> str | None:
    if "valkey_version" in facts:
        return f"Valkey {facts['valkey_version']}"
    version = facts.get("redis_version")
    return None if version is None else f"Redis {version}"


def _number(text_: str | None) -> int | None:
    return int(text_) if text_ is not None and text_.isdecimal() else None
