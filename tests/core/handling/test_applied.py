"""What a transaction has acknowledged leaves the ledger without being told again."""

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


def test_what_runs_is_gone_and_its_room_is_free_when_its_handler_ends() -> None:
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


def test_what_is_left_open_is_gone_too() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.finish(entry, ack=False)
    assert entry.state is State.UNSETTLED
    assert ledger.applied(entry)
    assert not ledger.shards.ids(A)
    assert ledger.flow.held == 0


def test_what_has_left_the_books_with_its_lease_is_not_missed() -> None:
    ledger = SpyLedger(lease=1.0)
    entry = taken(ledger)
    ledger.finish(entry, ack=False)
    ledger.deliveries.received(A, [], 100.0, 0)
    assert not ledger.shards.ids(A)
    assert ledger.applied(entry)


def test_a_nack_beside_it_does_not_count() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    ledger.refuse(entry, later(), entry.fields)
    assert ledger.applied(entry)
    ledger.finish(entry, ack=False)
    assert ledger.retries.next_due is None
    assert ledger.flow.held == 0


def test_what_is_somebody_else_s_or_has_an_outcome_is_let_alone() -> None:
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


def test_a_pending_list_read_meanwhile_does_not_bring_it_back() -> None:
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


def test_a_transaction_is_begun_for_what_has_no_outcome() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    made = settler(ledger).transaction(entry, entry.fields)
    assert repr(made) == "<Transaction not entered>"
    ledger.applied(entry)
    with pytest.raises(UsageError, match="acknowledged already"):
        settler(ledger).transaction(entry, ())


def test_there_is_none_after_a_refusal_or_for_what_was_given_back() -> None:
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


def test_there_is_none_where_nothing_is_acknowledged_or_in_another_thread() -> None:
    ledger = SpyLedger()
    entry = taken(ledger)
    with pytest.raises(UsageError, match="acknowledges its message: none here"):
        settler(ledger, why_no_ack="none here").transaction(entry, ())
    with pytest.raises(UsageError, match="another thread"):
        settler(ledger, on_loop_thread=lambda: False).transaction(entry, ())


def test_two_lists_under_way_keep_out_what_either_may_have() -> None:
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
