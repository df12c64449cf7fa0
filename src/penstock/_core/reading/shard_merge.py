"""Shard merge: the entries of all shards of a stream, in the order of their ids.

Every shard is read page by page. Entries can be returned once a page of every
unfinished shard is here: all entries up to the lowest of the pages' last ids. So the
number of entries that wait here is bounded by the pages, one or two for each shard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import repeat
from math import inf
from operator import itemgetter
from typing import Final

from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.range_pages import RangePages
from penstock.message import EntryId, Shard

__all__ = ["ShardMerge", "ShardPages"]

_FIRST: Final = itemgetter(0)
_REST: Final = itemgetter(1, 2)


class ShardPages:
    """One shard of a merge.

    Attributes:
        shard: The shard.
        span: The unread part of the shard.
        waiting: Entries that have been read and not returned yet, in their order.
    """

    __slots__ = ("shard", "span", "waiting")

    def __init__(self, shard: Shard, span: RangePages) -> None:
        self.shard = shard
        self.span = span
        self.waiting: list[RawEntry] = []

    @property
    def needs_page(self) -> bool:
        """Whether to read the next page, because little of the last one is left."""
        return not self.span.done and 2 * len(self.waiting) <= self.span.size

    def take(self, page: Sequence[RawEntry]) -> None:
        """Record the requested page."""
        self.span.take(page)
        self.waiting += page

    def pop(self, end: int | None = None) -> list[RawEntry]:
        """Remove and return so many of the waiting entries; by default all of them."""
        popped = self.waiting[:end]
        del self.waiting[:end]
        return popped


class ShardMerge:
    """The unread part of a stream's shards.

    Args:
        shards: The shards. Of entries with the same id, that of the first shard comes
            first.
        bounds: The lowest and the highest id of each shard; None if the shard is empty.
        page: The most entries that are requested at once, from all shards together; at
            least one is requested from each shard.
        reverse: Whether the highest id comes first. Then the order of the shards is
            reversed too.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        bounds: Sequence[tuple[EntryId, EntryId] | None],
        *,
        page: int,
        reverse: bool,
    ) -> None:
        most = max(1, page // max(1, len(shards)))
        self._shards = [
            ShardPages(
                shard,
                RangePages(shard.key, *bound, most=most, first=1, reverse=reverse),
            )
            for shard, bound in zip(shards, bounds, strict=True)
            if bound is not None
        ]
        # In reverse the places of the entries are negated, so that the lowest place is
        # next in either direction.
        self._sign = 1
        if reverse:
            self._sign = -1
            self._shards.reverse()

    def due(self) -> list[ShardPages]:
        """Return the shards whose next page is to be read."""
        return [pages for pages in self._shards if pages.needs_page]

    def ready(self) -> Iterable[tuple[Shard, RawEntry]]:
        """Remove and return the next entries, as far as their order is certain."""
        if len(self._shards) == 1:
            [pages] = self._shards
            return zip(repeat(pages.shard), pages.pop())
        read_up_to = min(map(self._read_up_to, self._shards), default=inf)
        popped: list[tuple[int, Shard, RawEntry]] = []
        for pages in self._shards:
            places = list(map(self._place, pages.waiting))
            shards = repeat(pages.shard)
            popped += zip(
                places,
                shards,
                pages.pop(bisect_right(places, read_up_to)),
                strict=False,
            )
        # The sort is stable: of entries with the same id, that of the first shard stays
        # first.
        popped.sort(key=_FIRST)
        return map(_REST, popped)

    def _read_up_to(self, pages: ShardPages) -> float:
        """Return the place up to which all entries of a shard have been read."""
        if pages.span.done:
            return inf
        return self._place(pages.waiting[-1]) if pages.waiting else -inf

    def _place(self, entry: RawEntry) -> int:
        ms, _, seq = entry[0].partition(b"-")
        return self._sign * ((int(ms) << 64) + int(seq))
