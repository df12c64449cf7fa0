"""What a transaction has acknowledged leaves the ledger without being told again."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.handling.settlement import Settler
from penstock._core.ledger.states import State
from penstock._core.protocol.replies import RawEntry
from penstock.errors import ClosedError, UsageError
from penstock.transaction import Transaction
from support.ledger import A, Books, later, raw


def taken(books: Books) -> Any:
    books.deliveries.received(A, [[b"1-1", [b"msg", b"x"]]], 0.0, 10)
    entry = books.work.take()
    assert entry is not None
    return entry


def test_what_runs_is_gone_and_its_room_is_free_when_its_handler_ends() -> None:
    books = Books()
    entry = taken(books)
    assert books.applied(entry)
    assert entry.state is State.DONE
    assert not books.shards.ids(A)
    assert books.flow.held == 1
    assert books.ack(entry)
    books.finish(entry, ack=True)
    assert (books.flow.held, books.flow.size, books.acks.uncommitted) == (0, 0, 0)
    assert books.acks.to_send() == []
    assert books.counters.left == 0


def test_what_is_left_open_is_gone_too() -> None:
    books = Books()
    entry = taken(books)
    books.finish(entry, ack=False)
    assert entry.state is State.UNSETTLED
    assert books.applied(entry)
    assert not books.shards.ids(A)
    assert books.flow.held == 0


def test_what_has_left_the_books_with_its_lease_is_not_missed() -> None:
    books = Books(lease=1.0)
    entry = taken(books)
    books.finish(entry, ack=False)
    books.deliveries.received(A, [], 100.0, 0)
    assert not books.shards.ids(A)
    assert books.applied(entry)


def test_a_nack_beside_it_does_not_count() -> None:
    books = Books()
    entry = taken(books)
    books.refuse(entry, later(), entry.fields)
    assert books.applied(entry)
    books.finish(entry, ack=False)
    assert books.retries.next_due is None
    assert books.flow.held == 0


def test_what_is_somebody_else_s_or_has_an_outcome_is_let_alone() -> None:
    books = Books()
    entry = taken(books)
    books.ack(entry)
    assert not books.applied(entry)
    assert books.acks.uncommitted == 1
    books = Books()
    entry = taken(books)
    books.removals.lose(entry)
    assert not books.applied(entry)
    assert entry.state is State.LOST


def test_a_pending_list_read_meanwhile_does_not_bring_it_back() -> None:
    books = Books()
    entry = taken(books)
    with books.deliveries.recovering(A):
        books.applied(entry)
        assert books.deliveries.recovered(A, [[b"1-1", [b"msg", b"x"]]], 1.0, {}) == 0
    assert not books.shards.ids(A)


class TransactionSink:
    def begin(self, entry: Any, fields: Any) -> Any:
        sink: Any = (entry, fields)
        return Transaction(sink)


def settler(books: Books, **options: Any) -> Settler[Any]:
    refusals: Any = None
    facts: dict[str, Any] = {"why_no_ack": None, "on_loop_thread": lambda: True}
    return Settler(
        books,
        None,
        refusals,
        max_message_bytes=1000,
        transactions=TransactionSink(),
        **{**facts, **options},
    )


def test_a_transaction_is_begun_for_what_has_no_outcome() -> None:
    books = Books()
    entry = taken(books)
    made = settler(books).transaction(entry, entry.fields)
    assert repr(made) == "<Transaction not entered>"
    books.applied(entry)
    with pytest.raises(UsageError, match="acknowledged already"):
        settler(books).transaction(entry, ())


def test_there_is_none_after_a_refusal_or_for_what_was_given_back() -> None:
    books = Books()
    entry = taken(books)
    books.refuse(entry, later(), ())
    with pytest.raises(UsageError, match="nacked, rejected"):
        settler(books).transaction(entry, ())
    books = Books()
    entry = taken(books)
    books.close()
    assert books.closed
    with pytest.raises(ClosedError):
        settler(books).transaction(entry, ())


def test_there_is_none_where_nothing_is_acknowledged_or_in_another_thread() -> None:
    books = Books()
    entry = taken(books)
    with pytest.raises(UsageError, match="acknowledges its message: none here"):
        settler(books, why_no_ack="none here").transaction(entry, ())
    with pytest.raises(UsageError, match="another thread"):
        settler(books, on_loop_thread=lambda: False).transaction(entry, ())


def test_two_lists_under_way_keep_out_what_either_may_have() -> None:
    books = Books()
    books.read(1, 2)
    first, second = books.started(), books.started()
    listed: list[RawEntry] = [[raw(n), [b"msg", b"x"]] for n in (1, 2)]
    with books.deliveries.recovering(A):
        with books.deliveries.recovering(A):
            books.applied(first)
        books.applied(second)
        assert books.deliveries.recovered(A, listed, 1.0, {}) == 0
    assert books.deliveries.recovered(A, listed, 1.0, {}) == 2
