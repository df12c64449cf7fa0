"""Shard keys: the Redis keys for stream names and shard numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.errors import ConfigurationError
from penstock.message import Shard

__all__ = ["companion", "numbered", "several", "single"]


def single(stream: str) -> Shard:
    """Return the only shard of a stream that has a single key.

    Raises:
        ConfigurationError: The name is empty, or not text.
    """
    if not isinstance(stream, str) or not stream:
        raise ConfigurationError(
            f"{stream!r:.60} is not a stream name; pass a string that is not empty"
        )
    try:
        return Shard(stream, 0, stream.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"stream name {stream!r:.60} contains a lone surrogate, which can't be "
            f"encoded; remove it"
        ) from None


def numbered(stream: str, number: int) -> Shard:
    """Return a shard of a stream that is spread over several keys: `stream:number`.

    Raises:
        ConfigurationError: The name is not a valid stream name, or the number not a
            valid shard number.
    """
    if type(number) is not int or number < 0:
        raise ConfigurationError(
            f"{number!r:.60} is not a shard of stream {stream!r:.60}; shards are "
            f"numbered from 0"
        )
    return Shard(stream, number, single(stream).key + b":%d" % number)


def several(stream: str, numbers: Iterable[int]) -> Iterator[Shard]:
    """Return shards of a stream by numbers that are known to be valid."""
    key = single(stream).key
    return (Shard(stream, number, b"%b:%d" % (key, number)) for number in numbers)


def companion(key: bytes, name: bytes) -> bytes:
    """Return the name of a key that belongs to another: `key.name`, in the same slot.

    The slot of a key is that of the text between its first `{` and the next `}`, or of
    the whole key if it has no such tag
    (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).
    So a key without such a tag is made into one. That is not possible for a key with a
    `}` in it: the returned name may then belong to another slot, and a cluster refuses
    commands with both keys.
    """
    _, opening, behind = key.partition(b"{")
    tagged = opening and behind.find(b"}") > 0
    return (key if tagged or b"}" in key else b"{%b}" % key) + b"." + name
