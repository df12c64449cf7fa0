"""Output of `penstock trim`, without characters that act on a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from penstock.admin import TrimLoss, Trimmed
from penstock.events import printable

__all__ = ["as_json", "as_row", "as_sentence", "heading"]

_WIDTHS: Final = (30, 12, 24, 10, 12)
_NAME: Final = 60


def heading(*, dry_run: bool) -> str:
    """Return the names of the columns."""
    removed = "REMOVABLE" if dry_run else "REMOVED"
    return _row("SHARD", removed, "HELD BY", "PENDING", "LAG", "IDLE")


def as_row(trimmed: Trimmed) -> str:
    """Return the row of a table for a shard."""
    held = trimmed.held_by
    cells = ("-",) * 4
    if held is not None:
        idle = "?" if held.idle is None else f"{held.idle:.0f}s"
        lag = "?" if held.lag is None else str(held.lag)
        cells = (printable(held.name, _NAME), str(held.pending), lag, idle)
    return _row(printable(trimmed.shard.key, _NAME), str(trimmed.removed), *cells)


def as_sentence(loss: TrimLoss) -> str:
    """Return what a group loses, as a sentence."""
    parts = []
    if loss.unread:
        parts.append(f"{loss.unread:,} unread")
    if loss.pending:
        parts.append(f"{loss.pending:,} pending")
    one = loss.unread + loss.pending == 1
    return (
        f"{printable(loss.shard.key)}: group {printable(loss.group, _NAME)} would lose "
        f"{' and '.join(parts)} {'entry' if one else 'entries'}"
    )


def as_json(
    trimmed: Trimmed, *, dry_run: bool, losses: Sequence[TrimLoss] | None = None
) -> str:
    """Return a line of JSON for a shard, in which all but ASCII is escaped.

    Args:
        trimmed: The shard.
        dry_run: Whether nothing was deleted.
        losses: What groups lose in all shards; None if that was not counted.
    """
    held = trimmed.held_by
    facts: dict[str, Any] = {
        "shard": trimmed.shard.key.decode("utf-8", "surrogateescape"),
        "removed": trimmed.removed,
        "dry_run": dry_run,
        "floor": None if trimmed.floor is None else str(trimmed.floor),
        "held_by": None,
        "ignored": trimmed.ignored,
        "losses": None,
    }
    if losses is not None:
        facts["losses"] = [
            {"group": loss.group, "unread": loss.unread, "pending": loss.pending}
            for loss in losses
            if loss.shard == trimmed.shard
        ]
    if held is not None:
        facts["held_by"] = {
            "group": held.name,
            "needs": str(held.needs),
            "last_delivered": str(held.last_delivered),
            "pending": held.pending,
            "lag": held.lag,
            "idle": held.idle,
        }
    return json.dumps(facts)


def _row(*cells: str) -> str:
    *head, last = cells
    padded = [cell.ljust(width) for cell, width in zip(head, _WIDTHS, strict=True)]
    return " ".join([*padded, last]).rstrip()
