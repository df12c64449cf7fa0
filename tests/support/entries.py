"""Entries and replies as the core gets them, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import RawEntry
from penstock.message import EntryId


def entries(*ids: str) -> list[RawEntry]:
    return [[id_.encode(), [b"msg", b""]] for id_ in ids]


def answer(stream: Sequence[EntryId], command: Command, size: int = 1) -> list[Any]:
    """Return the reply of a server with these entries to XRANGE or XREVRANGE."""
    words: tuple[Any, ...] = command
    name, _, one, other, _, count = words
    ids = sorted(stream, reverse=name == b"XREVRANGE")
    low, high = sorted(EntryId.parse(str(end, "ascii")) for end in (one, other))
    inside = [id_ for id_ in ids if low <= id_ <= high][:count]
    return [[bytes(id_), [b"msg", b"x" * size]] for id_ in inside]
