"""Backlog: what a consumer holds of each stream."""

from __future__ import annotations

from penstock._core.metrics.backlog import Backlog, backlog_of
from support.ledger import A, B, SpyLedger


def test_waiting_entries_and_unconfirmed_outcomes_are_counted_by_stream() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    ledger.read(4, 5, shard=B)
    first, second = ledger.work.take_fresh(2)
    ledger.finish(first, ack=True)
    assert backlog_of(ledger) == {"a": Backlog(1, 1), "b": Backlog(2, 0)}
    ledger.finish(second, ack=True)
    for batch in ledger.acks.to_send():
        assert backlog_of(ledger)["a"] == Backlog(1, 2)
        ledger.ack_confirmed(batch)
    assert backlog_of(ledger) == {"a": Backlog(1, 0), "b": Backlog(2, 0)}


def test_entries_that_are_not_acknowledged_are_counted_while_they_wait() -> None:
    ledger = SpyLedger(acks=False)
    ledger.read(1, 2, 3, shard=A)
    [first] = ledger.work.take_fresh(1)
    assert backlog_of(ledger) == {"a": Backlog(2, 0)}
    ledger.finish(first, ack=True)
    assert backlog_of(ledger) == {"a": Backlog(2, 0)}
