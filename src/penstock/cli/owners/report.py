"""Output of `penstock owners`, without characters that act on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from penstock.admin import GroupMember, OwnedShard, Owners, ShardMove
from penstock.events import printable

__all__ = ["as_json", "as_table", "move_as_json", "move_as_lines"]

_SHARD_WIDTHS: Final = (6, 8, 24, 24, 12)
_MEMBER_WIDTHS: Final = (40, 10, 8, 8)
_NAME: Final = 60


def as_table(owners: Owners) -> Iterator[str]:
    """Yield the lines of two tables: the shards, and the members if there are any."""
    yield _row(
        _SHARD_WIDTHS, "SHARD", "EPOCH", "OWNER", "SHOULD BE", "LEASE", "PENDING"
    )
    for owned in owners.shards:
        yield _shard_row(owned)
    if owners.members:
        yield ""
        yield _row(_MEMBER_WIDTHS, "MEMBER", "BEAT", "WEIGHT", "OWNS", "SHOULD OWN")
    for member in owners.members:
        yield _member_row(member)


def as_json(owners: Owners) -> Iterator[str]:
    """Yield a line of JSON for each shard and each member; all but ASCII is escaped."""
    for owned in owners.shards:
        yield json.dumps(
            {
                "shard": owned.shard.number,
                "key": owned.shard.key.decode("utf-8", "surrogateescape"),
                "epoch": owned.epoch,
                "owner": owned.owner,
                "target": owned.target,
                "lease_left_seconds": owned.lease_left,
                "lapsed": owned.lapsed,
                "pending": owned.pending,
            }
        )
    for member in owners.members:
        yield json.dumps(
            {
                "member": member.name,
                "beat_age_seconds": member.beat_age,
                "weight": member.weight,
                "owned": member.owned,
                "assigned": member.assigned,
            }
        )


def move_as_lines(move: ShardMove) -> Iterator[str]:
    """Yield a sentence for each change."""
    if not move.changes:
        name = printable(move.to, _NAME)
        yield f"shard {move.shard.number} was to be owned by {name} already"
    for shard, name in move.changes.items():
        yield f"shard {shard.number} goes to {printable(name, _NAME)}"
    if move.freed is not None:
        name = printable(move.freed, _NAME)
        yield f"shard {move.shard.number} was taken away from {name}"


def move_as_json(move: ShardMove) -> str:
    """Return a line of JSON for a move, in which all but ASCII is escaped."""
    return json.dumps(
        {
            "shard": move.shard.number,
            "to": move.to,
            "changes": [
                {"shard": shard.number, "target": name}
                for shard, name in move.changes.items()
            ],
            "freed": move.freed,
        }
    )


def _shard_row(owned: OwnedShard) -> str:
    lease = "-"
    if owned.lease_left is not None:
        lease = "lapsed" if owned.lapsed else f"{owned.lease_left:.1f}s"
    return _row(
        _SHARD_WIDTHS,
        str(owned.shard.number),
        str(owned.epoch) if owned.epoch else "-",
        _name(owned.owner),
        _name(owned.target),
        lease,
        str(owned.pending),
    )


def _member_row(member: GroupMember) -> str:
    return _row(
        _MEMBER_WIDTHS,
        _name(member.name),
        f"{member.beat_age:.1f}s",
        str(member.weight),
        str(member.owned),
        str(member.assigned),
    )


def _name(name: str | None) -> str:
    return "-" if name is None else printable(name, _NAME)


def _row(widths: tuple[int, ...], *cells: str) -> str:
    *head, last = cells
    padded = [cell.ljust(width) for cell, width in zip(head, widths, strict=True)]
    return " ".join([*padded, last]).rstrip()
