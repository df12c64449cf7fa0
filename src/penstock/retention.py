"""Retention: how much of a stream the server keeps; sent along with each message."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from penstock.durations import Duration, count, seconds
from penstock.errors import ConfigurationError

__all__ = ["ACKED", "KEEP_ALL", "Acked", "KeepAll", "MaxAge", "MaxLen", "Retention"]


def _flag(value: object, option: str) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(
            f"{option}={value!r:.60} is invalid; pass True, or leave it out"
        )


@dataclass(frozen=True, slots=True)
class MaxLen:
    """Keep the newest messages of each shard, up to this number.

    Older messages are deleted, whether they were handled or not.

    Attributes:
        messages: How many; 1 or more. If a stream is spread over several keys, each key
            keeps that many.
        exact: Whether to keep no more than that. Default: the server deletes only whole
            nodes of its data structure (100 messages, unless configured), so some more
            messages stay, never fewer, and it costs almost nothing.

    Raises:
        ConfigurationError: `messages` is not a whole number of at least 1, or `exact`
            not a bool.

    Example:
        >>> MaxLen(1_000_000)
        MaxLen(messages=1000000, exact=False)
    """

    messages: int
    exact: bool = False

    def __post_init__(self) -> None:
        count(self.messages, "MaxLen(messages)")
        _flag(self.exact, "MaxLen(exact)")


@dataclass(frozen=True, slots=True)
class MaxAge:
    """Keep the messages of each shard that are younger than this age.

    The next send deletes older messages, whether they were handled or not. The age of a
    message is the difference between the time in its id, which is the server's clock,
    and this process's clock, or the sent message's own time if it has one
    (`timestamp=`, `id=`). So the clocks must agree far better than the age is long: if
    this process's clock is ahead by more than the age, everything is deleted, including
    the message itself.

    Attributes:
        age: Seconds, or a timedelta; above 0.
        exact: Whether to keep nothing older. Default: as with `MaxLen`, some more
            messages stay, never fewer.

    Raises:
        ConfigurationError: `age` is not a duration above 0, or `exact` not a bool.

    Example:
        >>> from datetime import timedelta
        >>> MaxAge(timedelta(days=7))
        MaxAge(age=604800.0, exact=False)
    """

    age: Duration
    exact: bool = False

    def __post_init__(self) -> None:
        age = seconds(self.age, "MaxAge(age)", zero=False)
        object.__setattr__(self, "age", age)
        _flag(self.exact, "MaxAge(exact)")


class KeepAll(Enum):
    """The retention that deletes nothing, on purpose."""

    KEEP_ALL = "keep_all"
    """Everything is kept, whatever the retention of the producer or the outlet, and no
    `unbounded_stream` is reported. For streams that are a record, and for those that
    are trimmed by `admin.trim`."""


class Acked(Enum):
    """The messages that `admin.trim` may delete without any group missing them."""

    ACKED = "acked"
    """The messages that every group of the stream has acknowledged. This is not a
    retention: the groups have to be queried for it, which a send can't do."""


KEEP_ALL: Final = KeepAll.KEEP_ALL
ACKED: Final = Acked.ACKED

Retention: TypeAlias = MaxLen | MaxAge | KeepAll
"""How much of a stream is kept."""


def retention_of(value: object) -> Retention | None:
    """Check a retention, and return it; None is allowed too.

    Raises:
        ConfigurationError: It is neither a retention nor None.
    """
    if value is None or isinstance(value, MaxLen | MaxAge | KeepAll):
        return value
    raise ConfigurationError(
        f"retention={value!r:.60} is invalid; pass MaxLen(...), MaxAge(...) or KEEP_ALL"
    )
