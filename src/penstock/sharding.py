"""Sharders: how a producer spreads a stream over shards.

Shard `n` of the stream `orders` is the key `orders:n`, as SeaStreamer names it. A
sharder is any callable that takes the stream's name, the message's key and the encoded
payload, and returns a shard's number.

How many shards a stream has, and which sharder chooses among them, is recorded beside
the stream, see `ShardRecord`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Protocol

from penstock import _chance
from penstock.errors import ConfigurationError

__all__ = [
    "DISCOVER",
    "MAX_SHARDS",
    "KeyHash",
    "Random",
    "RoundRobin",
    "ShardRecord",
    "ShardSearch",
    "Sharder",
    "Spread",
    "spread_of",
]

MAX_SHARDS: Final = 16_384
"""The most shards of a stream: as many as a Redis Cluster has slots."""


class ShardSearch(Enum):
    """How shards are found if not by the stream's record."""

    DISCOVER = "discover"
    """By name: the stream's own key, and the keys `name:0`, `name:1`, … that exist, up
    to 1,024 numbers above the highest one. For streams that SeaStreamer spreads, which
    have no record."""


DISCOVER: Final = ShardSearch.DISCOVER


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """How a stream is spread, as it is recorded beside the stream.

    Attributes:
        number: The number of shards. None for a sharder that does not tell it: then
            consumers look for the shards by name, see `DISCOVER`.
        sharder: The name of the sharder, `KeyHash` for example; empty if it is not
            known, and then any sharder is accepted.
        changed_ms: When the record was written, by the clock of who wrote it, in
            milliseconds since 1970.
    """

    number: int | None
    sharder: str
    changed_ms: int

    @property
    def changed(self) -> datetime:
        """When the record was written, by the clock of who wrote it; in UTC."""
        return datetime.fromtimestamp(self.changed_ms / 1000, UTC)


# The most streams whose next shard is remembered.
_MOST_STREAMS: Final = 4096


class Sharder(Protocol):
    """Chooses a message's shard."""

    def __call__(self, stream: str, key: str | None, payload: bytes, /) -> int:
        """Return the shard's number, 0 or more."""


class _Counted:
    """The base of the sharders: it holds the number of shards.

    Args:
        shards: The number of shards; a whole number from 1 up. A producer takes 16,384
            at most.

    Raises:
        ConfigurationError: `shards` is not such a number.
    """

    def __init__(self, shards: int) -> None:
        if type(shards) is not int or shards < 1:
            raise ConfigurationError(
                f"shards={shards!r:.60} is invalid; pass a whole number of at least 1"
            )
        self.shards = shards

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shards})"


class RoundRobin(_Counted):
    """Each shard in turn, separately for each stream: 0, 1, … n-1, 0, …."""

    def __init__(self, shards: int) -> None:
        super().__init__(shards)
        self._next: dict[str, int] = {}
        self._first = 0

    def __call__(self, stream: str, key: str | None, payload: bytes, /) -> int:
        """Return the next shard; key and payload are ignored."""
        number = self._next.get(stream, self._first)
        if len(self._next) >= _MOST_STREAMS and stream not in self._next:
            # The streams begin with another shard than before: otherwise none of very
            # many streams would ever get beyond its first shards.
            self._next.clear()
            self._first = (self._first + 1) % self.shards
        self._next[stream] = (number + 1) % self.shards
        return number


class KeyHash(RoundRobin):
    """Messages of one key go to one shard; those without a key are distributed in turn.

    The shard is the CRC-32 (the one of zlib, gzip and PNG: polynomial 0x04C11DB7,
    reflected) of the key's UTF-8 bytes, modulo the number of shards. It is the same in
    every process, version and language; changing the number of shards moves keys.

    Example:
        >>> KeyHash(4)("orders", "customer-7", b"")
        0
    """

    def __call__(self, stream: str, key: str | None, payload: bytes, /) -> int:
        """Return the key's shard; without a key, the next shard in turn."""
        if key is None:
            return super().__call__(stream, key, payload)
        return zlib.crc32(key.encode("utf-8", "surrogateescape")) % self.shards


class Random(_Counted):
    """A random shard, all with equal probability."""

    def __call__(self, stream: str, key: str | None, payload: bytes, /) -> int:
        """Return a random shard; the message is ignored."""
        return _chance.below(self.shards)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a producer spreads each of its streams.

    Attributes:
        sharder: Chooses the shard of a message.
        number: The number of shards; None if the sharder does not tell it.
        name: The name of the sharder.
    """

    sharder: Sharder
    number: int | None
    name: str

    def choose(self, stream: str, key: str | None, payload: bytes) -> int:
        """Return the number of a message's shard.

        Raises:
            ConfigurationError: The sharder has raised an exception, or has returned no
                shard of the stream.
        """
        try:
            number = self.sharder(stream, key, payload)
        except ConfigurationError:
            raise
        except Exception as error:
            # The exception's own text may quote the key or the payload.
            raise ConfigurationError(
                f"the sharder raised {type(error).__name__} for a message of stream "
                f"{stream!r:.80}; fix it"
            ) from error
        most = MAX_SHARDS if self.number is None else self.number
        if isinstance(number, int) and number >= most:
            raise ConfigurationError(
                f"{self.name:.80} returned {number}, which is not a shard of stream "
                f"{stream!r:.80}; it has the shards 0 to {most - 1}"
            )
        return number


def shard_count(number: object) -> int:
    """Check a number of shards.

    Raises:
        ConfigurationError: It is not a whole number from 1 to 16,384.
    """
    if type(number) is not int or not 1 <= number <= MAX_SHARDS:
        raise ConfigurationError(
            f"shards={number!r:.60} is invalid; pass a whole number from 1 to "
            f"{MAX_SHARDS:,}"
        )
    return number


def spread_of(shards: int | Sharder | None, sharder: Sharder | None) -> Spread | None:
    """Return how a producer spreads streams, by its options; None for one key each.

    Raises:
        ConfigurationError: The options are invalid, or contradict each other.
    """
    number: int | None = None
    if callable(shards):
        if sharder is not None:
            raise ConfigurationError(
                "two sharders, in shards= and sharder=, exclude each other; leave one "
                "of them out"
            )
        sharder = shards
    elif shards is not None:
        number = shard_count(shards)
    if sharder is None:
        sharder = None if number is None else KeyHash(number)
    elif not callable(sharder):
        raise ConfigurationError(
            f"sharder={sharder!r:.60} is not callable; pass RoundRobin(n), Random(n), "
            f"KeyHash(n) or a function of stream, key and payload"
        )
    elif (own := getattr(sharder, "shards", None)) is not None:
        if number is not None:
            raise ConfigurationError(
                "shards= and a sharder that has a number of its own exclude each "
                "other; leave shards= out"
            )
        number = shard_count(own)
    return None if sharder is None else Spread(sharder, number, sharder_name(sharder))


def sharder_name(sharder: Any) -> str:
    """Return the name by which a sharder is recorded: of its function or class."""
    function = getattr(sharder, "func", sharder)  # of a functools.partial
    named = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(named)
