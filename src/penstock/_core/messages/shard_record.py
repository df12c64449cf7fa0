"""Shard record: how many shards a stream has, as JSON in a key beside the stream.

The record of `orders` is the string `{orders}.shards`, in the slot of the stream's own
key. It is one string, so that one command creates it if it is missing (`SET … NX`) and
another reads it, and no script is needed.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from penstock._core.messages import shard_keys
from penstock.errors import ShardsDiffer
from penstock.message import Shard
from penstock.sharding import MAX_SHARDS, ShardRecord

__all__ = ["difference", "dump", "key", "load", "shards"]


# The end of the year 9999, in milliseconds; a `datetime` reaches no further.
_LATEST: Final = 253_402_300_799_999


class _Stored(msgspec.Struct):
    """The record as it is stored; unknown fields are ignored."""

    shards: Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARDS)] | None
    sharder: str
    changed: Annotated[int, msgspec.Meta(ge=0, le=_LATEST)]


_decode = msgspec.json.Decoder(_Stored).decode


def key(stream: str) -> bytes:
    """Return the key of a stream's record.

    Raises:
        ConfigurationError: The name is not a stream name.
    """
    return shard_keys.companion(shard_keys.single(stream).key, b"shards")


def dump(number: int | None, sharder: str, now: float) -> bytes:
    """Return a record as it is stored.

    Args:
        number: The number of shards; None if the sharder does not tell it.
        sharder: The name of the sharder; empty if it is not known.
        now: The time, in seconds since 1970.
    """
    return msgspec.json.encode(_Stored(number, sharder, int(now * 1000)))


def load(stored: bytes | None) -> ShardRecord | None:
    """Return a stored record; None if there is none.

    Raises:
        ValueError: It is not a record.
    """
    if stored is None:
        return None
    record = _decode(stored)
    return ShardRecord(record.shards, record.sharder, record.changed)


def shards(stream: str, number: int) -> list[Shard]:
    """Return the shards of a stream that has so many of them."""
    return list(shard_keys.several(stream, range(number)))


def difference(
    stream: str, record: ShardRecord, number: int | None, sharder: str
) -> ShardsDiffer | None:
    """Return the error for a producer that spreads a stream in another way; or None.

    Args:
        stream: The stream's name.
        record: The stream's record.
        number: The producer's number of shards; None if its sharder does not tell it.
        sharder: The name of the producer's sharder.
    """
    same_sharder = not record.sharder or record.sharder == sharder
    if same_sharder and record.number in {None, number}:
        return None
    return ShardsDiffer(
        stream,
        number=number,
        sharder=sharder,
        recorded_number=record.number,
        recorded_sharder=record.sharder,
    )
