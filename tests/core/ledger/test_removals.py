"""What is dropped by a seek, or given up with its shard."""

from __future__ import annotations

from penstock._core.ledger.states import State
from support.ledger import SHARD, A, B, Books, ids, now, raw, the

# -- dropping ----------------------------------------------------------------------


def test_what_waits_is_dropped_and_what_runs_or_is_done_stays() -> None:
    books = Books()
    books.read(1, 2, 3, 4, 5)
    running, opened, _ = books.started(), books.started(), books.done()
    books.finish(opened, ack=False)
    books.read(6, shard=B)
    waiting = list(books._queue)
    assert books.removals.drop(A) == 2
    assert [now(entry) for entry in waiting] == [
        State.DONE,
        State.DONE,
        State.QUEUED,
    ]
    assert sorted(books.shards.ids(A)) == [raw(1), raw(2), raw(3)]
    assert (books.flow.held, books.flow.size, books.acks.uncommitted) == (2, 20, 1)
    assert books.counters.acked == 0
    assert ids([books.work.take(), books.work.take()]) == [raw(6), None]
    books.finish(running, ack=True)
    assert the(books.acks.to_send()).ids == [raw(3), raw(1)]


def test_to_drop_a_shard_that_has_nothing_is_nothing() -> None:
    books = Books()
    books.read(1, shard=B)
    assert books.removals.drop(A) == 0
    assert list(books.shards.ids(A)) == []
    assert books.flow.held == 1


def test_what_was_dropped_is_not_to_be_renewed_or_lost() -> None:
    books = Books(lease=30.0)
    books.read(1, 2)
    [renewal] = books.to_renew(25.0)
    books.removals.drop(A)
    assert renewal.ids == []
    assert len(books.removals.lose_all_but(renewal, [])) == 0
    assert books.to_renew(25.0) == []


def test_what_was_dropped_and_comes_again_still_waits_for_its_handler() -> None:
    books = Books()
    books.read(1)
    old = books.started()
    books.read(1, rewound=True)
    assert books.work.take() is None
    assert books.removals.drop(A) == 1
    assert books.flow.held == 1
    books.read(1, rewound=True)
    assert books.work.take() is None
    books.finish(old, ack=True)
    assert ids([books.work.take()]) == [raw(1)]


def test_the_lane_of_a_running_entry_holds_up_what_comes_after_a_drop() -> None:
    books = Books(ordering=SHARD)
    books.read(1, 2, 3)
    books.read(7, shard=B)
    running = books.started()
    assert books.removals.drop(A) == 2
    books.read(4, 5)
    assert ids([books.work.take(), books.work.take()]) == [raw(7), None]
    books.finish(running, ack=True)
    assert ids(books.done()) == [raw(4)]
    assert ids(books.done()) == [raw(5)]


# -- giving up ---------------------------------------------------------------------


def test_a_shard_is_given_up_but_not_what_handlers_are_at() -> None:
    books = Books()
    books.read(1, 2, 3, 4)
    running, opened, (settled,) = books.started(), books.started(), books.done()
    books.finish(opened, ack=False)
    books.read(1, shard=B)
    given = books.removals.release_shard(A)
    assert given == [(A, 0, [raw(4)]), (A, 2, [raw(2)])]
    assert (now(running), now(opened)) == (State.RUNNING, State.RELEASED)
    assert sorted(books.shards.ids(A)) == [raw(1), raw(3)]
    assert list(books.shards.ids(B)) == [raw(1)]
    assert not books.ack(opened)
    books.finish(running, ack=True)
    assert the(books.acks.to_send()).ids == [raw(3), raw(1)]
    assert settled.unconfirmed
    assert books.removals.release_shard(A) == []


def test_what_was_given_up_is_not_to_be_renewed_any_more() -> None:
    books = Books(lease=30.0)
    books.read(1, 2)
    books.started()
    [renewal] = books.to_renew(25.0)
    books.removals.release_shard(A)
    assert renewal.ids == [raw(1)], "to renew it would take it back from others"
