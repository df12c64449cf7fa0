"""Names of the keys and the channel of owned shards."""

from __future__ import annotations

from penstock._core.messages.shard_keys import companion

__all__ = ["members_key", "news_channel", "owner_key"]


def members_key(stream: bytes, group: str) -> bytes:
    """Return the key of a group's hash, from the stream's name without a number."""
    return companion(stream, b"members:" + group.encode())


def owner_key(shard: bytes, group: str) -> bytes:
    """Return the key of a shard's hash, in the slot of the shard's stream."""
    return companion(shard, b"owner:" + group.encode())


def news_channel(stream: bytes, group: str) -> bytes:
    """Return the channel on which members tell each other to look at the hash."""
    return b"penstock:owners:%b:%b" % (stream, group.encode())
