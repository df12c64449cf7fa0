"""How much of a stream is kept: said with each send, done by the server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from penstock.errors import ConfigurationError
from penstock.options import Duration, count, seconds

__all__ = ["ACKED", "KEEP_ALL", "Acked", "KeepAll", "MaxAge", "MaxLen", "Retention"]


def _flag(value: object, option: str) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(
            f"{option}={value!r:.60} won't do; give True, or leave it out"
        )


@dataclass(frozen=True, slots=True)
class MaxLen:
    """Keep the newest messages of each shard, that many.

    What is older is deleted, whether it was handled or not.

    Attributes:
        messages: How many; 1 or more. Of a stream over several keys, each keeps so
            many.
        exact: Whether to keep no more than that. Default: the server deletes whole
            nodes of its own (100 messages, unless configured), so some more stay,
            never fewer, and it costs next to nothing.

    Raises:
        ConfigurationError: That is no number, or no flag.

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
    """Keep the messages of each shard that are younger than that.

    What is older is deleted by the next send, whether it was handled or not. Ages are
    counted by ids, so by the server's clock, back from this process's clock, or from
    the message's own time where it has one (`timestamp=`, `id=`). So the clocks must
    agree far better than the age is long: one that is ahead by more than the age has
    everything deleted, the message itself too.

    Attributes:
        age: Seconds, or a timedelta; above 0.
        exact: Whether to keep nothing older. Default: as with `MaxLen`, some more
            stay, never fewer.

    Raises:
        ConfigurationError: That is no duration above 0, or no flag.

    Example:
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
    """That nothing is deleted, and that this is meant."""

    KEEP_ALL = "keep_all"
    """Everything is kept, whatever the producer's or the outlet's retention; and no
    `unbounded_stream` is reported. For streams that are a record, and those that
    `admin.trim` is run for."""


class Acked(Enum):
    """What `admin.trim` may delete without anybody missing it."""

    ACKED = "acked"
    """What every group of the stream has acknowledged. No retention: it has to be
    asked of the groups, which a send can't do."""


KEEP_ALL: Final = KeepAll.KEEP_ALL
ACKED: Final = Acked.ACKED

Retention: TypeAlias = MaxLen | MaxAge | KeepAll
"""How much of a stream is kept."""


def retention_of(value: object) -> Retention | None:
    """Take a retention, or None.

    Raises:
        ConfigurationError: It is neither.
    """
    if value is None or isinstance(value, MaxLen | MaxAge | KeepAll):
        return value
    raise ConfigurationError(
        f"retention={value!r:.60} won't do; give MaxLen(...), MaxAge(...) or KEEP_ALL"
    )
