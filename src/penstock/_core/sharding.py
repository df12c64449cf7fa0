"""Stream names to keys."""

from __future__ import annotations

from penstock.errors import ConfigurationError
from penstock.message import Shard

__all__ = ["numbered", "single"]


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
