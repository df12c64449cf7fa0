"""Fencing: scripts that do nothing unless the token of a shard is the one they show."""

from __future__ import annotations

from typing import Final, NamedTuple

from penstock._core.protocol.commands import Word

__all__ = ["Fence", "fenced", "keys_of", "words_of"]


class Fence(NamedTuple):
    """What an outcome is compared with, in the same script.

    Attributes:
        key: The hash of the shard's owner, in the slot of the shard's stream.
        token: The token under which the entry was handed out.
    """

    key: bytes
    token: bytes


# The last key and the last argument are taken off first, so that what follows is the
# script of a shard that is shared, with the same keys and arguments.
_FENCE: Final = b"""
do
  local is = redis.call('HGET', table.remove(KEYS), 'token')
  if is ~= table.remove(ARGV) then return {'fenced', is or ''} end
end
"""


def fenced(script: bytes) -> bytes:
    """Return a script that does nothing if the server's token is another."""
    return _FENCE + script


def keys_of(owner: Fence | None) -> tuple[bytes, ...]:
    """Return what follows a script's own keys; nothing if the shard is shared."""
    return () if owner is None else (owner.key,)


def words_of(owner: Fence | None) -> tuple[Word, ...]:
    """Return what follows a script's own arguments."""
    return () if owner is None else (owner.token,)
