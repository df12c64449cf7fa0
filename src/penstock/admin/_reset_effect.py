"""What a reset of a group would do: what is skipped, and what is delivered again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import reduce
from typing import Final

from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply, GroupInfo, StreamInfo
from penstock._core.reading.range_pages import RangePages
from penstock._tasks.leases.pending_pages import pending_pages
from penstock._tasks.reading.positions import first_id
from penstock.admin._connection import AdminConnection, count_above
from penstock.message import EntryId, Shard
from penstock.options import Start, StartAt

__all__ = ["ResetEffect", "ResetEffects"]

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class ResetEffect:
    """What a call of `Admin.reset_group` would do, over all shards.

    Attributes:
        lag_before: The entries that are not delivered yet.
        lag_after: The entries that would not be delivered yet.
        skipped: Those of `lag_before` that would never be delivered.
        pending: The pending entries, which would all be acknowledged.
        again: Those of them that would be delivered again; the others would be lost.
    """

    lag_before: int
    lag_after: int
    skipped: int
    pending: int
    again: int

    @property
    def lost(self) -> int:
        """The entries that the group has not acknowledged and would never handle."""
        return self.skipped + self.pending - self.again


class ResetEffects:
    """Finds out what a reset would do.

    Args:
        connection: The connection.
        shards: Finds the shards of a stream.
    """

    def __init__(
        self,
        connection: AdminConnection,
        shards: Callable[[str], Awaitable[Sequence[Shard]]],
    ) -> None:
        self._connection = connection
        self._shards = shards

    async def of(self, stream: str, group: str, to: StartAt) -> ResetEffect:
        """Return what a reset would do; see `Admin.reset_effect`."""
        effects = [
            await self._of_shard(shard, group.encode(), to)
            for shard in await self._shards(stream)
        ]
        return reduce(_sum, effects)

    async def _of_shard(self, shard: Shard, group: bytes, to: StartAt) -> ResetEffect:
        info, groups = await self._connection.describe(
            shard.key, [commands.xinfo_groups(shard.key)]
        )
        for reply in (info, groups):
            if isinstance(reply, ErrorReply):
                raise self._connection.refusal(f"XINFO on {shard.stream!r}", reply)
        first = _first(to, info)
        found = next((one for one in groups if one.name == group), None)
        if found is None:
            after = await self._above(shard, info, first)
            return ResetEffect(0, after, 0, 0, 0)
        ahead = EntryId.parse(found.last_delivered).next()
        lag = await self._above(shard, info, ahead, found.lag)
        before, again = await self._pending(shard, found, first)
        return ResetEffect(
            lag_before=lag,
            lag_after=await self._above(shard, info, first),
            # Of a position behind the last entry, all is skipped.
            skipped=lag
            if first > info.last
            else await self._count(shard, ahead, first.previous()),
            pending=before + again,
            again=again,
        )

    async def _above(
        self, shard: Shard, info: StreamInfo, first: EntryId, lag: int | None = None
    ) -> int:
        """Count the entries from an id on; read them if the server has no number.

        Args:
            shard: The shard.
            info: Its description.
            first: The id.
            lag: The server's own number, if it has one.
        """
        if first > info.last:
            return 0
        known = await count_above(self._connection, info, first.previous(), lag)
        if known is not None:
            return known
        return await self._count(shard, first, info.last)

    async def _count(self, shard: Shard, low: EntryId, high: EntryId) -> int:
        span = RangePages(shard.key, low, high, most=_PAGE)
        count = 0
        while not span.done:
            [page] = await self._connection.call_checked(
                [span.ask()], f"XRANGE on {shard.stream!r}"
            )
            span.take(page)
            count += len(page)
        return count

    async def _pending(
        self, shard: Shard, group: GroupInfo, first: EntryId
    ) -> tuple[int, int]:
        """Count the pending entries before an id, and those from it on."""
        if first == EntryId.MIN or not group.pending:
            return 0, group.pending
        before = again = 0
        ask = self._connection.calls
        pages = pending_pages(ask, shard, group.name, None, _PAGE)
        async with aclosing(pages):
            async for page in pages:
                if isinstance(page, ErrorReply):
                    what = f"XPENDING on {shard.stream!r}"
                    raise self._connection.refusal(what, page)
                number = sum(EntryId.parse(each.id) >= first for each in page)
                again += number
                before += len(page) - number
        return before, again


def _first(to: StartAt, info: StreamInfo) -> EntryId:
    """Return the first id that is delivered from a position on."""
    if isinstance(to, Start):
        return info.last.next() if to is Start.LATEST else EntryId.MIN
    return first_id(to, info.last)


def _sum(one: ResetEffect, other: ResetEffect) -> ResetEffect:
    return ResetEffect(
        lag_before=one.lag_before + other.lag_before,
        lag_after=one.lag_after + other.lag_after,
        skipped=one.skipped + other.skipped,
        pending=one.pending + other.pending,
        again=one.again + other.again,
    )
