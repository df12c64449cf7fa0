"""What the replies of a poll say about the groups and the shards of streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock._core.messages import entry_times
from penstock._core.protocol.replies import ConsumerInfo, GroupInfo, StreamInfo
from penstock.message import EntryId, Shard
from penstock.monitor._lag import Lag

__all__ = ["GroupSeen", "ShardSeen", "StreamSeen", "age", "milliseconds", "text"]


@dataclass(slots=True)
class GroupSeen:
    """A group in one shard.

    Attributes:
        info: Its description.
        lag: Its lag.
        oldest: The lowest id that is pending, or else not delivered; None if there is
            none, or if it is not known.
        idle: The milliseconds since that pending entry was delivered, claimed or
            renewed; None if nothing is pending.
        consumers: Its consumers.
    """

    info: GroupInfo
    lag: Lag
    oldest: EntryId | None = None
    idle: int | None = None
    consumers: Sequence[ConsumerInfo] = ()

    @property
    def has_work(self) -> bool:
        """Whether anything is not acknowledged."""
        return bool(self.lag.number or self.info.pending)


@dataclass(slots=True)
class ShardSeen:
    """One key of a stream.

    Attributes:
        shard: The shard.
        info: Its description.
        groups: Its groups, by name.
    """

    shard: Shard
    info: StreamInfo
    groups: dict[bytes, GroupSeen] = field(default_factory=dict)


@dataclass(slots=True)
class StreamSeen:
    """A stream.

    Attributes:
        stream: Its name.
        shards: Its shards that exist.
        dead_letters: The number of its dead letters; None if that can't be read.
    """

    stream: str
    shards: list[ShardSeen] = field(default_factory=list)
    dead_letters: int | None = None


def milliseconds(id_: EntryId | None, now: int) -> int | None:
    """Return the time that an id has, in milliseconds since 1970; None if it has none.

    Args:
        id_: The id.
        now: The server's time, in milliseconds since 1970.
    """
    return None if id_ is None else entry_times.milliseconds(id_.ms, now)


def age(id_: EntryId | None, now: int) -> float | None:
    """Return the seconds since an id's time; None if it has none."""
    moment = milliseconds(id_, now)
    return None if moment is None else max(now - moment, 0) / 1000


def text(name: bytes) -> str:
    """Return a name of a key, a group or a consumer; bytes that are no text survive."""
    return name.decode("utf-8", "surrogateescape")
