"""Options: few, grouped, frozen, and validated on construction.

Durations are seconds, as a number or a `timedelta`; they are stored as float.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

from penstock.durations import Duration, count, seconds
from penstock.errors import ConfigurationError
from penstock.message import EntryId, Shard

__all__ = [
    "DELAYED",
    "DISABLED",
    "EARLIEST",
    "IMMEDIATE",
    "LATEST",
    "LOAD_BALANCED",
    "PROCESSED",
    "REALTIME",
    "RESUMABLE",
    "ROLLING",
    "AutoCommit",
    "Batch",
    "Claim",
    "Commit",
    "Mode",
    "OnShards",
    "Ordering",
    "Owned",
    "Ownership",
    "Prefetch",
    "Start",
    "StartAt",
    "after",
]

# The default limit of one message on both sides, so that consumers accept whatever
# producers send.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

E = TypeVar("E", bound=Enum)

OnShards: TypeAlias = Callable[[tuple[Shard, ...]], Awaitable[None]]
"""An async function that is called with shards, see `Consumer(on_assigned=...)`."""


class Mode(Enum):
    """How a consumer shares streams with other consumers."""

    REALTIME = "realtime"
    """Every consumer sees all messages; the position is in this process; no acks."""
    RESUMABLE = "resumable"
    """A group of its own, which continues where it stopped; at least once. One consumer
    at a time: two that share host and defaults would read each other's pending
    messages, so give the second one another group."""
    LOAD_BALANCED = "load_balanced"
    """The consumers of a group share the messages; at least once."""


class AutoCommit(Enum):
    """Who acknowledges a message, and when."""

    PROCESSED = "processed"
    """Penstock does, once the handler has returned, or once the task that received the
    message has come back for the next one, or has left the consumer cleanly. Never when
    the task left it by an exception. At least once."""
    ROLLING = "rolling"
    """You do, with `message.ack()`. Messages that you don't acknowledge stay pending
    and are released on closing. At least once."""
    DISABLED = "disabled"
    """You do, with `message.ack()`, and acknowledgements are sent only by
    `await consumer.commit()` and on closing. Until then they are kept in memory. At
    least once."""
    DELAYED = "delayed"
    """Penstock does, `Commit.delay` after it handed out the message, processed or not,
    like Kafka's auto-commit; when the consumer is left cleanly, at once. Neither at
    least nor at most once: a crash loses messages that took longer than the delay, and
    repeats those that took less."""
    IMMEDIATE = "immediate"
    """The server does, on delivery (NOACK). At most once: a crash loses the messages
    that are queued or being handled, and leaving the consumer loses those that are
    queued."""


class Start(Enum):
    """Where a new group, or a REALTIME consumer, begins."""

    EARLIEST = "earliest"
    """With the oldest entry that the stream still has."""
    LATEST = "latest"
    """With the messages that are sent after the consumer opened."""


REALTIME: Final = Mode.REALTIME
RESUMABLE: Final = Mode.RESUMABLE
LOAD_BALANCED: Final = Mode.LOAD_BALANCED
PROCESSED: Final = AutoCommit.PROCESSED
ROLLING: Final = AutoCommit.ROLLING
DISABLED: Final = AutoCommit.DISABLED
DELAYED: Final = AutoCommit.DELAYED
IMMEDIATE: Final = AutoCommit.IMMEDIATE
EARLIEST: Final = Start.EARLIEST
LATEST: Final = Start.LATEST

StartAt: TypeAlias = Start | EntryId | datetime


def after(id: EntryId | str) -> EntryId:  # noqa: A002 - it is an id
    """Return the position right after an entry: `seek(after(message.id))`.

    Positions are inclusive: `seek(message.id)` delivers that message once more.

    Raises:
        ConfigurationError: The text is not an id, or no id can follow it.

    Example:
        >>> str(after("1678280595282-7"))
        '1678280595282-8'
    """
    if isinstance(id, str):
        id = EntryId.parse(id)  # noqa: A001
    if not isinstance(id, EntryId):
        raise ConfigurationError(
            f"after({id!r:.60}) is invalid; pass the id of an entry"
        )
    return id.next()


def place(at: StartAt | str, option: str) -> StartAt:
    """Check a position in a stream, and return it without any text.

    A moment before 1970 is the lowest id, since no entry is older. Which id another
    moment means depends on the stream.

    Raises:
        ConfigurationError: It is not a position, or a naive datetime.
    """
    match at:
        case Start() | EntryId():
            return at
        case datetime():
            if at.utcoffset() is not None and at < EntryId.MIN.timestamp:
                return EntryId.MIN
            EntryId.at(at)  # refuses a naive one
            return at
        case "earliest" | "latest":
            return Start(at)
        case str():
            return EntryId.parse(at)
    raise ConfigurationError(
        f"{option}={at!r:.60} is not a position in a stream; pass EARLIEST, LATEST, "
        f"an entry id or an aware datetime"
    )


class Ownership(Enum):
    """Whether the consumers of a group share the entries of a shard, or own shards."""

    SHARED = "shared"
    """Any consumer of the group gets the next entry of a shard."""
    OWNED = "owned"
    """Each shard is read by one consumer of the group at a time, see `Owned`."""
    AUTO = "auto"
    """Owned if each stream has several shards by its record when the consumer opens,
    and the server allows scripts; otherwise shared. It is shared, too, where owned
    shards are not possible: without a group, with `claim=` or `shards=`, and where
    messages are acknowledged before their handlers have returned."""


class Ordering(Enum):
    """Which messages `run` handles in stream order at any concurrency."""

    NONE = "none"
    """None: any free worker takes the next message."""
    KEY = "key"
    """Messages of one key (or, without a key, of one shard) run one at a time."""
    SHARD = "shard"
    """Messages of one shard run one at a time."""


def choice(kind: type[E], value: object, option: str) -> E:
    """Return the enum member that is given itself or by its value.

    Raises:
        ConfigurationError: It is neither; the error lists the valid values.
    """
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(repr(member.value) for member in kind)
        raise ConfigurationError(
            f"{option}={value!r:.60} is unknown; choose one of {names}"
        ) from None


@dataclass(frozen=True, slots=True)
class Prefetch:
    """How many messages a consumer holds, queued and being handled.

    Attributes:
        max_messages: Messages queued or being handled at most; default 2,000. The
            reader requests only as many messages as there is space for, so this also
            bounds a read. It may be exceeded by one message a shard when several shards
            are read at once, because COUNT is per stream, and by as many again when
            messages of dead consumers are claimed.
        max_bytes: Bytes of their fields at most; default 64 MiB. Sizes are known only
            after a read. So the first read requests one message of each shard, and
            later reads request no more than fits by the largest average size seen
            recently. The limit is exceeded by one message if a single one is larger
            than the space left, and by one read when sizes rise suddenly: that read
            returns as many of the large messages as small ones would have fitted,
            `max_messages` at most.
        max_wait: Seconds that a message may wait here for a handler; default 1. No
            other consumer can handle a message that waits here. So no more is
            prefetched than the handlers finish in that time at their recent rate:
            nothing if each message takes longer than that, `max_messages` if they are
            quick. A consumer begins with a few.

    Raises:
        ConfigurationError: A number is less than 1, or the duration is not above 0.
    """

    max_messages: int = 2000
    max_bytes: int = 64 * 1024 * 1024
    max_wait: Duration = 1.0

    def __post_init__(self) -> None:
        count(self.max_messages, "max_messages")
        count(self.max_bytes, "max_bytes")
        max_wait = seconds(self.max_wait, "Prefetch(max_wait)", zero=False)
        object.__setattr__(self, "max_wait", max_wait)


@dataclass(frozen=True, slots=True)
class Commit:
    """When outcomes are sent to the server.

    Attributes:
        interval: Seconds from the first outcome that waits to the write; default 0.1.
            It bounds how much is handled again after a crash. With 0, outcomes are sent
            at once.
        max_pending: The number of waiting outcomes at which they are sent without
            waiting longer; default 1,000.
        delay: Under `DELAYED`, seconds from handing out a message to acknowledging it;
            default 5. It has no meaning under the other policies.

    Raises:
        ConfigurationError: A duration is negative, or the number is less than 1.
    """

    interval: Duration = 0.1
    max_pending: int = 1000
    delay: Duration = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", seconds(self.interval, "Commit(interval)"))
        count(self.max_pending, "Commit(max_pending)")
        object.__setattr__(self, "delay", seconds(self.delay, "Commit(delay)"))


# Marks an option whose default depends on another option.
_HALF_THE_LEASE: Final[Any] = object()
_LONGEST_INTERVAL: Final = 30.0


@dataclass(frozen=True, slots=True)
class Claim:
    """When a consumer that does not answer is considered dead.

    A consumer renews the lease of the messages that it holds after a third of it, so a
    handler may take any time while its process lives.

    Attributes:
        idle: The lease in seconds; default 60. A consumer of the group that has
            capacity claims entries whose lease was not renewed for that long. On
            closing, messages that were not handled are released as if they had been
            idle that long. Use the same value for all consumers of a group.
        interval: Seconds between two searches for such entries, plus or minus a
            quarter; default half the lease, and 30 at most. Entries that are released
            on closing are found at once. None: this consumer never takes entries over,
            and reads again only what a consumer of its own name had.

    Raises:
        ConfigurationError: A duration is not above 0.
    """

    idle: Duration = 60.0
    interval: Duration | None = _HALF_THE_LEASE

    def __post_init__(self) -> None:
        idle = seconds(self.idle, "Claim(idle)", zero=False)
        interval = self.interval
        if interval is _HALF_THE_LEASE:
            interval = min(idle / 2, _LONGEST_INTERVAL)
        object.__setattr__(self, "idle", idle)
        if interval is not None:
            interval = seconds(interval, "Claim(interval)", zero=False)
        object.__setattr__(self, "interval", interval)


@dataclass(frozen=True, slots=True)
class Owned:
    """How the members of a group own the shards of their streams.

    Each shard is read by one member at a time, so that `ordering="key"` and `"shard"`
    hold across processes. All members of a group use the same lease.

    Attributes:
        lease: Seconds for which a member owns a shard without a sign of life; default
            10. If a member dies, others have its shards after that time.
        drain: Seconds for which handlers may go on when a shard is to be handed over;
            default 30. Messages whose handlers take longer are lost to this member, and
            the next owner handles them again.
        weight: The share of the shards that this member gets, relative to the other
            members; default 1.
        settle: Seconds for which a new group waits for more members before shards are
            assigned; default 0. It saves moves where many members start at once and
            load state for each shard.

    Raises:
        ConfigurationError: A duration is invalid, or the weight is less than 1.
    """

    lease: Duration = 10.0
    drain: Duration = 30.0
    weight: int = 1
    settle: Duration = 0.0

    def __post_init__(self) -> None:
        lease = seconds(self.lease, "Owned(lease)", zero=False)
        object.__setattr__(self, "lease", lease)
        object.__setattr__(self, "drain", seconds(self.drain, "Owned(drain)"))
        count(self.weight, "Owned(weight)")
        object.__setattr__(self, "settle", seconds(self.settle, "Owned(settle)"))


@dataclass(frozen=True, slots=True)
class Batch:
    """How messages are grouped for a handler of batches.

    Attributes:
        size: Messages in a batch at most; default 100. A batch never has more messages
            than `Prefetch` allows.
        linger: Seconds to wait for that many, from the first one on; default 1.

    Raises:
        ConfigurationError: The size is less than 1, or the duration is negative.
    """

    size: int = 100
    linger: Duration = 1.0

    def __post_init__(self) -> None:
        count(self.size, "Batch(size)")
        object.__setattr__(self, "linger", seconds(self.linger, "Batch(linger)"))
