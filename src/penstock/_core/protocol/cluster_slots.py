"""Cluster slots: the keys that one command may name together in a Redis Cluster.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

__all__ = ["slot"]

_SLOTS: Final = 16384


def slot(key: bytes) -> int:
    """Return a key's slot: that of the text in its first braces, or of all of it."""
    _, opening, behind = key.partition(b"{")
    tag, closing, _ = behind.partition(b"}")
    # The specification's CRC16 is the XMODEM variant.
    return crc_hqx(tag if opening and closing and tag else key, 0) % _SLOTS
