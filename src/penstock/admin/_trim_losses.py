"""Losses by trimming: what groups have not acknowledged of the entries to delete."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from penstock._core.protocol.replies import ErrorReply, GroupInfo, RawEntry, StreamInfo
from penstock._core.reading.range_pages import RangePages
from penstock._tasks.leases.pending_pages import pending_pages
from penstock.admin._connection import AdminConnection
from penstock.message import EntryId, Shard

__all__ = ["LossCounter", "TrimLoss"]

# The number of entries, or of pending ids, that one command lists.
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class TrimLoss:
    """What a group loses if a shard is trimmed.

    Attributes:
        shard: The shard.
        group: The group's name.
        unread: Entries to be deleted that were never delivered to the group.
        pending: Entries to be deleted that were delivered and not acknowledged.
    """

    shard: Shard
    group: str
    unread: int
    pending: int


class LossCounter:
    """Counts what groups of a shard lose.

    Only what a group has not acknowledged is read from the server. So counting costs
    nothing where all groups have acknowledged what is to be deleted.

    Args:
        connection: The connection.
        shard: The shard.
        stream: The shard's description.
        groups: Its groups.
    """

    def __init__(
        self,
        connection: AdminConnection,
        shard: Shard,
        stream: StreamInfo,
        groups: Sequence[GroupInfo],
    ) -> None:
        self._connection = connection
        self._shard = shard
        self._stream = stream
        self._what = f"{shard.key.decode('utf-8', 'surrogateescape')!a:.80}"
        # Groups that have acknowledged everything lose nothing.
        self._groups = [
            group
            for group in groups
            if group.pending or EntryId.parse(group.last_delivered) < stream.last
        ]

    async def below(self, floor: EntryId) -> list[TrimLoss]:
        """Return the losses if all entries below an id are deleted."""
        first = self._stream.first
        if first is None or floor <= first:
            return []
        unread = await self._unread(first, floor)
        losses = []
        for group in self._groups:
            pending = await self._pending(group, first, floor)
            count = unread.get(group.name, 0)
            if count or pending:
                name = group.name.decode("utf-8", "surrogateescape")
                losses.append(TrimLoss(self._shard, name, count, pending))
        return losses

    async def newest(self, kept: int) -> list[TrimLoss]:
        """Return the losses if all but the newest entries are deleted."""
        if not self._groups or kept >= self._stream.length:
            return []
        return await self.below(await self._first_kept(kept))

    async def _first_kept(self, kept: int) -> EntryId:
        """Return the id of the oldest of the newest entries.

        It is searched from the end of the stream that is nearer to it.
        """
        first, last = self._stream.first or EntryId.MIN, self._stream.last
        deleted = self._stream.length - kept
        backwards = kept <= deleted
        left = kept - 1 if backwards else deleted
        pages = self._pages(first, last, reverse=backwards)
        async with aclosing(pages):
            async for page in pages:
                if left < len(page):
                    return EntryId.parse(page[left][0])
                left -= len(page)
        # Meanwhile the stream became shorter, so nothing more is to be deleted.
        return first

    async def _unread(self, first: EntryId, floor: EntryId) -> Mapping[bytes, int]:
        """Count the undelivered entries below an id, by the names of the groups."""
        delivered = {
            group.name: EntryId.parse(group.last_delivered) for group in self._groups
        }
        lowest = min(delivered.values(), default=EntryId.MAX)
        if lowest >= floor.previous():
            return {}
        counts = dict.fromkeys(delivered, 0)
        pages = self._pages(max(first, lowest.next()), floor.previous())
        async with aclosing(pages):
            async for page in pages:
                ids = [EntryId.parse(id_) for id_, _ in page]
                for name, place in delivered.items():
                    counts[name] += len(ids) - bisect_right(ids, place)
        return counts

    async def _pages(
        self, low: EntryId, high: EntryId, *, reverse: bool = False
    ) -> AsyncGenerator[list[RawEntry], None]:
        span = RangePages(self._shard.key, low, high, most=_PAGE, reverse=reverse)
        while not span.done:
            [page] = await self._connection.call_checked(
                [span.ask()], f"XRANGE on {self._what}"
            )
            span.take(page)
            yield page

    async def _pending(self, group: GroupInfo, first: EntryId, floor: EntryId) -> int:
        """Count the pending entries of a group that exist, and lie below an id."""
        count = 0
        if not group.pending:
            return count
        pages = pending_pages(
            self._connection.calls, self._shard, group.name, None, _PAGE
        )
        async with aclosing(pages):
            async for page in pages:
                if isinstance(page, ErrorReply):
                    if page.code == "NOGROUP":  # it was deleted meanwhile
                        break
                    raise self._connection.refusal(f"XPENDING on {self._what}", page)
                ids = [EntryId.parse(each.id) for each in page]
                count += sum(first <= id_ < floor for id_ in ids)
                if ids[-1] >= floor:
                    break
        return count
