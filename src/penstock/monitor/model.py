"""The results of the collector: what `--json` prints, one object per line.

Durations are in seconds, and times are in ISO 8601. What is not known is None, never 0.
Fields are only ever added.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

__all__ = [
    "ConsumerState",
    "ConsumerStatus",
    "GroupState",
    "GroupStatus",
    "PendingCount",
    "PendingStatus",
    "Problem",
    "ServerStatus",
    "ShardStatus",
    "Snapshot",
    "StreamDetails",
    "StreamStatus",
]


class GroupState(StrEnum):
    """How a group is doing; the first that applies."""

    UNREAD = "unread"
    """There is lag, nothing was ever delivered, and there are no consumers."""
    NO_CONSUMERS = "no consumers"
    """There is lag or something is pending, and no consumer has asked for 10 s."""
    STALLED = "stalled"
    """Consumers are live, but nothing has moved for 60 s although there is work."""
    BEHIND = "behind"
    """There is lag, and it grows."""
    OK = "ok"
    """None of these, with traffic in the last 60 s."""
    IDLE = "idle"
    """None of these, without traffic."""


class ConsumerState(StrEnum):
    """How long ago a consumer has asked the server for anything."""

    LIVE = "live"
    """In the last 10 s: a consumer of Penstock's asks every 2 s while it waits."""
    SILENT = "silent"
    """Longer ago, but within the lease."""
    GONE = "gone"
    """Longer ago than the lease, so that others claim what it has pending."""


class GroupStatus(Struct, frozen=True, kw_only=True):
    """How far a group has read a stream, or one of its shards.

    Attributes:
        stream: The stream.
        group: The group.
        shard: The number of the shard; None for the sums over all shards.
        key: The shard's key; None for all shards.
        state: How the group is doing; None if one sample does not show it.
        lag: The number of messages that were not delivered yet.
        lag_exact: Whether the lag is exact. If not, it is an upper bound.
        pending: The number of messages delivered and not acknowledged.
        backlog: Lag and pending together, which autoscalers should read.
        oldest_age_seconds: The age of the oldest message that is not acknowledged,
            pending or not delivered, by the server's clock; 0 if there is none. None if
            its id is no time.
        oldest_idle_seconds: How long the oldest pending message was not delivered,
            claimed or renewed; None if none is pending.
        entries_read: The server's number of entries up to the position; None before
            Redis 7, and where the server does not know it.
        consumers: The number of consumers by name.
        live: Those that asked for anything in the last 10 s.
        silent: Those that did not, but within the lease.
        gone: The others.
        last_delivered_id: The highest id that was delivered, in any shard.
        last_delivered_age_seconds: How long ago its message was sent; None if its id is
            no time, or if nothing was delivered.
        in_per_second: The messages that were added, between the first and the last of
            the recent samples; None with one sample, or before Redis 7.
        out_per_second: The messages that were delivered.
        eta_seconds: The time until the group has caught up, at these rates; None if
            they are not known, and if it does not catch up.
    """

    stream: str
    group: str
    shard: int | None
    key: str | None
    state: GroupState | None
    lag: int
    lag_exact: bool
    pending: int
    backlog: int
    oldest_age_seconds: float | None
    oldest_idle_seconds: float | None
    entries_read: int | None
    consumers: int
    live: int
    silent: int
    gone: int
    last_delivered_id: str
    last_delivered_age_seconds: float | None
    in_per_second: float | None
    out_per_second: float | None
    eta_seconds: float | None


class StreamStatus(Struct, frozen=True, kw_only=True):
    """A stream, or one of its shards, with its groups.

    Attributes:
        stream: The stream.
        shard: The number of the shard; None for the sums over all shards.
        key: The shard's key; None for all shards.
        shards: The number of shards that exist; 1 for a stream that is one key.
        length: The number of entries.
        groups: The groups, by name.
        dead_letters: The number of dead letters in `STREAM.dead`; None if that can't be
            read, and for a single shard.
        first_id: The lowest id; None if there are no entries.
        last_id: The highest id that was ever added.
        first_age_seconds: How long ago the first entry was added; None if its id is no
            time.
        entries_added: The number of entries that were ever added; None before Redis 7.
    """

    stream: str
    shard: int | None
    key: str | None
    shards: int
    length: int
    groups: list[GroupStatus]
    dead_letters: int | None
    first_id: str | None
    last_id: str
    first_age_seconds: float | None
    entries_added: int | None


class ShardStatus(Struct, frozen=True, kw_only=True):
    """One key of a stream.

    Attributes:
        shard: The number of the shard.
        key: The key.
        length: The number of entries.
        first_id: The lowest id; None if there are no entries.
        last_id: The highest id that was ever added.
        entries_added: The number of entries that were ever added; None before Redis 7.
        memory_bytes: The server's estimate of the memory; None if this user may not ask
            for it.
    """

    shard: int
    key: str
    length: int
    first_id: str | None
    last_id: str
    entries_added: int | None
    memory_bytes: int | None


class StreamDetails(Struct, frozen=True, kw_only=True):
    """All that is known of one stream.

    Attributes:
        stream: The stream.
        recorded_shards: The number of shards by the stream's record; None without one.
        sharder: The name of the sharder by the record; None without one.
        length: The number of entries in all shards.
        memory_bytes: The memory of all shards; None if it is not known of each.
        shards: The shards that exist.
        groups: The groups, over all shards.
        dead_letters: The number of dead letters; None if that can't be read.
        entries_added: The number of entries that were ever added; None before Redis 7.
        entries_removed: Those that were trimmed or deleted; None before Redis 7.
    """

    stream: str
    recorded_shards: int | None
    sharder: str | None
    length: int
    memory_bytes: int | None
    shards: list[ShardStatus]
    groups: list[GroupStatus]
    dead_letters: int | None
    entries_added: int | None
    entries_removed: int | None


class ConsumerStatus(Struct, frozen=True, kw_only=True):
    """A consumer of a group, over all shards.

    Attributes:
        stream: The stream.
        group: The group.
        consumer: Its name.
        state: Whether it asks the server for messages.
        pending: The number of messages delivered to it and not acknowledged.
        oldest_age_seconds: The age of the oldest of them; None if there is none, or if
            its id is no time.
        asked_seconds: How long ago it asked the server for anything.
        got_seconds: How long ago it was given anything; None if it never was, and
            before Redis 7.2.
        host: The host in its name; None if the name is not one of Penstock's.
        pid: The process in its name; None likewise.
    """

    stream: str
    group: str
    consumer: str
    state: ConsumerState
    pending: int
    oldest_age_seconds: float | None
    asked_seconds: float
    got_seconds: float | None
    host: str | None
    pid: int | None


class PendingStatus(Struct, frozen=True, kw_only=True):
    """A message that was delivered and is not acknowledged.

    Attributes:
        stream: The stream.
        group: The group.
        id: The message's id.
        shard: The number of the shard.
        age_seconds: How long ago it was sent; None if its id is no time.
        idle_seconds: How long ago it was delivered, claimed or renewed.
        attempts: How often it was delivered.
        consumer: The name of the consumer that has it.
    """

    stream: str
    group: str
    id: str
    shard: int
    age_seconds: float | None
    idle_seconds: float
    attempts: int
    consumer: str


class PendingCount(Struct, frozen=True, kw_only=True):
    """A number of pending messages that have a consumer or a count of attempts.

    Attributes:
        stream: The stream.
        group: The group.
        consumer: The consumer that has them; None in a count by attempts.
        attempts: How often each was delivered; None in a count by consumer.
        pending: The number of messages.
        oldest_id: The lowest id of them.
        oldest_age_seconds: How long ago that one was sent; None if its id is no time.
    """

    stream: str
    group: str
    consumer: str | None
    attempts: int | None
    pending: int
    oldest_id: str
    oldest_age_seconds: float | None


class ServerStatus(Struct, frozen=True, kw_only=True):
    """The server.

    Attributes:
        address: Its host and port, or its socket.
        version: Its name and version, `Redis 7.0.15`; None if it does not say.
        used_memory_bytes: The memory that it uses; None if it does not say.
        max_memory_bytes: The memory that it may use; None without a limit.
        policy: What it does when that is full, `noeviction` for example.
    """

    address: str
    version: str | None
    used_memory_bytes: int | None
    max_memory_bytes: int | None
    policy: str | None


class Problem(Struct, frozen=True, kw_only=True):
    """A stream that could not be looked at.

    Attributes:
        stream: The stream.
        text: What the server said; escaped and cut.
    """

    stream: str
    text: str


class Snapshot(Struct, frozen=True, kw_only=True):
    """The result of a poll.

    Attributes:
        time: When it was made, by the server's clock.
        streams: The streams, by name.
        shards: Each of their shards; empty unless the collector is asked for them.
        problems: The streams that could not be looked at.
        missing: The streams that were named and do not exist.
    """

    time: datetime
    streams: list[StreamStatus]
    shards: list[StreamStatus]
    problems: list[Problem]
    missing: list[str]
