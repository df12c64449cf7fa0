"""What the books say in numbers."""

from __future__ import annotations

from penstock._core.ledger.ledger import Ledger
from penstock.statistics import Statistics

__all__ = ["statistics_of"]


def statistics_of(ledger: Ledger) -> Statistics:
    """Give a ledger's counts."""
    counters = ledger.counters
    return Statistics(
        received=counters.received,
        acknowledged=counters.acked,
        left_open=counters.left,
        retried=counters.retried,
        dead_lettered=counters.dead,
        dropped=counters.dropped,
        undecodable=counters.undecodable,
        late=counters.late,
        claimed=counters.claimed,
        lost=counters.lost,
        ghosts=counters.deleted_ids,
        queued=ledger.queued,
        in_hand=ledger.held,
        bytes_in_hand=ledger.size,
        uncommitted=ledger.uncommitted,
    )
