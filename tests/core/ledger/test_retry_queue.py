"""Outcomes that are no acknowledgement: tried again, dropped, left."""

from __future__ import annotations

import pytest

from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Disposition,
    Dropped,
    Stopped,
)
from penstock._core.ledger.states import State
from penstock.options import Ordering
from support.ledger import (
    GIVEN_UP,
    KEY,
    NONE,
    SHARD,
    A,
    B,
    Books,
    ids,
    known,
    later,
    left_open,
    now,
    raw,
    the,
)

# -- postponed ---------------------------------------------------------------------


def test_what_failed_waits_for_its_time_and_is_tried_again_before_all_others() -> None:
    books = Books()
    books.read(1, 2, now=3.0)
    failed = books.failed(later(due=10.0))
    assert now(failed) is State.LOST, "what is done with it does not count any more"
    assert (books.flow.held, books.flow.size, books.work.length) == (2, 20, 1)
    assert (books.counters.retried, books.counters.lost, books.counters.left) == (
        1,
        0,
        0,
    )
    assert books.retries.next_due == 10.0
    assert books.retries.make_due(9.9) == 0
    assert books.retries.make_due(10.0) == 1
    assert books.work.length == 2
    assert books.work.take() is None, "the server has to be told"
    again = books.started()
    assert again is not failed
    assert (again.id, again.fields) == (raw(1), [b"msg", b""])
    assert (again.deliveries, again.size, again.leased_at) == (2, 10, 3.0)
    assert again.disposition is None
    books.finish(again, ack=True)
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_attempts_are_counted_from_one_to_the_next() -> None:
    books = Books()
    books.read(1)
    for attempt in range(1, 5):
        assert books.failed(later(due=float(attempt))).deliveries == attempt
        assert books.retries.make_due(float(attempt)) == 1


def test_what_a_user_makes_of_what_is_tried_again_is_dropped() -> None:
    books = Books()
    books.read(1)
    failed = books.failed()
    assert books.ack(failed)
    assert books.refuse(failed, GIVEN_UP, [b"msg", b""])
    assert books.counters.late == 2
    assert (books.acks.uncommitted, books.acks.dead_lettering) == (0, 0)
    assert known(books, A, raw(1))


def test_the_retrier_is_rung_for_what_is_due_before_all_others() -> None:
    books = Books()
    books.read(*range(4))
    rings = []
    for due in (10.0, 20.0, 10.0, 5.0):
        books.failed(later(due))
        rings.append((books.postponed_rings, books.retries.next_due))
    assert rings == [(1, 10.0), (1, 10.0), (1, 10.0), (2, 5.0)]
    assert books.retries.make_due(10.0) == 3
    assert books.retries.next_due == 20.0


def test_what_has_left_is_not_due() -> None:
    books = Books(lease=30.0)
    books.read(1, 2)
    books.read(3, shard=B)
    for due in (5.0, 6.0, 7.0):
        books.failed(later(due))
    assert books.removals.drop(B) == 1
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert books.retries.next_due == 6.0
    assert books.retries.make_due(100.0) == 1
    assert books.retries.next_due is None
    assert ids([books.next(), books.next()]) == [raw(2), None]


def test_a_nack_holds_when_the_handler_has_finished() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    entry = books.started()
    assert books.refuse(entry, later(), entry.fields)
    assert now(entry) is State.FAILED
    assert (books.retries.next_due, books.counters.retried) == (None, 0)
    assert not books.may_start(entry)
    books.finish(entry, ack=True)
    assert now(entry) is State.LOST
    assert books.retries.next_due == 10.0
    assert (books.flow.held, books.acks.uncommitted, books.counters.late) == (2, 0, 0)


def test_what_the_handler_said_counts_for_more_than_how_it_ended() -> None:
    books = Books()
    books.read(1, 2)
    said = books.started()
    books.refuse(said, later(due=3.0), said.fields)
    books.fail(said, GIVEN_UP)
    assert (books.retries.next_due, books.acks.dead_lettering) == (3.0, 0)
    acked = books.started()
    books.ack(acked)
    books.fail(acked, GIVEN_UP)
    assert books.acks.dead_lettering == 0
    assert the(books.acks.to_send()).ids == [raw(2)]


@pytest.mark.parametrize("how", ["lost", "released"])
def test_a_failure_of_what_has_left_is_none(how: str) -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    if how == "lost":
        books.removals.lose(entry)
    else:
        list(books.removals.release())
    books.fail(entry, GIVEN_UP)
    assert (books.flow.held, books.acks.dead_lettering, books.counters.late) == (
        0,
        0,
        0,
    )


@pytest.mark.parametrize("given_back", [False, True])
def test_what_is_refused_too_late_is_so_in_vain(
    given_back: bool,  # noqa: FBT001
) -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    if given_back:
        list(books.removals.release())
    else:
        books.removals.lose(entry)
    assert books.refuse(entry, GIVEN_UP, entry.fields) == (not given_back)
    assert books.counters.late == (not given_back)
    assert entry.disposition is None
    assert books.acks.dead_lettering == 0


# -- left open, and refused later --------------------------------------------------


def test_what_was_left_open_can_be_tried_again() -> None:
    books = Books()
    entry = left_open(books, 1)
    assert books.flow.held == 0
    assert books.refuse(entry, later(due=4.0), [b"msg", b"kept"])
    assert (books.flow.held, books.flow.size, books.retries.next_due) == (1, 10, 4.0)
    assert now(entry) is State.LOST
    books.retries.make_due(4.0)
    again = books.started()
    assert again.fields == [b"msg", b"kept"]
    assert again.deliveries == 2


def test_what_was_left_open_can_be_given_up() -> None:
    books = Books()
    entry = left_open(books, 1)
    assert books.refuse(entry, GIVEN_UP, [b"msg", b"kept"])
    assert (books.flow.held, books.flow.size, books.acks.dead_lettering) == (1, 10, 1)
    [dead] = books.acks.dead_letters_to_send(10)
    assert dead is entry
    assert dead.fields == [b"msg", b"kept"]


def test_what_was_left_open_and_has_left_the_books_is_refused_in_vain() -> None:
    books = Books(lease=30.0)
    entry = left_open(books, 1)
    books.read(2, now=100.0)
    assert not known(books, A, raw(1))
    assert books.refuse(entry, GIVEN_UP, [b"msg", b""])
    assert (now(entry), books.acks.dead_lettering) == (State.UNSETTLED, 0)
    books.close()
    assert not books.refuse(entry, GIVEN_UP, [b"msg", b""])


def test_what_was_left_open_has_left_its_lane() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, 3, key="k")
    entry = books.started()
    books.finish(entry, ack=False)
    second = books.started()
    books.refuse(entry, later(due=1.0), [b"msg", b"", b"key", b"k"])
    books.retries.make_due(1.0)
    assert books.work.length == 0, "one of a key at a time"
    books.finish(second, ack=True)
    assert [books.done()[0].id for _ in range(2)] == [raw(3), raw(1)]
    assert not books._ready_queue._lanes


# -- dropped and left --------------------------------------------------------------


@pytest.mark.parametrize("opened", [False, True])
def test_what_is_dropped_is_acknowledged(opened: bool) -> None:  # noqa: FBT001
    books = Books()
    books.read(1)
    entry = books.started()
    if opened:
        books.finish(entry, ack=False)
        books.refuse(entry, Dropped("why"), [b"msg", b""])
    else:
        books.fail(entry, Dropped("why"))
    assert now(entry) is State.TO_ACK
    assert entry.fields == ()
    assert (books.flow.held, books.counters.dropped, books.outcome_rings) == (0, 1, 1)
    books.ack_confirmed(the(books.acks.to_send()))
    assert not known(books, A, raw(1))


@pytest.mark.parametrize("opened", [False, True])
def test_what_is_left_stays_pending(opened: bool) -> None:  # noqa: FBT001
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    entry = books.started()
    if opened:
        books.finish(entry, ack=False)
        books.refuse(entry, Stopped("why"), [b"msg", b""])
    else:
        books.fail(entry, Stopped("why"))
    assert now(entry) is State.UNSETTLED
    assert entry.fields == ()
    assert (books.flow.held, books.counters.left) == (1, 1 + opened)
    assert (
        books.acks.uncommitted,
        books.acks.dead_lettering,
        books.retries.next_due,
    ) == (0, 0, None)
    assert books.started().id == raw(2)
    # The handler of 2 is interrupted; that is no attempt.
    assert list(books.removals.release()) == [(A, 2, [raw(1)]), (A, 0, [raw(2)])]


@pytest.mark.parametrize(
    "disposition", [later(), DeadLettered("x"), Dropped("x"), Stopped("x")]
)
def test_the_reader_is_rung_for_what_room_a_failure_has_left(
    disposition: Disposition,
) -> None:
    books = Books(max_messages=2)
    books.read(1, 2)
    taken = [books.started() for _ in range(2)]
    books.flow.waiting_changed(1)
    assert books.read_budget() == 0
    rings = books.room_rings
    books.fail(taken[0], disposition)
    keeps = isinstance(disposition, DeadLettered) or disposition == later()
    assert books.flow.held == 1 + keeps
    assert (books.read_budget() > 0) == (not keeps)
    assert keeps or books.room_rings > rings


# -- order -------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", [KEY, SHARD])
def test_a_lane_waits_for_what_is_tried_again(ordering: Ordering) -> None:
    books = Books(ordering=ordering)
    books.read(1, 2, 3, key="k")
    books.read(4, shard=B, key="k")
    books.failed(later(due=5.0))
    assert ids(books.done()) == [raw(4)]
    for attempt in range(2, 5):
        assert books.next() is None
        due = 5.0 * attempt
        assert books.retries.make_due(due) == 1
        again = books.started()
        assert (again.id, again.deliveries) == (raw(1), attempt)
        assert books.next() is None
        books.fail(again, later(due + 5.0))
    books.retries.make_due(1e9)
    assert [books.done()[0].id for _ in range(3)] == [raw(1), raw(2), raw(3)]
    assert not books._ready_queue._lanes


def test_without_an_order_nothing_waits_for_it() -> None:
    books = Books()
    books.read(1, 2, key="k")
    books.failed()
    assert books.started().id == raw(2)


def test_the_next_of_its_lane_runs_when_it_was_given_up() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    books.failed(GIVEN_UP)
    assert books.started().id == raw(2)


def test_what_is_postponed_and_dropped_leaves_no_lane() -> None:
    books = Books(ordering=SHARD)
    books.read(1, 2)
    books.read(3, shard=B)
    books.failed()
    books.failed()
    assert books.removals.drop(A) == 2
    assert (books.flow.held, books.flow.size) == (1, 10)
    assert len(books._ready_queue._lanes) == 1
    books.read(4)
    assert books.started().id == raw(4)


def test_what_is_postponed_is_given_up_with_its_shard_and_the_attempts_it_had() -> None:
    books = Books(ordering=SHARD)
    books.read(1, 2)
    books.failed()
    assert books.removals.release_shard(A) == [(A, 2, [raw(1)]), (A, 0, [raw(2)])]
    assert (books.flow.held, books.retries.next_due) == (0, None)
    assert not books._ready_queue._lanes


def test_what_waits_for_its_next_attempt_again_is_given_back_with_those_it_had() -> (
    None
):
    books = Books()
    books.read(1, 2)
    books.failed(later(due=1.0))
    books.retries.make_due(1.0)
    books.failed(later(due=2.0))
    books.retries.make_due(2.0)
    assert list(books.removals.release()) == [(A, 3, [raw(1)]), (A, 0, [raw(2)])]


def test_what_is_postponed_and_lost_lets_its_lane_go_on() -> None:
    books = Books(ordering=KEY, lease=30.0)
    books.read(1, 2, key="k")
    books.failed()
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert (books.flow.held, books.flow.size, books.counters.lost) == (1, 10, 1)
    assert books.started().id == raw(2)
    assert len(books._ready_queue._lanes) == 1


def test_a_lease_that_was_asked_about_before_the_failure_is_that_of_the_old_one() -> (
    None
):
    books = Books(lease=30.0)
    books.read(1)
    entry = books.started()
    [renewal] = books.to_renew(25.0)
    books.fail(entry, later())
    assert renewal.ids == []
    assert len(books.removals.lose_all_but(renewal, [])) == 0
    books.leases.renewed(renewal, 25.0)
    [renewal] = books.to_renew(25.0)
    assert renewal.ids == [raw(1)], "it is asked about by the next one"


def test_in_a_new_order_it_has_no_lane_until_it_is_tried_again() -> None:
    books = Books()
    books.read(1, 2, 3, key="k")
    books.failed(later(due=1.0))
    books.order_by(KEY)
    second = books.started()
    assert books.next() is None
    books.retries.make_due(1.0)
    assert books.next() is None, "one of a key at a time"
    books.finish(second, ack=True)
    assert [books.done()[0].id for _ in range(2)] == [raw(3), raw(1)]
    assert not books._ready_queue._lanes


def test_from_an_order_to_none_it_comes_first_as_ever() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    books.failed(later(due=1.0))
    books.order_by(NONE)
    assert books.work.length == 1
    books.retries.make_due(1.0)
    assert ids(entry for _ in range(2) for entry in books.done()) == [raw(1), raw(2)]


def test_what_failed_keeps_its_place_in_the_order_of_reading() -> None:
    books = Books()
    books.read(1, 2, key="k")
    books.read(3, shard=B, key="k")
    books.failed(later(due=1.0))
    books.read(4, key="k")
    books.retries.make_due(1.0)
    books.order_by(KEY)
    books.order_by(NONE)
    assert ids(books._queue) == [raw(1), raw(2), raw(4), raw(3)]


# -- set back ----------------------------------------------------------------------


def test_what_is_postponed_and_comes_again_is_tried_at_once() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    books.failed(later(due=5.0))
    assert books.read(1, key="k") == 0, "but not by itself"
    assert books.read(1, 2, key="k", rewound=True) == 1
    assert (books.flow.held, books.retries.next_due, books.counters.lost) == (
        2,
        None,
        0,
    )
    assert ids(books.done()) == [raw(2)], "which was here before"
    entry = books.started()
    assert (entry.id, entry.deliveries) == (raw(1), 1)


def test_what_has_failed_and_comes_again_waits_for_its_handler() -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    books.refuse(entry, GIVEN_UP, entry.fields)
    assert books.read(1, rewound=True) == 1
    assert books.next() is None
    books.finish(entry, ack=False)
    assert (books.acks.dead_lettering, books.flow.held) == (0, 1)
    assert books.started().deliveries == 1


def test_closing_keeps_nothing_that_waits_for_its_next_attempt() -> None:
    books = Books()
    books.read(1)
    books.failed(later(due=5.0))
    books.close()
    assert not books.retries._postponed
    assert (books.flow.held, books.retries.next_due) == (0, None)
    assert books.retries.make_due(5.0) == 0
