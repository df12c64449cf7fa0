"""Reading what is in a stream, all its shards in the order of their ids.

Every shard is read page by page. What is certainly next can be given as soon as of
every shard that has more a page is there: that is all up to the lowest of the pages'
last ids. So what waits here is bounded by the pages, one or two of each shard.
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
    """One shard of a history.

    Attributes:
        shard: The shard.
        span: What is left to be read of it.
        waiting: Entries that have been read and not given, in the order of giving.
    """

    __slots__ = ("shard", "span", "waiting")

    def __init__(self, shard: Shard, span: RangePages) -> None:
        self.shard = shard
        self.span = span
        self.waiting: list[RawEntry] = []

    @property
    def idle_workers(self) -> bool:
        """Whether to read the next page: little of the last one is left."""
        return not self.span.done and 2 * len(self.waiting) <= self.span.size

    def take(self, page: Sequence[RawEntry]) -> None:
        """Take in the page that was asked for."""
        self.span.take(page)
        self.waiting += page

    def give(self, end: int | None = None) -> list[RawEntry]:
        """Give so many of the entries that wait; by default all."""
        given = self.waiting[:end]
        del self.waiting[:end]
        return given


class ShardMerge:
    """What is left of the shards of a stream.

    Args:
        shards: The shards; of entries of one id the first one's comes first.
        bounds: The lowest and the highest id of each; None where there is nothing.
        page: Entries that are asked for at once at most, of all shards together; one of
            each at least.
        reverse: Whether the highest id comes first, and all else the other way round.
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
        self._pages = [
            ShardPages(
                shard,
                RangePages(shard.key, *bound, most=most, first=1, reverse=reverse),
            )
            for shard, bound in zip(shards, bounds, strict=True)
            if bound is not None
        ]
        # Everything mirrored, so that the lowest is next either way.
        self._sign = 1
        if reverse:
            self._sign = -1
            self._pages.reverse()

    def due(self) -> list[ShardPages]:
        """List those of which the next page is to be read."""
        return [strand for strand in self._pages if strand.idle_workers]

    def ready(self) -> Iterable[tuple[Shard, RawEntry]]:
        """Give what comes next, as far as that is known."""
        if len(self._pages) == 1:
            [strand] = self._pages
            return zip(repeat(strand.shard), strand.give())
        known = min(map(self._known, self._pages), default=inf)
        given: list[tuple[int, Shard, RawEntry]] = []
        for strand in self._pages:
            places = list(map(self._place, strand.waiting))
            shards = repeat(strand.shard)
            given += zip(
                places, shards, strand.give(bisect_right(places, known)), strict=False
            )
        # Of one id, the first strand's stays the first.
        given.sort(key=_FIRST)
        return map(_REST, given)

    def _known(self, strand: ShardPages) -> float:
        """Give the place up to which all of a strand is here."""
        if strand.span.done:
            return inf
        return self._place(strand.waiting[-1]) if strand.waiting else -inf

    def _place(self, entry: RawEntry) -> int:
        ms, _, seq = entry[0].partition(b"-")
        return self._sign * ((int(ms) << 64) + int(seq))
