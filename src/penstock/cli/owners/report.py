"""Output of `penstock owners`, without characters that act on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from penstock.admin import GroupMember, OwnedShard, ShardMove
from penstock.cli import _format
from penstock.cli._columns import count_column, duration_column, text_column
from penstock.cli._output import Column

__all__ = [
    "MEMBERS",
    "SHARDS",
    "ChangedTarget",
    "MemberRow",
    "MovedShard",
    "OwnedRow",
    "member_row",
    "moved",
    "owned_row",
    "sentences",
]


class OwnedRow(Struct, frozen=True, kw_only=True):
    """A shard of a group whose members own shards.

    Attributes:
        shard: The number of the shard.
        key: Its key.
        epoch: The number of the last ownership; 0 if nobody has owned it yet.
        owner: The member that owns it; None if it is free.
        target: The member that should own it; None if nobody should.
        lease_left_seconds: The time until the owner's lease ends, negative if it has;
            None if the shard is free.
        lapsed: Whether there is an owner whose lease has ended.
        pending: The number of entries delivered and not acknowledged.
    """

    shard: int
    key: str
    epoch: int
    owner: str | None
    target: str | None
    lease_left_seconds: float | None
    lapsed: bool
    pending: int


class MemberRow(Struct, frozen=True, kw_only=True):
    """A member of such a group.

    Attributes:
        member: Its name.
        beat_age_seconds: The time since its last beat.
        weight: Its weight.
        owned: The number of shards that it owns.
        assigned: The number of shards that it should own.
    """

    member: str
    beat_age_seconds: float
    weight: int
    owned: int
    assigned: int


class ChangedTarget(Struct, frozen=True, kw_only=True):
    """A shard that another member should own from now on.

    Attributes:
        shard: The number of the shard.
        target: The member.
    """

    shard: int
    target: str


class MovedShard(Struct, frozen=True, kw_only=True):
    """A move of a shard.

    Attributes:
        shard: The number of the shard.
        to: The member that gets it.
        changes: What was changed; empty if it was to have the shard already.
        freed: The member that the shard was taken away from; None without --force.
    """

    shard: int
    to: str
    changes: list[ChangedTarget]
    freed: str | None


def owned_row(owned: OwnedShard) -> OwnedRow:
    """Return the row of a shard."""
    return OwnedRow(
        shard=owned.shard.number,
        key=owned.shard.key.decode("utf-8", "surrogateescape"),
        epoch=owned.epoch,
        owner=owned.owner,
        target=owned.target,
        lease_left_seconds=owned.lease_left,
        lapsed=owned.lapsed,
        pending=owned.pending,
    )


def member_row(member: GroupMember) -> MemberRow:
    """Return the row of a member."""
    return MemberRow(
        member=member.name,
        beat_age_seconds=member.beat_age,
        weight=member.weight,
        owned=member.owned,
        assigned=member.assigned,
    )


def moved(move: ShardMove) -> MovedShard:
    """Return the result of a move."""
    return MovedShard(
        shard=move.shard.number,
        to=move.to,
        changes=[
            ChangedTarget(shard=shard.number, target=name)
            for shard, name in move.changes.items()
        ],
        freed=move.freed,
    )


def sentences(move: ShardMove) -> Iterator[str]:
    """Yield a sentence for each change."""
    if not move.changes:
        name = _format.text(move.to)
        yield f"shard {move.shard.number} was to be owned by {name} already"
    for shard, name in move.changes.items():
        yield f"shard {shard.number} goes to {_format.text(name)}"
    if move.freed is not None:
        name = _format.text(move.freed)
        yield f"shard {move.shard.number} was taken away from {name}"


def _lease(row: OwnedRow) -> str:
    return "lapsed" if row.lapsed else _format.duration(row.lease_left_seconds)


SHARDS: Final[list[Column[OwnedRow]]] = [
    Column("SHARD", lambda row: row.shard, right=True),
    Column("EPOCH", lambda row: row.epoch or None, priority=2, right=True),
    text_column("OWNER", lambda row: row.owner),
    text_column("SHOULD BE", lambda row: row.target, 1),
    Column(
        "LEASE",
        lambda row: "lapsed" if row.lapsed else row.lease_left_seconds,
        _lease,
        priority=2,
        right=True,
    ),
    count_column("PENDING", lambda row: row.pending, 1),
]
MEMBERS: Final[list[Column[MemberRow]]] = [
    text_column("MEMBER", lambda row: row.member),
    duration_column("BEAT", lambda row: row.beat_age_seconds, 1),
    Column("WEIGHT", lambda row: row.weight, priority=2, right=True),
    Column("OWNS", lambda row: row.owned, right=True),
    Column("SHOULD OWN", lambda row: row.assigned, priority=1, right=True),
]
