"""Stream names to keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.errors import ConfigurationError
from penstock.message import Shard

__all__ = ["beside", "numbered", "several", "single"]


def single(stream: str) -> Shard:
    """Give the one shard of a stream that is one key.

    Raises:
        ConfigurationError: The name is empty, or no text.
    """
    if not isinstance(stream, str) or not stream:
        raise ConfigurationError(
            f"{stream!r:.60} is no stream name; give a text that is not empty"
        )
    try:
        return Shard(stream, 0, stream.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"stream name {stream!r:.60} has a lone surrogate in it; remove it"
        ) from None


def numbered(stream: str, number: int) -> Shard:
    """Give a shard of a stream that is spread over several keys: `stream:number`.

    Raises:
        ConfigurationError: The name is no stream's, or the number no shard's.
    """
    if type(number) is not int or number < 0:
        raise ConfigurationError(
            f"{number!r:.60} is no shard of stream {stream!r:.60}; shards are numbered "
            f"from 0"
        )
    return Shard(stream, number, single(stream).key + b":%d" % number)


def several(stream: str, numbers: Iterable[int]) -> Iterator[Shard]:
    """Give shards of a stream by numbers that are known to be whole and 0 or more."""
    key = single(stream).key
    return (Shard(stream, number, b"%b:%d" % (key, number)) for number in numbers)


def beside(key: bytes, name: bytes) -> bytes:
    """Name what belongs to a key: `key.name`, in the same slot of a cluster.

    A slot is that of the text between the first `{` and the next `}`, or of the whole
    key without any (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).
    So a key that has no such tag is made one. That can't be done with a `}` in it: such
    a name may be of another slot, and a cluster refuses both together.
    """
    _, opening, behind = key.partition(b"{")
    tagged = opening and behind.find(b"}") > 0
    return (key if tagged or b"}" in key else b"{%b}" % key) + b"." + name
