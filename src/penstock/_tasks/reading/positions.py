"""Positions: the ids that a place in a stream means.

A moment means an id only together with the stream: most ids count milliseconds, and
those of some streams of other programs count nanoseconds. Ids never decrease, so the
last id tells which of the two the stream has now.
"""

from __future__ import annotations

from datetime import datetime

from penstock.message import EntryId
from penstock.options import Start, StartAt

__all__ = ["exclusive_start", "first_id", "last_id"]

# A `datetime` is exact to the microsecond.
_WITHIN_MOMENT = 999


def first_id(place: EntryId | datetime, last: EntryId) -> EntryId:
    """Return the lowest id that is not before a place.

    Args:
        place: An id, or a moment.
        last: The last id of the stream; `0-0` for a stream that has no entries.
    """
    if isinstance(place, EntryId):
        return place
    return EntryId.at(place, nanoseconds=last.counts_nanoseconds)


def last_id(place: EntryId | datetime, last: EntryId) -> EntryId:
    """Return the highest id that is not after a place; see `first_id`."""
    if isinstance(place, EntryId):
        return place
    within = _WITHIN_MOMENT if last.counts_nanoseconds else 0
    number = first_id(place, last).ms + within
    return EntryId(min(number, EntryId.MAX.ms), EntryId.MAX.seq)


def exclusive_start(place: StartAt, last: EntryId) -> bytes:
    """Return the id after which to read, so that reading begins at a place."""
    if isinstance(place, Start):
        return b"$" if place is Start.LATEST else b"0-0"
    return bytes(first_id(place, last).previous())
