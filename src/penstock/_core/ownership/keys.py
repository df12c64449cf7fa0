"""Names of the keys and the channel of owned shards."""

from __future__ import annotations

from typing import Final

from penstock._core.messages.shard_keys import companion
from penstock.message import Shard

__all__ = ["OWN_KEY", "members_key", "news_channel", "owner_key", "target_number"]

OWN_KEY: Final = 2**32
"""The number that stands in a target for the key of the stream's own name.

A stream may have such a key beside its shards, and no shard has this number.
"""


def target_number(shard: Shard) -> int:
    """Return the number by which a target names a shard."""
    return OWN_KEY if shard.key == shard.stream.encode() else shard.number


def members_key(stream: bytes, group: str) -> bytes:
    """Return the key of a group's hash, from the stream's name without a number."""
    return companion(stream, b"members:" + group.encode())


def owner_key(shard: bytes, group: str) -> bytes:
    """Return the key of a shard's hash, in the slot of the shard's stream."""
    return companion(shard, b"owner:" + group.encode())


def news_channel(stream: bytes, group: str) -> bytes:
    """Return the channel on which members tell each other to look at the hash."""
    return b"penstock:owners:%b:%b" % (stream, group.encode())
