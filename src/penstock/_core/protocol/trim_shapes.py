"""The shapes of stream ids and of the arguments by which XADD and XTRIM trim."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["entry_id", "new_entry_id", "trim_words"]

_ID: Final = re.compile(rb"([0-9]{1,20})(?:-([0-9]{1,20}))?")
# What later versions of the server accept besides.
_LATER: Final = frozenset((b"KEEPREF", b"DELREF", b"ACKED", b"IDMP", b"IDMPAUTO"))


def entry_id(word: bytes) -> bool:
    """Return whether a word is the id of an entry."""
    found = _ID.fullmatch(word)
    return found is not None and all(int(part or 0) < 2**64 for part in found.groups())


def new_entry_id(word: bytes) -> bool:
    """Return whether a new entry may have this id in an empty stream."""
    if word == b"*":
        return True
    if word.endswith(b"-*"):
        return b"-" not in word[:-2] and entry_id(word[:-2])
    return entry_id(word) and any(word.strip(b"-0"))


def trim_words(words: Sequence[bytes]) -> tuple[int, bool] | None:
    """Read what the next words of a command say of trimming.

    Returns:
        How many words that are, and whether a word of a later version follows them,
        so that nothing is known of the rest. None if the server would refuse them.
    """
    upper = [word.upper() for word in words[:6]]
    at = 0
    if upper[:1] in ([b"MAXLEN"], [b"MINID"]):
        about = upper[1:2] == [b"~"]
        at = 2 if about or upper[1:2] == [b"="] else 1
        fits = entry_id if upper[0] == b"MINID" else _count
        if len(upper) == at or not fits(words[at]):
            return None
        at += 1
        if upper[at : at + 1] == [b"LIMIT"]:
            if not about or len(upper) == at + 1 or not _count(words[at + 1]):
                return None
            at += 2
    return at, len(upper) > at and upper[at] in _LATER


def _count(word: bytes) -> bool:
    return re.fullmatch(rb"0|[1-9][0-9]{0,18}", word) is not None and int(word) < 2**63
