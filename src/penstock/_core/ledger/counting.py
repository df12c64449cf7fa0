"""What the books say in numbers."""

from __future__ import annotations

from penstock._core.ledger.ledger import Ledger
from penstock.statistics import Statistics

__all__ = ["count_up"]


def count_up(ledger: Ledger) -> Statistics:
    """Give a ledger's counts."""
    totals = ledger.totals
    return Statistics(
        received=totals.received,
        acknowledged=totals.acked,
        left_open=totals.left,
        retried=totals.retried,
        dead_lettered=totals.dead,
        dropped=totals.dropped,
        undecodable=totals.undecodable,
        late=totals.late,
        claimed=totals.claimed,
        lost=totals.lost,
        ghosts=totals.ghosts,
        queued=ledger.queued,
        in_hand=ledger.held,
        bytes_in_hand=ledger.size,
        uncommitted=ledger.uncommitted,
    )
