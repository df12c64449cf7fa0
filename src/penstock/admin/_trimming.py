"""Trimming of streams: by length, age, id, or what every group has acknowledged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

from penstock._core.protocol import commands, scripts, trimming
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, GroupInfo, StreamInfo
from penstock._core.protocol.trimming import AcknowledgedFloor, GroupStanding
from penstock._core.reading.range_pages import RangePages
from penstock._tasks.reading.positions import first_id
from penstock.admin._connection import AdminConnection, count_above
from penstock.admin._trim_losses import LossCounter, TrimLoss
from penstock.durations import Duration, seconds
from penstock.errors import ConfigurationError, StreamMissing
from penstock.message import EntryId, Shard
from penstock.options import place
from penstock.retention import Acked, KeepAll, MaxAge, MaxLen

__all__ = ["TrimTo", "Trimmed", "Trimmer"]

TrimTo: TypeAlias = MaxLen | MaxAge | Acked | EntryId | datetime | str
"""The entries to keep, or the first entry to keep."""

# The same, checked; and what is no matter of groups.
_Bound: TypeAlias = MaxLen | MaxAge | EntryId | datetime
_Target: TypeAlias = _Bound | Acked

# The maximum number of entries that one command deletes, so that the server serves
# other clients in between.
_MAX_DELETED: Final = 100_000
# The number of entries that one command lists, to count them.
_PAGE: Final = 1000
# How often the groups are read, because one was created or rewound meanwhile.
_MAX_READS: Final = 10


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The result of trimming a shard.

    Attributes:
        shard: The shard.
        removed: The number of entries that were deleted; in a dry run, that would be.
        floor: All entries below this id are deleted. None for `MaxLen`, which has no
            such id, and if there is no group (left) to say what is acknowledged: then
            nothing was deleted.
        held_by: For `ACKED`, the group that needs the first remaining entry; None if
            every entry was acknowledged.
        ignored: For `ACKED`, the groups that were excluded because they had been idle
            for too long.
    """

    shard: Shard
    removed: int
    floor: EntryId | None = None
    held_by: GroupStanding | None = None
    ignored: tuple[str, ...] = ()


class _Snapshot(NamedTuple):
    """The description of a shard, and up to where its groups have acknowledged it."""

    stream: StreamInfo
    acknowledged: AcknowledgedFloor


class Trimmer:
    """Trims the shards of streams; `Admin.trim` documents the exceptions.

    Args:
        connection: The connection.
        shards: Finds the shards of a stream.
    """

    def __init__(
        self,
        connection: AdminConnection,
        shards: Callable[[str], Awaitable[list[Shard]]],
    ) -> None:
        self._connection = connection
        self._shards = shards

    async def trim(
        self, stream: str, to: TrimTo, ignore_idle: Duration | None, *, dry_run: bool
    ) -> list[Trimmed]:
        """Trim a stream, shard by shard.

        Args:
            stream: The stream's name.
            to: The entries to keep.
            ignore_idle: With `ACKED`, the idle time after which a group is excluded.
            dry_run: Whether only to count.
        """
        limit = _limit(to, ignore_idle)
        target = _target(to)
        shards = await self._shards(stream)
        if isinstance(target, Acked):
            return [await self._trim_acked(s, limit, dry_run=dry_run) for s in shards]
        now = await self._now(target)
        return [await self._trim_to(s, target, now, dry_run=dry_run) for s in shards]

    async def losses(
        self, stream: str, to: TrimTo, ignore_idle: Duration | None
    ) -> list[TrimLoss]:
        """Return what groups lose if a stream is trimmed.

        Args:
            stream: The stream's name.
            to: The entries to keep.
            ignore_idle: With `ACKED`, the idle time after which a group is excluded.
        """
        limit = _limit(to, ignore_idle)
        target = _target(to)
        now = await self._now(target)
        found: list[TrimLoss] = []
        for shard in await self._shards(stream):
            facts = await self._facts(shard)
            losses = LossCounter(self._connection, shard, *facts)
            if isinstance(target, Acked):
                acked = (await self._snapshot(shard, limit)).acknowledged
                # Only a group that was excluded can lose anything.
                if acked.floor is not None and acked.ignored:
                    found += await losses.below(acked.floor)
            elif isinstance(target, MaxLen):
                found += await losses.newest(target.messages)
            else:
                _, _, bound = _words(target, now, facts[0].last)
                found += await losses.below(EntryId.parse(_word(bound)))
        return found

    async def _now(self, target: _Target) -> int:
        """Return the time by the server's clock, if an age is to be subtracted."""
        if not isinstance(target, MaxAge):
            return 0
        # Ids have the server's time.
        [now] = await self._connection.call_checked([commands.time()], "TIME")
        return int(now)

    async def _trim_to(
        self, shard: Shard, target: _Bound, now: int, *, dry_run: bool
    ) -> Trimmed:
        info, _ = await self._facts(shard)
        kind, how, bound = _words(target, now, info.last)
        floor = None if kind == b"MAXLEN" else EntryId.parse(_word(bound))
        if not dry_run:
            removed = await self._cut(shard, kind, how, bound)
            return Trimmed(shard, removed, floor)
        if floor is None:
            return Trimmed(shard, max(0, info.length - int(bound)))
        return Trimmed(shard, await self._count_below(shard, info, floor), floor)

    async def _cut(self, shard: Shard, kind: Any, how: Any, bound: Any) -> int:
        """Delete piece by piece; by whole nodes first, which is cheapest."""
        removed = 0
        while True:
            words = (kind, b"~", bound, b"LIMIT", _MAX_DELETED)
            piece = await self._xtrim(shard, words)
            removed += piece
            # XTRIM stops before a node that would exceed LIMIT, so a piece may have
            # fewer entries while more are to be deleted.
            if piece <= _MAX_DELETED // 2:
                break
        if how == b"=":
            removed += await self._xtrim(shard, (kind, how, bound))
        return removed

    async def _xtrim(self, shard: Shard, words: Command) -> int:
        what = f"XTRIM of {_name(shard)}"
        [count] = await self._connection.call_checked(
            [commands.xtrim(shard.key, words)], what
        )
        return int(count)

    async def _count_below(self, shard: Shard, info: StreamInfo, floor: EntryId) -> int:
        """Count entries by reading them; no cheaper way is exact."""
        if info.first is None or floor <= info.first:
            return 0
        count = 0
        span = RangePages(shard.key, info.first, floor.previous(), most=_PAGE)
        while not span.done:
            [page] = await self._connection.call_checked(
                [span.ask()], f"XRANGE on {_name(shard)}"
            )
            span.take(page)
            count += len(page)
        return count

    # -- what every group has acknowledged ---------------------------------------------

    async def _trim_acked(
        self, shard: Shard, limit: float | None, *, dry_run: bool
    ) -> Trimmed:
        removed = 0
        for _ in range(_MAX_READS):
            stream, acked = await self._snapshot(shard, limit)
            floor = acked.floor
            if floor is None or stream.first is None or floor <= stream.first:
                break
            if dry_run:
                removed = await self._count_below(shard, stream, floor)
                break
            piece, through = await self._cut_acked(shard, floor, acked.ignored)
            removed += piece
            if through:
                break
        return Trimmed(shard, removed, acked.floor, acked.held_by, acked.ignored)

    async def _cut_acked(
        self, shard: Shard, floor: EntryId, ignored: Sequence[str]
    ) -> tuple[int, bool]:
        """Delete the entries below an id, unless a group needs one of them.

        Returns:
            How many were deleted, and whether no group needed any.
        """
        names = [name.encode("utf-8", "surrogateescape") for name in ignored]
        kind, exact, bound = trimming.trim_below(floor)
        removed = 0
        for words in (
            (kind, b"~", bound, b"LIMIT", _MAX_DELETED),
            (kind, exact, bound),
        ):
            piece = _MAX_DELETED
            while piece > _MAX_DELETED // 2:
                command = scripts.xtrim_acked(shard.key, bytes(floor), names, words)
                [reply] = await self._connection.calls([command])
                if isinstance(reply, ErrorReply):
                    # This user or server has no scripts. If the reason is another
                    # one, the plain XTRIM fails with an error that names it.
                    reply = await self._xtrim(shard, words)
                if reply < 0:
                    return removed, False
                piece = reply
                removed += piece
        return removed, True

    async def _snapshot(self, shard: Shard, limit: float | None) -> _Snapshot:
        stream, groups = await self._facts(shard)
        standings = await self._standings(shard, stream, groups, limit)
        return _Snapshot(
            stream, trimming.acknowledged_floor(standings, stream.last, limit)
        )

    async def _facts(self, shard: Shard) -> tuple[StreamInfo, list[GroupInfo]]:
        facts = await self._connection.describe(
            shard.key, [commands.xinfo_groups(shard.key)]
        )
        for reply in facts:
            if isinstance(reply, ErrorReply):
                if "no such key" in reply.text:
                    hint = "send to it first"
                    raise StreamMissing(shard.stream, "XINFO STREAM", hint)
                raise self._connection.refusal(f"XINFO STREAM on {_name(shard)}", reply)
        return facts[0], facts[1]

    async def _standings(
        self,
        shard: Shard,
        stream: StreamInfo,
        groups: Sequence[GroupInfo],
        limit: float | None,
    ) -> list[GroupStanding]:
        """Read what is pending, after what was delivered has been read.

        In the other order, an entry that is delivered in between would be in neither
        reply.
        """
        ask = [commands.time()]
        for group in groups:
            name = group.name
            ask.append(commands.xpending_summary(shard.key, name))
            ask.append(commands.xinfo_consumers(shard.key, name))
        now, *rest = await self._connection.calls(ask)
        answers = iter(rest)
        found = []
        for group, summary, consumers in zip(groups, answers, answers, strict=True):
            if _gone(summary) or _gone(consumers):
                continue
            for reply in (summary, *([now, consumers] if limit is not None else [])):
                if isinstance(reply, ErrorReply):
                    what = f"reading the groups of {_name(shard)}"
                    raise self._connection.refusal(what, reply)
            place = EntryId.parse(group.last_delivered)
            lag = await count_above(self._connection, stream, place, group.lag)
            found.append(_standing(group, summary, consumers, now, lag=lag))
        return found


def _standing(
    group: GroupInfo, summary: Any, consumers: Any, now: Any, *, lag: int | None
) -> GroupStanding:
    last = EntryId.parse(group.last_delivered)
    oldest = summary.lowest
    idle = None
    if not isinstance(consumers, ErrorReply) and not isinstance(now, ErrorReply):
        each = [consumer.idle for consumer in consumers]
        idle = trimming.group_idle(each, last, now)
    return GroupStanding(
        name=group.name.decode("utf-8", "surrogateescape"),
        last_delivered=last,
        pending=summary.number,
        oldest_pending=None if oldest is None else EntryId.parse(oldest),
        lag=lag,
        idle=idle,
    )


def _gone(reply: Any) -> bool:
    return isinstance(reply, ErrorReply) and reply.code == "NOGROUP"


def _name(shard: Shard) -> str:
    return f"{shard.key.decode('utf-8', 'surrogateescape')!a:.80}"


def _word(word: commands.Word) -> str | bytes:
    return word if isinstance(word, bytes) else str(word)


def _limit(to: object, ignore_idle: Duration | None) -> float | None:
    if ignore_idle is None:
        return None
    if not isinstance(to, Acked):
        raise ConfigurationError(
            "ignore_idle= works only with ACKED, from which it excludes groups; pass "
            "ACKED, or leave ignore_idle= out"
        )
    return seconds(ignore_idle, "ignore_idle")


def _words(target: _Bound, now: int, last: EntryId) -> Command:
    """Return the arguments that trim a stream whose last id this is."""
    if isinstance(target, EntryId | datetime):
        return trimming.trim_below(first_id(target, last))
    return trimming.trim_arguments(target, now, nanoseconds=last.counts_nanoseconds)


def _target(to: TrimTo) -> _Target:
    if isinstance(to, MaxLen | MaxAge | Acked):
        return to
    bound = to if isinstance(to, KeepAll) else place(to, "trim(to)")
    if not isinstance(bound, EntryId | datetime):
        raise ConfigurationError(
            f"trim(to={to!r:.60}) would keep or delete everything; pass MaxLen(...), "
            f"MaxAge(...), ACKED, an entry id or an aware datetime"
        )
    return bound
