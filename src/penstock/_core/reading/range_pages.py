"""Range pages: the entries between two ids, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import RawEntry
from penstock.message import EntryId

__all__ = ["RangePages"]

# The most entries of the first page.
_FIRST: Final = 10
# The factor by which the next page grows, as long as entries are small.
_FASTER: Final = 4
# The same factor after a page was lost with its connection: that may be a connection
# that ends after a certain number of bytes.
_SLOWER: Final = 2
_BYTES: Final = 8 * 1024 * 1024


class RangePages:
    """The unread part of a key's range; pages are requested and recorded in turns.

    The first page has few entries, since their size is not known. A later page has a
    few megabytes at most, judged by the largest entry of the page before it. Only
    recorded pages count as read, so a page whose reply was lost is requested again,
    with half as many entries.

    Args:
        key: The key.
        low: The lowest id; None if the range is empty.
        high: The highest id.
        most: The most entries of a page.
        first: The most entries of the first page.
        reverse: Whether to begin with the highest id.
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
        # The most entries of the next page.
        self.size = min(most, first)
        self._growth = _FASTER
        # Whether the whole range has been read.
        self.done = low is None or low > high

    def ask(self) -> Command:
        """Return the command for the next page."""
        low, high = bytes(self._low), bytes(self._high)
        if self._reverse:
            return commands.xrevrange_between(self._key, high, low, self.size)
        return commands.xrange_between(self._key, low, high, self.size)

    def take(self, page: Sequence[RawEntry]) -> None:
        """Record a page: the next one begins after it."""
        if len(page) < self.size:
            self.done = True
            return
        last = EntryId.parse(page[-1][0])
        end = self._low if self._reverse else self._high
        self.done = last == end
        if self._reverse:
            self._high = last.previous()
        elif not self.done:
            # No id lies above the last possible one.
            self._low = last.next()
        largest = max(sum(map(len, fields)) for _, fields in page)
        fits = _BYTES // max(1, largest)
        self.size = max(1, min(self._most, self._growth * len(page), fits))

    def lost(self) -> None:
        """Record that the connection ended before the page's reply."""
        self.size = max(1, self.size // 2)
        self._growth = _SLOWER
