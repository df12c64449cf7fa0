"""How the server's delivery counter is kept to what handlers have started."""

from __future__ import annotations

import pytest

from penstock._core.ledger.failure_policy import DeadLettered, Dropped, Stopped
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.states import State
from penstock.options import Ordering
from support.ledger import (
    GIVEN_UP,
    KEY,
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

# -- what comes back ---------------------------------------------------------------


def test_of_what_comes_back_the_server_is_told_before_it_starts() -> None:
    books = Books()
    assert books.back(1, 2, delivered=True, now=7.5) == 2
    assert (books.flow.held, books.flow.size, books.work.length) == (2, 20, 2)
    assert books.counters.received == 2
    assert books.work.take() is None
    assert books.work.next_is_counted
    [entry] = books.work.take_counted()
    assert (entry.id, now(entry)) == (raw(1), State.RUNNING)
    assert (entry.deliveries, entry.leased_at, entry.size) == (1, 7.5, 10)
    assert entry.suspected, "it may have been started, too fast to be counted"
    assert books.may_start(entry)
    assert books.flow.held == 2


def test_what_certainly_was_not_started_is_no_suspect() -> None:
    books = Books()
    books.back(1, 2, 3, attempts=0)
    taken = [books.work.take() for _ in range(3)]
    assert ids(taken) == [raw(1), raw(2), raw(3)]
    assert not any(entry is None or entry.suspected for entry in taken)


@pytest.mark.parametrize("attempts", [1, 2, 7])
def test_what_a_handler_has_had_is_a_suspect_on_its_next_attempt(attempts: int) -> None:
    books = Books()
    books.back(1, attempts=attempts)
    assert books.work.next_is_repeated
    entry = books.started()
    assert entry.suspected
    assert entry.deliveries == attempts + 1


def test_what_the_server_tells_no_count_of_has_not_been_tried() -> None:
    books = Books()
    books.deliveries.recovered(A, [[raw(1), [b"msg", b"a"]]], 0.0, {})
    entry = books.started()
    assert (entry.deliveries, entry.suspected) == (1, False)
    assert not books.work.next_is_repeated


def test_new_ones_wait_behind_what_has_come_back() -> None:
    books = Books()
    books.back(1, delivered=True)
    books.read(2)
    assert books.work.take() is None, "it would start before its turn"
    assert books.started().id == raw(1)
    assert not books.work.next_is_counted
    assert not books.work.next_is_repeated
    assert ids([books.work.take()]) == [raw(2)]
    assert not books.work.next_is_counted
    assert not books.work.next_is_repeated


def test_several_fresh_ones_are_taken_at_once_up_to_what_has_come_back() -> None:
    books = Books()
    books.read(1, 2, 3)
    books.back(4, delivered=True)
    books.read(5)
    assert ids(books.work.take_fresh(2)) == [raw(1), raw(2)]
    assert ids(books.work.take_fresh(9)) == [raw(3)]
    assert books.work.take_fresh(9) == []
    assert books.started().id == raw(4)
    taken = books.work.take_fresh(9)
    assert ids(taken) == [raw(5)]
    assert books.may_start(taken[0])
    books.finish_all(taken, ack=True)
    books.read(6)
    books.finish_all(books.work.take_fresh(9), ack=False)
    [batch] = books.acks.to_send()
    assert batch.ids == [raw(5)]


def test_what_is_in_hand_does_not_come_back() -> None:
    books = Books()
    books.read(1, 2, 3, 4, 5)
    books.failed(later())
    books.failed(GIVEN_UP)
    opened = books.started()
    books.finish(opened, ack=False)
    books.started()
    assert books.back(1, 2, 3, 4, 5, attempts=1) == 0
    assert (books.flow.held, books.counters.received) == (4, 5)


@pytest.mark.parametrize("fields", [None, ()])
def test_of_what_is_in_hand_no_body_is_needed(fields: tuple[bytes] | None) -> None:
    books = Books()
    books.read(1)
    assert books.deliveries.recovered(A, [[raw(1), fields]], 0.0, {raw(1): 1}) == 0
    assert books.counters.deleted == 0
    assert books.started().fields


def test_a_deleted_entry_that_comes_back_is_acknowledged() -> None:
    books = Books()
    assert (
        books.deliveries.recovered(A, [[raw(1), None], [raw(2), [b"a", b""]]], 0.0, {})
        == 1
    )
    assert (books.counters.deleted, books.acks.uncommitted) == (1, 1)
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_what_is_acknowledged_and_comes_back_is_acknowledged_again() -> None:
    books = Books()
    books.read(1)
    books.done()
    assert books.acks.to_send()
    assert books.back(1, attempts=1) == 0
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_in_an_order_what_comes_back_has_its_place() -> None:
    books = Books(ordering=KEY)
    books.back(1, 2, key="k")
    books.read(3, key="k")
    assert books.work.length == 1
    assert [books.done()[0].id for _ in range(3)] == [raw(1), raw(2), raw(3)]


def test_what_was_left_open_here_and_taken_over_by_us_is_tried_once_more() -> None:
    books = Books(lease=30.0)
    old = left_open(books, 1)
    assert books.back(1, attempts=1) == 0, "its user has it still"
    assert books.back(1, attempts=1, claimed=True) == 1
    assert books.ack(old)
    assert books.acks.to_send() == [], "the new one counts"
    assert books.started().deliveries == 2


# -- exhausted ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "attempts", "exhausted"),
    [
        (None, 1000, False),
        (1, 0, False),
        (1, 1, True),
        (2, 1, False),
        (2, 2, True),
        (5, 4, False),
        (5, 5, True),
        (5, 6, True),
    ],
)
def test_what_has_no_attempt_left_is_not_started(
    most: int | None,
    attempts: int,
    exhausted: bool,  # noqa: FBT001
) -> None:
    books = Books(max_attempts=most)
    assert books.back(1, attempts=attempts) == (not exhausted)
    assert ids(books.exhausted) == [raw(1)] * exhausted
    assert books.counters.received == 1
    assert books.work.length == (not exhausted)
    assert books.acks.dead_lettering == exhausted


def test_what_has_no_attempt_left_is_dead_with_its_body_and_what_it_had() -> None:
    books = Books(max_attempts=2)
    books.back(1, attempts=3)
    [entry] = books.acks.dead_letters_to_send(10)
    assert entry.fields == [b"msg", b"ten byt"]
    assert (entry.deliveries, entry.disposition) == (3, GIVEN_UP)
    assert not entry.suspected
    assert (books.flow.held, books.flow.size) == (1, 10)


@pytest.mark.parametrize(
    ("dead_letter_policy", "state"),
    [(Dropped("why"), State.TO_ACK), (Stopped("why"), State.UNSETTLED)],
)
def test_what_has_no_attempt_left_is_dropped_or_left_where_that_is_asked_for(
    dead_letter_policy: Dropped | Stopped, state: State
) -> None:
    books = Books(max_attempts=2, exhausted=dead_letter_policy)
    books.back(1, 2, attempts=2)
    assert [now(entry) for entry in books.exhausted] == [state] * 2
    assert (books.flow.held, books.flow.size, books.acks.dead_lettering) == (0, 0, 0)
    assert books.counters.dropped == 2 * isinstance(dead_letter_policy, Dropped)
    assert books.acks.uncommitted == 2 * isinstance(dead_letter_policy, Dropped)
    assert books.counters.left == 2 * isinstance(dead_letter_policy, Stopped)
    assert known(books, A, raw(1))
    assert books.next() is None


def test_others_are_booked_beside_what_has_no_attempt_left() -> None:
    books = Books(max_attempts=2)
    counts = {raw(1): 0, raw(2): 3, raw(3): 2}
    entries = [[raw(n), [b"msg", b"a"]] for n in (1, 2, 3)]
    assert books.deliveries.recovered(A, entries, 0.0, counts) == 2
    assert ids([books.started(), books.started()]) == [raw(1), raw(3)]
    assert ids(books.acks.dead_letters_to_send(10)) == [raw(2)]


def test_left_without_an_attempt_it_is_given_back_with_what_it_had() -> None:
    books = Books(max_attempts=2, exhausted=Stopped("why"))
    books.back(1, attempts=2)
    assert list(books.removals.release()) == [(A, 3, [raw(1)])]


# -- starting ----------------------------------------------------------------------


def test_what_is_put_back_comes_first_again_and_was_not_tried() -> None:
    books = Books()
    books.back(1, 2, delivered=True)
    [entry] = books.work.take_counted()
    rings = books.ready_rings
    books.put_back(entry)
    assert books.ready_rings == rings + 1
    assert now(entry) is State.TO_COUNT
    assert (books.flow.held, books.work.length) == (2, 2)
    assert books.work.take_counted() == [entry]
    assert entry.deliveries == 1
    books.put_back(entry)
    assert list(books.removals.release()) == [(A, 1, [raw(1), raw(2)])]


def test_what_was_new_and_is_put_back_is_told_of_before_it_starts() -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    books.put_back(entry)
    assert books.work.take() is None
    assert books.work.take_counted() == [entry]


def test_what_is_put_back_keeps_its_lane() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    entry = books.started()
    books.put_back(entry)
    assert books.work.length == 1
    assert ids(books.done()) == [raw(1)]
    assert ids(books.done()) == [raw(2)]


@pytest.mark.parametrize("how", ["lost", "released"])
def test_what_has_left_meanwhile_is_not_put_back(how: str) -> None:
    books = Books(ordering=KEY)
    books.back(1, 2, key="k", attempts=1)
    entry = books.started()
    assert books.work.length == 0
    if how == "lost":
        books.removals.lose(entry)
    else:
        list(books.removals.release())
    assert not books.may_start(entry)
    books.put_back(entry)
    assert (books.flow.held, books.work.length) == ((1, 1) if how == "lost" else (0, 0))
    assert books.counters.left == 0


def test_what_was_lost_before_it_started_is_lost_once() -> None:
    books = Books()
    books.back(1)
    entry = books.started()
    books.removals.lose(entry)
    books.removals.lose(entry)
    assert (books.counters.lost, now(entry)) == (1, State.LOST)
    assert not known(books, A, raw(1))
    assert books.flow.held == 1, "somebody has it in hand"
    books.finish(entry, ack=False)
    assert books.flow.held == 0


def test_the_reader_is_rung_when_what_is_due_is_taken() -> None:
    books = Books(max_messages=4)
    books.back(*range(4), delivered=True)
    assert books.read_budget() == 0
    books.flow.waiting_changed(5)
    rings = books.room_rings
    books.work.take_counted()
    assert books.room_rings == rings + 1


def test_a_reader_that_found_room_is_not_rung_when_what_is_due_is_taken() -> None:
    books = Books()
    books.back(1)
    books.work.take_counted()
    assert books.room_rings == 0


# -- suspects ----------------------------------------------------------------------


def test_suspects_run_beside_each_other_and_beside_new_ones() -> None:
    books = Books()
    books.back(1, 2, attempts=1)
    books.back(3, delivered=True)
    books.read(4, 5)
    taken = [books.started() for _ in range(5)]
    assert ids(taken) == [raw(n) for n in range(1, 6)]
    assert [entry.suspected for entry in taken] == [True, True, True, False, False]
    assert not any(entry.probe for entry in taken)


@pytest.mark.parametrize(
    ("most", "attempts", "alone"),
    [
        (2, 1, True),
        (3, 1, False),
        (3, 2, True),
        (5, 3, False),
        (5, 4, True),
        (None, 3, False),
        (None, 4, True),
        (None, 40, True),
    ],
)
def test_a_suspect_runs_alone_on_its_last_allowed_attempt(
    *, most: int | None, attempts: int, alone: bool
) -> None:
    books = Books(max_attempts=most)
    books.back(1, attempts=attempts)
    assert books.work.next_is_probe == alone
    assert books.started().probe == alone


def test_what_failed_here_on_its_last_attempt_but_one_need_not_run_alone() -> None:
    """It is known that it does not kill."""
    books = Books(max_attempts=2)
    books.read(1)
    books.failed(later(due=5.0))
    books.retries.make_due(5.0)
    assert books.work.next_is_repeated
    assert not books.work.next_is_probe
    again = books.started()
    assert (again.deliveries, again.suspected, again.probe) == (2, False, False)


def test_a_suspect_that_failed_and_did_no_harm_is_none_any_more() -> None:
    books = Books()
    books.back(1, 2, attempts=1)
    books.failed(later(due=5.0))
    assert books.started().id == raw(2)
    assert books.retries.make_due(5.0) == 1
    again = books.started()
    assert (again.id, again.deliveries, again.suspected) == (raw(1), 3, False)
    books.finish(again, ack=True)
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_several_are_taken_at_once_but_what_runs_alone_by_itself() -> None:
    books = Books(max_attempts=3)
    books.back(1, 2, attempts=1)
    books.back(3, attempts=2)
    books.back(4, attempts=1)
    assert ids(books.work.take_counted(9)) == [raw(1), raw(2)]
    assert ids(books.work.take_counted(9)) == [raw(3)]
    assert ids(books.work.take_counted(9)) == [raw(4)]
    assert books.work.take_counted(9) == []


def test_apart_each_further_attempt_is_taken_by_itself() -> None:
    books = Books()
    books.back(1, 2, delivered=True)
    books.back(3, 4, attempts=1)
    assert ids(books.work.take_counted(9, apart=True)) == [raw(1), raw(2)]
    assert ids(books.work.take_counted(9, apart=True)) == [raw(3)]
    assert ids(books.work.take_counted(9, apart=True)) == [raw(4)]


def test_during_an_outage_no_suspect_is_tried_but_others_are() -> None:
    books = Books()
    books.back(1, attempts=1)
    books.read(2)
    books.hold_suspects(held=True)
    assert ids([books.next(), books.next()]) == [raw(2), None]
    books.hold_suspects(held=False)
    assert books.started().id == raw(1)


def test_where_order_is_strict_nothing_goes_past_a_suspect_in_an_outage() -> None:
    books = Books(strict=True)
    books.read(1)
    books.back(2, 3, attempts=1)
    books.read(4)
    books.hold_suspects(held=True)
    assert ids([books.next(), books.next()]) == [raw(1), None]
    assert not books.work.next_is_counted
    assert not books.work.next_is_repeated
    assert books.work.length == 0
    assert books.flow.held == 4
    books.read(5)
    assert books.next() is None
    books.hold_suspects(held=False)
    assert books.work.length == 4
    for number in (2, 3, 4, 5):
        entry = books.started()
        assert entry.id == raw(number)
        books.finish(entry, ack=True)


def test_suspects_that_could_not_be_counted_are_put_back_and_wait_in_order() -> None:
    books = Books()
    books.back(1, 2, 3, attempts=1)
    taken = books.work.take_counted(2)
    books.hold_suspects(held=True)
    for entry in reversed(taken):
        books.put_back(entry)
    assert books.next() is None
    assert books.flow.held == 3
    books.hold_suspects(held=False)
    assert ids(books.work.take_counted(9)) == [raw(1), raw(2), raw(3)]


def test_suspects_that_stepped_aside_are_given_back_and_dropped_like_others() -> None:
    books = Books()
    books.back(1, 2, attempts=1)
    books.back(3, shard=B, attempts=1)
    books.hold_suspects(held=True)
    assert books.next() is None
    assert books.removals.drop(A) == 2
    assert books.flow.held == 1
    assert books.removals.release_shard(B) == [(B, 2, [raw(3)])]
    assert books.flow.held == 0


def test_leases_of_suspects_that_stepped_aside_come_first_too() -> None:
    books = Books(lease=30.0)
    books.back(1, 2, attempts=1, now=0.0)
    books.hold_suspects(held=True)
    assert books.next() is None
    assert books.work.length == 0
    assert not books.leases.overdue(29.9)
    assert books.leases.overdue(30.0)


def test_nothing_is_taken_over_while_a_suspect_waits_to_run_alone() -> None:
    books = Books(max_messages=1000, max_attempts=2)
    books.back(1, 2, attempts=1)
    books.flow.waiting_changed(30)
    first = books.started()
    assert books.claim_budget() == 0, "others of the group can do the rest"
    second = books.started()
    rings = books.room_rings
    books.finish(first, ack=True)
    assert books.room_rings > rings
    assert books.claim_budget() == 30
    books.finish(second, ack=True)


def test_suspects_that_wait_behind_another_one_to_run_alone_are_left_to_others() -> (
    None
):
    books = Books(lease=30.0, max_attempts=2)
    books.back(1, 2, 3, attempts=1, now=0.0)
    books.read(4, now=10.0)
    assert [due.ids for due in books.to_renew(10.0)] == [[raw(1)]]
    assert books.flow.held == 4
    assert [due.ids for due in books.to_renew(20.0)] == [[raw(1), raw(4)]]
    assert books.flow.held == 2, "the leases of 2 and 3 are about to end"
    assert not known(books, A, raw(2))
    assert books.counters.lost == 0
    books.finish(books.started(), ack=True)
    assert ids([books.next()]) == [raw(4)]


@pytest.mark.parametrize("ordering", [KEY, Ordering.SHARD])
def test_where_that_would_break_an_order_they_stay(ordering: Ordering) -> None:
    books = Books(lease=30.0, max_attempts=2, ordering=ordering)
    books.back(1, 2, attempts=1, key="k", now=0.0)
    assert [due.ids for due in books.to_renew(20.0)] == [[raw(1), raw(2)]]
    assert books.removals.release_probes(1) == []
    assert books.flow.held == 2


def test_too_many_that_would_wait_to_run_alone_are_released_with_their_counts() -> None:
    books = Books(max_attempts=3)
    books.back(1, 2, 3, attempts=2)
    books.back(4, 5, attempts=1)
    books.back(6, shard=B, attempts=2)
    assert books.read_budget() == 0 or books.room_rings == 0
    assert books.removals.release_probes(2) == [(A, 3, [raw(3)]), (B, 3, [raw(6)])]
    assert ids(books.work.take_counted()) == [raw(1)]
    assert books.removals.release_probes(1) == []
    assert books.flow.held == 4


def test_the_reader_is_rung_when_suspects_are_released() -> None:
    books = Books(max_attempts=2, max_messages=2)
    books.back(1, 2, attempts=1)
    assert books.read_budget() == 0
    books.removals.release_probes(1)
    assert books.room_rings == 1


# -- leases ------------------------------------------------------------------------


def test_what_may_be_another_consumer_s_by_now_is_not_taken_in_any_way() -> None:
    books = Books(lease=30.0)
    books.read(1, now=0.0)
    books.read(2, now=10.0)
    books.work.begin_turn(29.9)
    assert books.work.take_counted()
    books.work.begin_turn(40.0)
    assert books.work.take() is None
    assert books.work.take_fresh(9) == []
    assert books.work.take_counted(9) == []
    assert not books.work.next_is_counted
    books.work.counts_starts = False
    assert books.work.take() is None
    assert books.work.take_fresh(9) == []
    [renewal] = books.to_renew(40.0)
    assert renewal.late
    books.leases.renewed(renewal, 40.0)
    assert ids([books.next()]) == [raw(2)]


def test_an_older_one_behind_a_younger_one_is_held_back_too() -> None:
    books = Books(lease=30.0)
    books.read(1, now=5.0)
    books.read(2, now=0.0)
    books.work.begin_turn(30.0)
    assert ids([books.next(), books.next()]) == [raw(1), None]


def test_a_count_that_is_confirmed_renews_the_lease() -> None:
    books = Books(lease=30.0)
    books.read(1, now=0.0)
    entry = books.started()
    books.leases.counted(entry, 15.0)
    assert books.leases.left(entry, 20.0) == 25.0
    books.leases.counted(entry, 10.0)
    assert books.leases.left(entry, 20.0) == 25.0, "a later one came first"


def test_what_runs_is_known_to_the_guard() -> None:
    books = Books()
    books.read(1, 2, 3)
    one, two = books.started(), books.started()
    books.refuse(two, later(), two.fields)
    assert (books.running, books.untracked) == ([one, two], 0)
    books.processed(one)
    assert books.running == [two]


def test_without_acks_it_is_known_how_many_run() -> None:
    books = Books(acks=False, ordering=KEY)
    books.read(1, 2, 3, key="k")
    books.started()
    assert (books.running, books.untracked) == ([], 1)


def test_while_a_suspect_runs_alone_it_is_told_when_anything_has_finished() -> None:
    books = Books()
    finished: list[str] = []
    books.read(1, 2, 3)
    taken = [books.started() for _ in range(3)]
    assert not books.urgent
    books.on_finished = lambda: finished.append("")
    assert books.urgent
    books.finish(taken[0], ack=True)
    assert len(finished) == 1
    books.ack_confirmed(the(books.acks.to_send()))
    assert len(finished) == 2
    for entry in taken[1:]:
        books.fail(entry, DeadLettered("x"))
    assert len(finished) == 4
    first, second = books.acks.dead_letters_to_send(2)
    books.dead_letter_confirmed(first, ours=True)
    books.dead_letter_written(second)
    books.ack_confirmed(the(books.acks.to_send()))
    assert len(finished) == 6


def test_without_acks_a_lease_never_ends() -> None:
    books = Books(acks=False)
    books.read(1)
    assert books.leases.left(books.started(), 1e9) == float("inf")


def test_a_lease_is_left_as_long_as_there_is_no_outcome() -> None:
    books = Books(lease=30.0)
    books.read(1, 2, now=5.0)
    entry = books.started()
    assert books.leases.left(entry, 20.0) == 15.0
    assert books.leases.left(entry, 35.1) == 0.0
    books.refuse(entry, later(), entry.fields)
    assert books.leases.left(entry, 20.0) == 15.0
    books.finish(entry, ack=False)
    assert books.leases.left(entry, 20.0) == 0.0
    opened = books.started()
    books.finish(opened, ack=False)
    assert books.leases.left(opened, 20.0) == 15.0
    books.ack(opened)
    assert books.leases.left(opened, 20.0) == 0.0


# -- counting ----------------------------------------------------------------------


def slow() -> Books:
    books = Books()
    books.work.begin_turn(0.0)
    assert books.work.counts_starts
    return books


def test_while_the_pace_is_slow_each_start_is_counted() -> None:
    books = slow()
    books.read(1, 2, 3)
    assert books.work.take() is None
    assert books.work.take_fresh(9) == []
    assert books.work.next_is_counted
    assert [now(entry) for entry in books.work.take_counted(2)] == [State.RUNNING] * 2
    assert ids([books.next()]) == [raw(3)]


def test_while_the_pace_is_quick_first_starts_are_not_counted() -> None:
    books = Books(max_messages=5000)
    books.read_budget(now=0.0)
    books.read(*range(3000))
    for _ in range(2500):
        books.done()
    books.read_budget(now=1.0)
    assert books.flow.rate == 2500
    books.work.begin_turn(1.0)
    assert books.work.take() is not None
    assert not books.work.next_is_counted
    books.read_budget(now=10.0)
    books.done()
    books.read_budget(now=1001.0)
    books.work.begin_turn(1.0)
    assert books.work.take() is None
    assert books.work.next_is_counted


def test_with_one_attempt_each_start_is_counted_at_any_pace() -> None:
    books = Books(max_messages=5000, max_attempts=1)
    books.read_budget(now=0.0)
    books.read(*range(3000))
    for _ in range(2500):
        books.done()
    books.read_budget(now=1.0)
    books.work.begin_turn(1.0)
    assert books.work.take() is None
    assert books.work.next_is_counted


def test_without_acks_nothing_is_counted() -> None:
    books = Books(acks=False)
    books.read(1)
    books.work.begin_turn(1e9)
    assert not books.work.next_is_counted
    assert books.work.take() is not None


def test_what_has_a_handler_by_an_earlier_read_waits_for_it_and_is_counted() -> None:
    books = slow()
    books.read(1, 2)
    [first] = books.work.take_counted()
    books.read(1, rewound=True)
    assert ids(books.work.take_counted(9)) == [raw(2)]
    books.finish(first, ack=True)
    assert ids(books.work.take_counted(9)) == [raw(1)]


def test_what_was_not_started_is_given_back_as_such() -> None:
    books = Books()
    books.read(1)
    books.back(2, delivered=True)
    books.back(3, attempts=2)
    assert list(books.removals.release()) == [
        (A, 0, [raw(1)]),
        (A, 1, [raw(2)]),
        (A, 3, [raw(3)]),
    ]


def test_what_was_interrupted_is_given_back_as_not_started() -> None:
    books = Books()
    books.read(1, 2)
    books.back(3, attempts=1)
    one, _, three = (books.started() for _ in range(3))
    books.put_back(one)
    books.put_back(three)
    assert list(books.removals.release()) == [
        (A, 2, [raw(3)]),
        (A, 0, [raw(1), raw(2)]),
    ]


def test_what_has_failed_or_has_no_outcome_is_given_back_as_started() -> None:
    books = Books()
    books.read(1, 2, 3)
    books.failed(later())
    books.finish(books.started(), ack=False)
    nacked = books.started()
    books.refuse(nacked, later(), nacked.fields)
    given = list(books.removals.release())
    assert {count for _, count, _ in given} == {2}
    assert sorted(id_ for _, _, ids_ in given for id_ in ids_) == [
        raw(1),
        raw(2),
        raw(3),
    ]


def shown(renewals: list[LeaseRenewal]) -> list[tuple[object, list[bytes], int | None]]:
    return [(due.shard_state.shard, due.ids, due.count) for due in renewals]


def test_what_waits_for_long_is_renewed_with_what_runs() -> None:
    books = Books(lease=30.0, max_messages=5000)
    books.read(1, 2, now=0.0)
    books.back(3, attempts=2, now=0.0)
    books.read(4, shard=B, now=0.0)
    running = books.started()
    renewals = books.to_renew(10.0)
    assert shown(renewals) == [
        (A, [raw(1), raw(2), raw(3)], None),
        (B, [raw(4)], None),
    ]
    assert now(running) is State.RUNNING


def test_past_two_thirds_of_a_lease_it_has_to_be_asked_whose_it_is() -> None:
    books = Books(lease=30.0)
    books.read(1, now=0.0)
    books.read(2, shard=B, now=10.0)
    renewals = books.to_renew(20.0)
    assert shown(renewals) == [(A, [raw(1)], None), (B, [raw(2)], None)]
    assert all(due.late for due in renewals)


def test_what_is_postponed_dead_or_being_buried_is_renewed_too() -> None:
    books = Books(lease=30.0)
    books.read(1, 2, 3, now=0.0)
    books.failed(later(due=1e9))
    books.failed(DeadLettered("x"))
    books.acks.dead_letters_to_send(1)
    books.failed(DeadLettered("y"))
    assert shown(books.to_renew(10.0)) == [(A, [raw(1), raw(2), raw(3)], None)]
    assert [books.to_renew(9.9)] == [[]]
