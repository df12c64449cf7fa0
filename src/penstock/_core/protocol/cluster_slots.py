"""Which keys a cluster keeps together, and so names in one command.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

__all__ = ["slot"]

_SLOTS: Final = 16384


def slot(key: bytes) -> int:
    """Give a key's slot: that of what stands in its first braces, or of all of it."""
    _, opening, behind = key.partition(b"{")
    tag, closing, _ = behind.partition(b"}")
    # The CRC16 of the specification is the XMODEM one.
    return crc_hqx(tag if opening and closing and tag else key, 0) % _SLOTS
