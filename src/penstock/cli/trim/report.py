"""Output of `penstock trim`, without characters that act on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from penstock.admin import GroupStanding, TrimLoss, Trimmed
from penstock.cli import _format
from penstock.cli._columns import count_column, duration_column, text_column
from penstock.cli._output import Column
from penstock.events import printable

__all__ = ["GroupLoss", "Holder", "TrimmedShard", "as_sentence", "columns", "trimmed"]


class Holder(Struct, frozen=True, kw_only=True):
    """The group that holds the first entry that was kept.

    Attributes:
        group: The group.
        needs: The first entry that it has not acknowledged.
        last_delivered: The last entry that was delivered to it.
        pending: The number of entries delivered and not acknowledged.
        lag: The number of entries not delivered; None if that is not known.
        idle_seconds: For how long the group has been idle; None if that is not known.
    """

    group: str
    needs: str
    last_delivered: str
    pending: int
    lag: int | None
    idle_seconds: float | None


class GroupLoss(Struct, frozen=True, kw_only=True):
    """What a group loses by a trim: entries that it has not acknowledged.

    Attributes:
        group: The group.
        unread: Entries that were not delivered to it.
        pending: Entries that were delivered and not acknowledged.
    """

    group: str
    unread: int
    pending: int


class TrimmedShard(Struct, frozen=True, kw_only=True):
    """A shard that was trimmed, or would be.

    Attributes:
        shard: The shard's key.
        removed: The number of entries that were deleted, or would be.
        dry_run: Whether nothing was deleted.
        floor: The first entry to keep; None if it is not known.
        held_by: The group that holds it; None if there is none.
        ignored: The groups that were left out because they are idle.
        losses: What groups lose; None if that was not counted.
    """

    shard: str
    removed: int
    dry_run: bool
    floor: str | None
    held_by: Holder | None
    ignored: list[str]
    losses: list[GroupLoss] | None


def trimmed(
    shard: Trimmed, *, dry_run: bool, losses: Sequence[TrimLoss] | None = None
) -> TrimmedShard:
    """Return the result for a shard.

    Args:
        shard: The shard.
        dry_run: Whether nothing was deleted.
        losses: What groups lose in all shards; None if that was not counted.
    """
    lost = None
    if losses is not None:
        lost = [
            GroupLoss(group=loss.group, unread=loss.unread, pending=loss.pending)
            for loss in losses
            if loss.shard == shard.shard
        ]
    return TrimmedShard(
        shard=shard.shard.key.decode("utf-8", "surrogateescape"),
        removed=shard.removed,
        dry_run=dry_run,
        floor=None if shard.floor is None else str(shard.floor),
        held_by=None if shard.held_by is None else _holder(shard.held_by),
        ignored=list(shard.ignored),
        losses=lost,
    )


def _holder(group: GroupStanding) -> Holder:
    return Holder(
        group=group.name,
        needs=str(group.needs),
        last_delivered=str(group.last_delivered),
        pending=group.pending,
        lag=group.lag,
        idle_seconds=group.idle,
    )


def columns(*, dry_run: bool) -> list[Column[TrimmedShard]]:
    """Return the columns of the table."""
    removed = "REMOVABLE" if dry_run else "REMOVED"

    def pending(row: TrimmedShard) -> int | None:
        return row.held_by.pending if row.held_by else None

    def lag(row: TrimmedShard) -> int | None:
        return row.held_by.lag if row.held_by else None

    def idle(row: TrimmedShard) -> float | None:
        return row.held_by.idle_seconds if row.held_by else None

    def group(row: TrimmedShard) -> str | None:
        return row.held_by.group if row.held_by else None

    return [
        text_column("SHARD", lambda row: row.shard),
        count_column(removed, lambda row: row.removed),
        text_column("HELD BY", group, 1),
        Column("PENDING", *_number(pending), priority=2, right=True),
        Column("LAG", *_number(lag), priority=2, right=True),
        duration_column("IDLE", idle, 3),
    ]


def _number(
    of: Callable[[TrimmedShard], int | None],
) -> tuple[Callable[[TrimmedShard], int | None], Callable[[TrimmedShard], str]]:
    return of, lambda row: _format.count(of(row)) if row.held_by else "-"


def as_sentence(loss: TrimLoss) -> str:
    """Return what a group loses, as a sentence."""
    parts = []
    if loss.unread:
        parts.append(f"{loss.unread:,} unread")
    if loss.pending:
        parts.append(f"{loss.pending:,} pending")
    one = loss.unread + loss.pending == 1
    return (
        f"{printable(loss.shard.key)}: group {_format.text(loss.group)} would lose "
        f"{' and '.join(parts)} {'entry' if one else 'entries'}"
    )
