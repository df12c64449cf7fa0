"""Ids of stream entries: one integer each, so that they compare and hash fast."""

from __future__ import annotations

from typing import Final

from simulation.server.resp import Refusal
from simulation.server.texts import BAD_ID

__all__ = ["MAX", "SEQUENCE", "make", "parse", "parse_bound", "text"]

SEQUENCE: Final = 2**64 - 1
"""The highest sequence number, and the mask for it."""
MAX: Final = 2**128 - 1


def make(ms: int, sequence: int) -> int:
    """Return the id of a millisecond and a sequence number."""
    return ms << 64 | sequence


def text(id_: int) -> bytes:
    """Return an id as it is written: `ms-sequence`."""
    return b"%d-%d" % (id_ >> 64, id_ & SEQUENCE)


def parse(word: bytes, missing: int = 0) -> int:
    """Return the id that a word stands for.

    Args:
        word: The word.
        missing: The sequence number if the word has none.

    Raises:
        Refusal: The word is no id.
    """
    ms, dash, sequence = word.partition(b"-")
    if not ms.isdigit() or (dash and not sequence.isdigit()):
        raise Refusal(BAD_ID)
    high, low = int(ms), int(sequence) if dash else missing
    if high > SEQUENCE or low > SEQUENCE:
        raise Refusal(BAD_ID)
    return high << 64 | low


def parse_bound(word: bytes, *, upper: bool) -> int:
    """Return an end of a range: an id, `-`, `+`, or an id after `(`.

    A bound that excludes everything is below 0 or above `MAX`.
    """
    if word == b"-":
        return 0
    if word == b"+":
        return MAX
    missing = SEQUENCE if upper else 0
    if word[:1] != b"(":
        return parse(word, missing)
    if word in {b"(-", b"(+"}:
        raise Refusal(BAD_ID)
    id_ = parse(word[1:], missing)
    if upper:
        if id_ == 0:
            raise Refusal(b"ERR invalid end ID for the interval")
        return id_ - 1
    if id_ == MAX:
        raise Refusal(b"ERR invalid start ID for the interval")
    return id_ + 1
