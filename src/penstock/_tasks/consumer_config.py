"""Consumer configuration: a consumer's options, checked, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from penstock._core.messages import shard_keys
from penstock._tasks.attempt_meter import AttemptMeter
from penstock._tasks.group import Membership
from penstock._tasks.ownership_config import OwnershipConfig
from penstock.codecs import Codec
from penstock.credentials import Credentials
from penstock.durations import count
from penstock.errors import ConfigurationError
from penstock.events import OnEvent
from penstock.identity import consumer_name, host_id
from penstock.middleware import Middleware
from penstock.options import AutoCommit, Mode, Prefetch, StartAt, choice
from penstock.outgoing import OnSend
from penstock.retention import Retention
from penstock.retries import DeadLetters, Retry
from penstock.sharding import DISCOVER, ShardSearch, shard_count

__all__ = [
    "ConsumerConfig",
    "auto_commit_of",
    "check_kinds",
    "check_streams",
    "dead_letter_stream_of",
    "membership",
    "mode_of",
    "retry_of",
    "searches",
    "shard_numbers",
]

T = TypeVar("T")

# The most streams that an event names.
_MAX_NAMED: Final = 10
_DEAD_LETTERS: Final = "{stream}.dead"


@dataclass(frozen=True, slots=True)
class ConsumerConfig(Generic[T]):
    """The options of a consumer, all of them checked.

    Attributes:
        credentials: Returns user and password, for each connection.
        numbers: The numbers of the shards to read of each stream; None for all shards.
        search: Whether shards are looked for by name, and not by the streams' records.
        payload_field: The name of the payload's field.
        retry: How often a failed message is attempted; None if retries are impossible.
        dead_letter_policy: What is done instead of keeping dead letters; None keeps
            them.
        dead_letters: The name of the dead-letter stream; `{stream}` in it is replaced
            by the message's stream.
        dead_letter_retention: How much of that stream is kept; None keeps everything.
        ownership: How shards are owned; None if consumers share them.
        nack_delays: Whether handlers may choose the delay of the next attempt.
        meter: Counts and times the consumer's attempts.
        on_send: Called with each message of a transaction before it is encoded.
    """

    url: str | None
    streams: Sequence[str]
    numbers: Sequence[int] | None
    search: bool
    mode: Mode
    member: Membership | None
    start: StartAt
    codec: Codec[T] | None
    payload_field: bytes
    policy: AutoCommit
    prefetch: Prefetch
    max_message_bytes: int
    max_wait: float
    commit_interval: float
    commit_max_pending: int
    commit_delay: float
    lease: float
    claim_interval: float | None
    retry: Retry | None
    dead_letter_policy: DeadLetters | None
    dead_letters: str
    dead_letter_retention: Retention | None
    middleware: Sequence[Middleware[Any]]
    open_timeout: float
    close_timeout: float
    on_event: OnEvent
    credentials: Credentials | None = field(default=None, repr=False)
    ownership: OwnershipConfig | None = None
    nack_delays: bool = True
    meter: AttemptMeter = field(default_factory=AttemptMeter)
    on_send: Sequence[OnSend] = ()

    @property
    def owner(self) -> Mapping[str, object]:
        """Which consumer this is, for the events of its connections."""
        streams = tuple(self.streams[:_MAX_NAMED])
        facts: dict[str, object] = {"client": "consumer", "streams": streams}
        if self.member is not None:
            facts |= {
                "group": self.member.group,
                "consumer": self.member.name,
            }
        return facts

    @property
    def noack(self) -> bool:
        """Whether the server treats entries as acknowledged when it delivers them."""
        return self.member is not None and self.member.noack

    @property
    def acknowledges(self) -> bool:
        """Whether entries have to be acknowledged."""
        return self.member is not None and not self.noack

    @property
    def why_no_ack(self) -> str | None:
        """Why a message cannot be acknowledged by hand; None if it can."""
        if self.member is None:
            return "a REALTIME consumer has nothing to acknowledge; " + _NO_ACK
        if self.policy in {AutoCommit.DELAYED, AutoCommit.IMMEDIATE}:
            return f"{self.policy.name} acknowledges by itself; " + _NO_ACK
        return None


_NO_ACK = "leave ack() out, or name a group and choose PROCESSED, ROLLING or DISABLED"


def check_kinds(**options: tuple[object, type]) -> None:
    """Check the types of options that are grouped in an object.

    Raises:
        ConfigurationError: An option has another type.
    """
    for option, (value, kind) in options.items():
        if not isinstance(value, kind):
            raise ConfigurationError(
                f"{option}={value!r:.60} is invalid; pass a {kind.__name__}, as in "
                f"{option}={kind.__name__}(...)"
            )


def mode_of(mode: Mode | str | None, group: str | None) -> Mode:
    """Return the mode: the given one, or the one that a group's name implies."""
    if mode is None:
        return Mode.REALTIME if group is None else Mode.LOAD_BALANCED
    return choice(Mode, mode, "mode")


def membership(
    mode: Mode, group: str | None, name: str | None, *, mkstream: bool, noack: bool
) -> Membership | None:
    """Return the membership of a group; None in REALTIME.

    Raises:
        ConfigurationError: The mode has no group, or requires one, or a name is
            invalid.
    """
    if mode is Mode.REALTIME:
        if group is not None or name is not None:
            raise ConfigurationError(
                "REALTIME reads without a group, and every consumer receives all "
                "messages; leave group= and name= out, or use LOAD_BALANCED"
            )
        return None
    if mode is Mode.RESUMABLE and group is None:
        group = f"{host_id()}:r"
    if not isinstance(group, str) or not group:
        raise ConfigurationError(
            f"group={group!r:.60} is not the name of a group; LOAD_BALANCED divides "
            f"messages among the consumers of a group: name one, as in group='billing'"
        )
    if name is not None and (not isinstance(name, str) or not name):
        raise ConfigurationError(
            f"name={name!r:.60} is not a consumer name; pass a string, or leave it out"
        )
    if name is None:
        # A resumable consumer must find its own pending entries again.
        name = group if mode is Mode.RESUMABLE else consumer_name()
    for what, text in (("group", group), ("name", name)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"{what}={text!r:.80} contains a lone surrogate, which can't be "
                f"encoded; pass another name, or fix the environment variable HOST_ID "
                f"if the name comes from it"
            ) from None
    return Membership(group, name, mkstream, noack)


def auto_commit_of(auto_commit: AutoCommit | str, mode: Mode) -> AutoCommit:
    """Return the acknowledgement policy.

    Raises:
        ConfigurationError: It is unknown, or invalid in this mode.
    """
    policy = choice(AutoCommit, auto_commit, "auto_commit")
    if mode is Mode.REALTIME and policy is not AutoCommit.PROCESSED:
        raise ConfigurationError(
            f"auto_commit={policy.value!r} needs a group: REALTIME has nothing to "
            f"acknowledge; leave it out, or name a group"
        )
    return policy


def retry_of(retry: Retry | None, mode: Mode, policy: AutoCommit) -> Retry | None:
    """Return how often a failed message is attempted; None if retries are impossible.

    Raises:
        ConfigurationError: Retries were requested where they are impossible.
    """
    by_time = policy in {AutoCommit.DELAYED, AutoCommit.IMMEDIATE}
    if mode is not Mode.REALTIME and not by_time:
        return Retry() if retry is None else retry
    if retry is not None:
        what = policy.name if by_time else mode.name
        raise ConfigurationError(
            f"retry= needs messages that are acknowledged after their handler, which "
            f"{what} does not do; leave retry= out, or name a group and choose "
            f"PROCESSED, ROLLING or DISABLED"
        )
    return None


def dead_letter_stream_of(
    dead_letters: DeadLetters | str | None, streams: Sequence[str]
) -> tuple[str, DeadLetters | None]:
    """Return the dead-letter stream, and what is done instead of keeping dead letters.

    Raises:
        ConfigurationError: The name is invalid, or that of a stream that is read.
    """
    if dead_letters is None:
        return _DEAD_LETTERS, None
    if isinstance(dead_letters, DeadLetters) or dead_letters in {"drop", "stop"}:
        return _DEAD_LETTERS, DeadLetters(dead_letters)
    shard_keys.single(dead_letters)
    for stream in streams:
        dead = dead_letters.replace("{stream}", stream)
        if dead in streams or shard_of(dead) in streams:
            raise ConfigurationError(
                f"dead_letters={dead_letters!r:.60} is a stream that this consumer "
                f"reads, so that it would receive its own dead letters again; use "
                f"another stream"
            )
    return dead_letters, None


def shard_numbers(
    shards: int | Iterable[int] | ShardSearch | str | None,
) -> Sequence[int] | None:
    """Return the numbers of the shards to read; None for all shards.

    Raises:
        ConfigurationError: A number is not that of a shard, or no number is given.
    """
    if shards is None or searches(shards):
        return None
    if isinstance(shards, int):
        return range(shard_count(shards))
    if isinstance(shards, str) or not isinstance(shards, Iterable):
        raise ConfigurationError(
            f"shards={shards!r:.60} is invalid; pass how many shards there are, or "
            f"their numbers, or DISCOVER"
        )
    numbers = sorted({count(number, "shards", least=0) for number in shards})
    if not numbers:
        raise ConfigurationError(
            "shards= names no shard; pass how many shards there are, or their "
            "numbers, or leave it out to read all of them"
        )
    return numbers


def searches(shards: object) -> bool:
    """Return whether shards are to be looked for by name."""
    return shards is DISCOVER or (isinstance(shards, str) and shards == DISCOVER.value)


def shard_of(name: str) -> str | None:
    """Return the stream of which a name would be that of a shard; None if of none."""
    stream, _, number = name.rpartition(":")
    return stream if number.isascii() and number.isdecimal() else None


def check_streams(streams: Iterable[str]) -> None:
    """Check that none of the streams is a shard of another one.

    Raises:
        ConfigurationError: The name of a stream is that of a shard of another one.
    """
    names = dict.fromkeys(streams)
    for name in names:
        stream = shard_of(name)
        if stream in names:
            raise ConfigurationError(
                f"{name!r:.80} is the name of a shard of {stream!r:.80}, which is read "
                f"as well; rename one of them, or read them in separate processes"
            )
