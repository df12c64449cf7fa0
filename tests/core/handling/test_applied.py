"""Entries that a transaction has acknowledged leave the ledger at once."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.handling.settlement import Settler
from penstock._core.ledger.states import State
from penstock._core.protocol.replies import RawEntry
from penstock.errors import ClosedError, UsageError
from penstock.transaction import Transaction
from support.ledger import A, SpyLedger, later, raw


def taken(ledger: SpyLedger) -> Any:
    ledger.deliveries.received(A, [[b"1-1", [b"msg", b"x"]]], 0.0, 10)
    entry = ledger.work.take()
    assert entry is not None
    return entry


def test_an_applied_entry_frees_its_capacity_when_its_handler_ends() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    assert ledger.applied(entry)
    assert entry.state is State.DONE
    assert not ledger.shards.ids(A)
    assert ledger.flow.held == 1
    assert ledger.ack(entry)
    ledger.finish(entry, ack=True)
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.uncommitted) == (0, 0, 0)
    assert ledger.acks.to_send() == []
    assert ledger.counters.left == 0


def test_an_applied_unsettled_entry_leaves_the_ledger() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.finish(entry, ack=False)
    assert entry.state is State.UNSETTLED
    assert ledger.applied(entry)
    assert not ledger.shards.ids(A)
    assert ledger.flow.held == 0


def test_an_unsettled_entry_that_left_the_ledger_with_its_lease_can_be_applied() -> (
    None
):
    ledger = SpyLedger(lease=1.0)
    entry = taken(ledger)
    ledger.finish(entry, ack=False)
    ledger.deliveries.received(A, [], 100.0, 0)
    assert not ledger.shards.ids(A)
    assert ledger.applied(entry)


def test_a_nack_of_an_applied_entry_has_no_effect() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.refuse(entry, later(), entry.fields)
    assert ledger.applied(entry)
    ledger.finish(entry, ack=False)
    assert ledger.retries.next_due is None
    assert ledger.flow.held == 0


def test_a_lost_entry_and_one_with_an_outcome_are_not_applied() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.ack(entry)
    assert not ledger.applied(entry)
    assert ledger.acks.uncommitted == 1
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.removals.lose(entry)
    assert not ledger.applied(entry)
    assert entry.state is State.LOST


def test_an_applied_entry_is_not_recovered_by_a_pending_list_read_meanwhile() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    with ledger.deliveries.recovering(A):
        ledger.applied(entry)
        assert ledger.deliveries.recovered(A, [[b"1-1", [b"msg", b"x"]]], 1.0, {}) == 0
    assert not ledger.shards.ids(A)


class TransactionSink:
    def begin(self, entry: Any, fields: Any) -> Any:
        sink: Any = (entry, fields)
        return Transaction(sink)


def settler(ledger: SpyLedger, **options: Any) -> Settler[Any]:
    refusals: Any = None
    facts: dict[str, Any] = {"why_no_ack": None, "on_loop_thread": lambda: True}
    return Settler(
        ledger,
        None,
        refusals,
        max_message_bytes=1000,
        transactions=TransactionSink(),
        **{**facts, **options},
    )


def test_a_transaction_begins_for_an_entry_without_an_outcome() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    made = settler(ledger).transaction(entry, entry.fields)
    assert repr(made) == "<Transaction not entered>"
    ledger.applied(entry)
    with pytest.raises(UsageError, match="acknowledged already"):
        settler(ledger).transaction(entry, ())


def test_a_refused_or_released_entry_has_no_transaction() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.refuse(entry, later(), ())
    with pytest.raises(UsageError, match="nacked, rejected"):
        settler(ledger).transaction(entry, ())
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.close()
    assert ledger.closed
    with pytest.raises(ClosedError):
        settler(ledger).transaction(entry, ())


def test_a_transaction_needs_acknowledgements_and_the_thread_of_the_event_loop() -> (
    None
):
    ledger = SpyLedger()
    entry = taken(ledger)
    with pytest.raises(UsageError, match="acknowledges its message: none here"):
        settler(ledger, why_no_ack="none here").transaction(entry, ())
    with pytest.raises(UsageError, match="outside the consumer's thread"):
        settler(ledger, on_loop_thread=lambda: False).transaction(entry, ())


def test_two_overlapping_recoveries_both_keep_out_applied_entries() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    first, second = ledger.start_next(), ledger.start_next()
    listed: list[RawEntry] = [[raw(n), [b"msg", b"x"]] for n in (1, 2)]
    with ledger.deliveries.recovering(A):
        with ledger.deliveries.recovering(A):
            ledger.applied(first)
        ledger.applied(second)
        assert ledger.deliveries.recovered(A, listed, 1.0, {}) == 0
    assert ledger.deliveries.recovered(A, listed, 1.0, {}) == 2
