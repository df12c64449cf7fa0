"""The options: few, grouped, frozen, and checked when they are made.

Durations are seconds, as a number or a `timedelta`; they are kept as float.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

from penstock.errors import ConfigurationError
from penstock.message import EntryId

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
    "Duration",
    "Mode",
    "Ordering",
    "Prefetch",
    "Start",
    "StartAt",
    "after",
]

Duration: TypeAlias = float | timedelta

# One message's, on either side: what a producer sends by default a consumer reads.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

_LONGEST: Final = 100 * 365 * 86_400.0

E = TypeVar("E", bound=Enum)


class Mode(Enum):
    """How a consumer stands to others that read the same stream."""

    REALTIME = "realtime"
    """Everyone sees everything; the position lives in this process; no acks."""
    RESUMABLE = "resumable"
    """A group of its own, which goes on where it stopped; at least once. One consumer
    at a time: two that share host and defaults would read each other's pending
    messages, so give the second one a group."""
    LOAD_BALANCED = "load_balanced"
    """The consumers of a group share the messages; at least once."""


class AutoCommit(Enum):
    """Who acknowledges a message, and when."""

    PROCESSED = "processed"
    """Penstock does, once the handler returned, or the task that received the message
    came back for the next one, or left the consumer cleanly. Never when it was left by
    an exception. At least once."""
    ROLLING = "rolling"
    """You do, with `message.ack()`. What you don't ack stays pending and is given
    back on closing. At least once."""
    DISABLED = "disabled"
    """You do, with `message.ack()`, and it is sent only by `await consumer.commit()`
    and on closing. Until then it is kept in memory. At least once."""
    DELAYED = "delayed"
    """Penstock does, `Commit.delay` after it handed the message out, processed or not,
    as Kafka's auto-commit; on leaving cleanly at once. Neither at least nor at most
    once: a crash loses what took longer than the delay, and repeats what took less."""
    IMMEDIATE = "immediate"
    """The server does, when it delivers (NOACK). At most once: what is queued or being
    handled in a crash is lost, and so is what is queued when the consumer is left."""


class Start(Enum):
    """Where a new group, or a REALTIME consumer, begins."""

    EARLIEST = "earliest"
    """With the oldest entry that the stream still has."""
    LATEST = "latest"
    """With what is sent after the consumer opened."""


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


def after(id: EntryId | str) -> EntryId:  # noqa: A002 - what it is
    """Give the place right after an entry: `seek(after(message.id))`.

    Places are inclusive: `seek(message.id)` gives that message once more.

    Raises:
        ConfigurationError: The text is no id, or nothing can come after it.

    Example:
        >>> str(after("1678280595282-7"))
        '1678280595282-8'
    """
    if isinstance(id, str):
        id = EntryId.parse(id)  # noqa: A001
    if not isinstance(id, EntryId):
        raise ConfigurationError(f"after({id!r:.60}) is no place; give an entry's id")
    return id.next()


def place(at: StartAt | str, option: str) -> Start | EntryId:
    """Take a place in a stream.

    Raises:
        ConfigurationError: It is none, or a naive datetime.
    """
    match at:
        case Start() | EntryId():
            return at
        case datetime():
            return EntryId.at(at)
        case "earliest" | "latest":
            return Start(at)
        case str():
            return EntryId.parse(at)
    raise ConfigurationError(
        f"{option}={at!r:.60} is no place in a stream; give EARLIEST, LATEST, an "
        f"entry id or an aware datetime"
    )


class Ordering(Enum):
    """What `run` keeps in stream order at any concurrency."""

    NONE = "none"
    """Nothing: any free worker takes the next message."""
    KEY = "key"
    """Messages of one key (or, without a key, of one shard) run one at a time."""
    SHARD = "shard"
    """Messages of one shard run one at a time."""


def choice(kind: type[E], value: object, option: str) -> E:
    """Take an enum's member or its value.

    Raises:
        ConfigurationError: It is neither; the sentence lists what there is.
    """
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(repr(member.value) for member in kind)
        raise ConfigurationError(
            f"{option}={value!r:.60} is unknown; choose one of {names}"
        ) from None


def seconds(value: Duration, option: str, *, zero: bool = True) -> float:
    """Take a duration as seconds.

    Raises:
        ConfigurationError: It is negative, not finite, no number, or zero where
            that makes no sense.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if (
        isinstance(number, bool)
        or not isinstance(number, int | float)
        # Also false for nan; and above it, some event loops refuse.
        or not 0 <= number <= _LONGEST
        or (number == 0 and not zero)
    ):
        least = "0 or more" if zero else "more than 0"
        raise ConfigurationError(
            f"{option}={value!r:.60} is no duration; give seconds "
            f"({least}) as a number or a timedelta"
        )
    return float(number)


def count(value: int, option: str, *, least: int = 1) -> int:
    """Take a whole number.

    Raises:
        ConfigurationError: It is less than `least` or no integer.
    """
    if type(value) is not int or value < least:
        raise ConfigurationError(
            f"{option}={value!r:.60} won't do; give a whole number from {least} up"
        )
    return value


@dataclass(frozen=True, slots=True)
class Prefetch:
    """How much a consumer holds in its queue and its handlers' hands.

    Attributes:
        max_messages: Messages queued or being handled at most; default 2,000.
            The reader asks for the free room only, so this also bounds a read.
            Reading several shards at once may go over it by one a shard, because
            COUNT is per stream, and taking over from dead consumers by as many again.
        max_bytes: Bytes of their fields at most; default 64 MiB. Sizes are known
            only after a read. So the first read asks for one message of each shard, and
            later ones for no more than fits by the largest average of late. It is
            exceeded by one message where a single one is larger than what is left, and
            by one read when sizes rise suddenly: that read brings as many of the large
            messages as small ones would have fitted, `max_messages` at most.
        max_wait: Seconds that a message may wait here for a handler; default 1. What
            waits here can't be done by another consumer. So no more is read ahead than
            handlers get done in that time at the pace of late: nothing where each
            message takes longer than that, `max_messages` where they are quick. It
            begins with a few.

    Raises:
        ConfigurationError: A number is less than 1, or the duration not above 0.
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
        interval: Seconds from the first outcome that waits to the write; default
            0.1. It bounds how much is handled again after a crash. 0 sends at
            once what there is.
        max_pending: Outcomes that are sent without waiting longer; default 1,000.
        delay: Under `DELAYED`, seconds from handing a message out to acknowledging
            it; default 5. Without meaning under the other policies.

    Raises:
        ConfigurationError: A duration is negative, or the number less than 1.
    """

    interval: Duration = 0.1
    max_pending: int = 1000
    delay: Duration = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", seconds(self.interval, "Commit(interval)"))
        count(self.max_pending, "Commit(max_pending)")
        object.__setattr__(self, "delay", seconds(self.delay, "Commit(delay)"))


# Stands for the default of an option that depends on another one.
_HALF_THE_LEASE: Final[Any] = object()
_LONGEST_INTERVAL: Final = 30.0


@dataclass(frozen=True, slots=True)
class Claim:
    """When a consumer that does not answer is taken for dead.

    What a consumer has in hand it renews after a third of the lease, so a handler may
    take as long as it likes while its process lives.

    Attributes:
        idle: The lease in seconds; default 60. What nobody has asked about for that
            long is taken over by a consumer of the group that has room. On closing,
            what was not handled is given back as if it had been idle that long. Give
            all consumers of a group the same.
        interval: Seconds between two searches for such entries, give or take a
            quarter; default half the lease, and 30 at most. What is given back on
            closing is found at once.

    Raises:
        ConfigurationError: A duration is not above 0.
    """

    idle: Duration = 60.0
    interval: Duration = _HALF_THE_LEASE

    def __post_init__(self) -> None:
        idle = seconds(self.idle, "Claim(idle)", zero=False)
        interval = self.interval
        if interval is _HALF_THE_LEASE:
            interval = min(idle / 2, _LONGEST_INTERVAL)
        object.__setattr__(self, "idle", idle)
        interval = seconds(interval, "Claim(interval)", zero=False)
        object.__setattr__(self, "interval", interval)


@dataclass(frozen=True, slots=True)
class Batch:
    """How messages are put together for a handler of batches.

    Attributes:
        size: Messages in a batch at most; default 100. No more come than `Prefetch`
            lets in.
        linger: Seconds to wait for that many, from the first one on; default 1.

    Raises:
        ConfigurationError: The size is less than 1, or the duration negative.
    """

    size: int = 100
    linger: Duration = 1.0

    def __post_init__(self) -> None:
        count(self.size, "Batch(size)")
        object.__setattr__(self, "linger", seconds(self.linger, "Batch(linger)"))
