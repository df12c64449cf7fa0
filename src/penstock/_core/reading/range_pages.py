"""Reading what lies between two ids, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import RawEntry
from penstock.message import EntryId

__all__ = ["RangePages"]

# Entries of the first page.
_FIRST: Final = 10
# How many times as many entries the next page has, as long as they are small.
_FASTER: Final = 4
# The same once a page was lost with its connection, which may end after so many bytes.
_SLOWER: Final = 2
_BYTES: Final = 8 * 1024 * 1024


class RangePages:
    """What is left to read of a key; asked for and taken in turns.

    The first page has few entries, since their size is not known. A later one has some
    megabytes at most, by the largest entry of the one before it. Only what was taken
    counts as read, so that a page whose reply was lost is asked for again, with half as
    many entries.

    Args:
        key: The key.
        low: The lowest id; None where there can be none.
        high: The highest id.
        most: Entries of a page at most.
        first: Entries of the first page at most.
        reverse: Whether to begin with the highest.
    """

    def __init__(
        self,
        key: bytes,
        low: EntryId | None,
        high: EntryId,
        *,
        most: int,
        first: int = _FIRST,
        reverse: bool = False,
    ) -> None:
        self._key = key
        self._low = low or EntryId.MIN
        self._high = high
        self._reverse = reverse
        self._most = most
        # Entries that the next page has at most.
        self.size = min(most, first)
        self._growth = _FASTER
        # Whether all of it has been taken.
        self.done = low is None or low > high

    def ask(self) -> Command:
        """Word the next page."""
        low, high = bytes(self._low), bytes(self._high)
        if self._reverse:
            return commands.xrevrange_between(self._key, high, low, self.size)
        return commands.xrange_between(self._key, low, high, self.size)

    def take(self, page: Sequence[RawEntry]) -> None:
        """Go on behind a page."""
        if len(page) < self.size:
            self.done = True
            return
        last = EntryId.parse(page[-1][0])
        end = self._low if self._reverse else self._high
        self.done = last == end
        if self._reverse:
            self._high = last.previous()
        elif not self.done:
            # Above the last id that there can be is none.
            self._low = last.next()
        largest = max(sum(map(len, fields)) for _, fields in page)
        fits = _BYTES // max(1, largest)
        self.size = max(1, min(self._most, self._growth * len(page), fits))

    def lost(self) -> None:
        """Record that the connection ended before a page came."""
        self.size = max(1, self.size // 2)
        self._growth = _SLOWER
