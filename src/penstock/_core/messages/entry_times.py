"""Times of entries: when an entry was added, as far as its id says so."""

from __future__ import annotations

from typing import Final

__all__ = ["milliseconds"]

# The lowest number of an id that is a time: milliseconds of March 1973.
_FIRST_TIME: Final = 10**11
# How far ahead the time of an id may be, in milliseconds: clocks differ.
_AHEAD: Final = 86_400_000
# From here on an id counts nanoseconds, see `EntryId.counts_nanoseconds`.
_NANOSECONDS_FROM: Final = 10**17
_NANOSECONDS: Final = 1_000_000


def milliseconds(number: int, now: float) -> int | None:
    """Return the time that an id has, in milliseconds since 1970; None if it has none.

    Args:
        number: The first number of the id.
        now: The time, in milliseconds since 1970.
    """
    moment = number // _NANOSECONDS if number >= _NANOSECONDS_FROM else number
    return moment if _FIRST_TIME <= moment <= now + _AHEAD else None
