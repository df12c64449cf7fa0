"""After an outage the server is told again what it should count."""

from __future__ import annotations

from penstock._core.ledger.failure_policy import RetryAt
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.states import State
from support.ledger import A, B, Books, now, raw


def told(books: Books, at: float = 0.0) -> dict[tuple[bytes, int | None], list[bytes]]:
    renewals: list[LeaseRenewal] = books.leases.to_count_again(at)
    assert not any(renewal.late for renewal in renewals)
    return {(each.shard_state.shard.key, each.count): each.ids for each in renewals}


def test_what_handlers_have_is_counted_and_what_waits_is_not_asked_about() -> None:
    books = Books()
    books.read(1, 2)
    books.read(3, shard=B)
    books.started()
    assert told(books) == {(A.key, 2): [raw(1)]}


def test_attempts_are_told_per_shard_and_number() -> None:
    books = Books()
    books.back(1, attempts=2)
    books.back(2, shard=B, attempts=0)
    books.started()
    books.started()
    assert told(books) == {(A.key, 4): [raw(1)], (B.key, 2): [raw(2)]}


def test_what_failed_keeps_the_count_of_its_failure() -> None:
    books = Books()
    books.back(1, attempts=1)
    books.fail(books.started(), RetryAt(5.0, 5.0))
    assert told(books) == {(A.key, 3): [raw(1)]}


def test_with_an_outcome_only_a_further_attempt_matters() -> None:
    books = Books()
    books.read(1)
    books.back(2, attempts=1)
    for _ in range(2):
        entry = books.started()
        books.finish(entry, ack=True)
        assert now(entry) is State.TO_ACK
    assert told(books) == {(A.key, 3): [raw(2)]}


def test_what_may_be_another_s_is_left_alone() -> None:
    books = Books(lease=60.0)
    books.read(1)
    books.started()
    assert told(books, 39.0)
    assert not told(books, 40.0)
