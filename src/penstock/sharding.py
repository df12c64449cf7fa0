"""Sharders: how a producer spreads a stream over shards.

Shard `n` of the stream `orders` is the key `orders:n`, as SeaStreamer names it. A
sharder is any callable that takes the stream's name, the message's key and the encoded
payload, and returns a shard's number.
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from penstock import _chance
from penstock.errors import ConfigurationError

__all__ = ["KeyHash", "Random", "RoundRobin", "Sharder"]

# The most streams whose next shard is remembered.
_MOST_STREAMS: Final = 4096


class Sharder(Protocol):
    """Chooses a message's shard."""

    def __call__(self, stream: str, key: str | None, payload: bytes, /) -> int:
        """Return the shard's number, 0 or more."""


class _Counted:
    """The base of the sharders: it holds the number of shards.

    Args:
        shards: The number of shards; a whole number from 1 up.

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
