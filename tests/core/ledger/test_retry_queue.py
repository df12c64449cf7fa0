"""Outcomes other than an acknowledgement: retried, dropped, left."""

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
    SpyLedger,
    ids,
    known,
    later,
    left_unsettled,
    only,
    raw,
    state_of,
)

# -- postponed ---------------------------------------------------------------------


def test_a_failed_entry_is_retried_at_its_time_and_before_all_other_entries() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, now=3.0)
    failed = ledger.fail_next(later(due=10.0))
    assert state_of(failed) is State.LOST, "later calls on it do not count"
    assert (ledger.flow.held, ledger.flow.size, ledger.work.length) == (2, 20, 1)
    assert (ledger.counters.retried, ledger.counters.lost, ledger.counters.left) == (
        1,
        0,
        0,
    )
    assert ledger.retries.next_due == 10.0
    assert ledger.retries.make_due(9.9) == 0
    assert ledger.retries.make_due(10.0) == 1
    assert ledger.work.length == 2
    assert ledger.work.take() is None, "the server has to count the start first"
    again = ledger.start_next()
    assert again is not failed
    assert (again.id, again.fields) == (raw(1), [b"msg", b""])
    assert (again.deliveries, again.size, again.leased_at) == (2, 10, 3.0)
    assert again.disposition is None
    ledger.finish(again, ack=True)
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_attempts_are_counted_across_retries() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    for attempt in range(1, 5):
        assert ledger.fail_next(later(due=float(attempt))).deliveries == attempt
        assert ledger.retries.make_due(float(attempt)) == 1


def test_a_late_outcome_for_a_retried_entry_is_dropped() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    failed = ledger.fail_next()
    assert ledger.ack(failed)
    assert ledger.refuse(failed, GIVEN_UP, [b"msg", b""])
    assert ledger.counters.late == 2
    assert (ledger.acks.uncommitted, ledger.acks.dead_lettering) == (0, 0)
    assert known(ledger, A, raw(1))


def test_the_retrier_is_woken_when_the_earliest_due_time_changes() -> None:
    ledger = SpyLedger()
    ledger.read(*range(4))
    signals = []
    for due in (10.0, 20.0, 10.0, 5.0):
        ledger.fail_next(later(due))
        signals.append((ledger.postponed_signals, ledger.retries.next_due))
    assert signals == [(1, 10.0), (1, 10.0), (1, 10.0), (2, 5.0)]
    assert ledger.retries.make_due(10.0) == 3
    assert ledger.retries.next_due == 20.0


def test_an_entry_that_has_left_is_not_due() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2)
    ledger.read(3, shard=B)
    for due in (5.0, 6.0, 7.0):
        ledger.fail_next(later(due))
    assert ledger.removals.drop(B) == 1
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert ledger.retries.next_due == 6.0
    assert ledger.retries.make_due(100.0) == 1
    assert ledger.retries.next_due is None
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(2), None]


def test_a_nack_takes_effect_when_the_handler_has_finished() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    entry = ledger.start_next()
    assert ledger.refuse(entry, later(), entry.fields)
    assert state_of(entry) is State.FAILED
    assert (ledger.retries.next_due, ledger.counters.retried) == (None, 0)
    assert not ledger.may_start(entry)
    ledger.finish(entry, ack=True)
    assert state_of(entry) is State.LOST
    assert ledger.retries.next_due == 10.0
    assert (ledger.flow.held, ledger.acks.uncommitted, ledger.counters.late) == (
        2,
        0,
        0,
    )


def test_an_outcome_that_the_handler_recorded_takes_precedence_over_its_failure() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1, 2)
    said = ledger.start_next()
    ledger.refuse(said, later(due=3.0), said.fields)
    ledger.fail(said, GIVEN_UP)
    assert (ledger.retries.next_due, ledger.acks.dead_lettering) == (3.0, 0)
    acked = ledger.start_next()
    ledger.ack(acked)
    ledger.fail(acked, GIVEN_UP)
    assert ledger.acks.dead_lettering == 0
    assert only(ledger.acks.to_send()).ids == [raw(2)]


@pytest.mark.parametrize("how", ["lost", "released"])
def test_a_failure_of_an_entry_that_has_left_has_no_effect(how: str) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    if how == "lost":
        ledger.removals.lose(entry)
    else:
        list(ledger.removals.release())
    ledger.fail(entry, GIVEN_UP)
    assert (ledger.flow.held, ledger.acks.dead_lettering, ledger.counters.late) == (
        0,
        0,
        0,
    )


@pytest.mark.parametrize("released", [False, True])
def test_a_refusal_that_comes_too_late_has_no_effect(
    released: bool,  # noqa: FBT001
) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    if released:
        list(ledger.removals.release())
    else:
        ledger.removals.lose(entry)
    assert ledger.refuse(entry, GIVEN_UP, entry.fields) == (not released)
    assert ledger.counters.late == (not released)
    assert entry.disposition is None
    assert ledger.acks.dead_lettering == 0


# -- unsettled, and refused later --------------------------------------------------


def test_an_unsettled_entry_can_be_retried() -> None:
    ledger = SpyLedger()
    entry = left_unsettled(ledger, 1)
    assert ledger.flow.held == 0
    assert ledger.refuse(entry, later(due=4.0), [b"msg", b"kept"])
    assert (ledger.flow.held, ledger.flow.size, ledger.retries.next_due) == (1, 10, 4.0)
    assert state_of(entry) is State.LOST
    ledger.retries.make_due(4.0)
    again = ledger.start_next()
    assert again.fields == [b"msg", b"kept"]
    assert again.deliveries == 2


def test_an_unsettled_entry_can_be_dead_lettered() -> None:
    ledger = SpyLedger()
    entry = left_unsettled(ledger, 1)
    assert ledger.refuse(entry, GIVEN_UP, [b"msg", b"kept"])
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.dead_lettering) == (
        1,
        10,
        1,
    )
    [dead] = ledger.acks.dead_letters_to_send(10)
    assert dead is entry
    assert dead.fields == [b"msg", b"kept"]


def test_refusing_an_unsettled_entry_that_has_left_the_ledger_has_no_effect() -> None:
    ledger = SpyLedger(lease=30.0)
    entry = left_unsettled(ledger, 1)
    ledger.read(2, now=100.0)
    assert not known(ledger, A, raw(1))
    assert ledger.refuse(entry, GIVEN_UP, [b"msg", b""])
    assert (state_of(entry), ledger.acks.dead_lettering) == (State.UNSETTLED, 0)
    ledger.close()
    assert not ledger.refuse(entry, GIVEN_UP, [b"msg", b""])


def test_an_unsettled_entry_has_given_up_its_lane() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, 3, key="k")
    entry = ledger.start_next()
    ledger.finish(entry, ack=False)
    second = ledger.start_next()
    ledger.refuse(entry, later(due=1.0), [b"msg", b"", b"key", b"k"])
    ledger.retries.make_due(1.0)
    assert ledger.work.length == 0, "more than one entry of a key may be taken"
    ledger.finish(second, ack=True)
    assert [ledger.process_next()[0].id for _ in range(2)] == [raw(3), raw(1)]
    assert not ledger._ready_queue._lanes


# -- dropped and left --------------------------------------------------------------


@pytest.mark.parametrize("unsettled", [False, True])
def test_a_dropped_entry_is_acknowledged(unsettled: bool) -> None:  # noqa: FBT001
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    if unsettled:
        ledger.finish(entry, ack=False)
        ledger.refuse(entry, Dropped("why"), [b"msg", b""])
    else:
        ledger.fail(entry, Dropped("why"))
    assert state_of(entry) is State.TO_ACK
    assert entry.fields == ()
    assert (ledger.flow.held, ledger.counters.dropped, ledger.outcome_signals) == (
        0,
        1,
        1,
    )
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert not known(ledger, A, raw(1))


@pytest.mark.parametrize("unsettled", [False, True])
def test_an_entry_left_by_stop_stays_pending(unsettled: bool) -> None:  # noqa: FBT001
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    entry = ledger.start_next()
    if unsettled:
        ledger.finish(entry, ack=False)
        ledger.refuse(entry, Stopped("why"), [b"msg", b""])
    else:
        ledger.fail(entry, Stopped("why"))
    assert state_of(entry) is State.UNSETTLED
    assert entry.fields == ()
    assert (ledger.flow.held, ledger.counters.left) == (1, 1 + unsettled)
    assert (
        ledger.acks.uncommitted,
        ledger.acks.dead_lettering,
        ledger.retries.next_due,
    ) == (0, 0, None)
    assert ledger.start_next().id == raw(2)
    # The handler of entry 2 is interrupted, which is no attempt.
    assert list(ledger.removals.release()) == [(A, 2, [raw(1)]), (A, 0, [raw(2)])]


@pytest.mark.parametrize(
    "disposition", [later(), DeadLettered("x"), Dropped("x"), Stopped("x")]
)
def test_the_reader_is_woken_for_the_capacity_that_a_failure_frees(
    disposition: Disposition,
) -> None:
    ledger = SpyLedger(max_messages=2)
    ledger.read(1, 2)
    taken = [ledger.start_next() for _ in range(2)]
    ledger.flow.waiting_changed(1)
    assert ledger.read_budget() == 0
    signals = ledger.capacity_signals
    ledger.fail(taken[0], disposition)
    keeps = isinstance(disposition, DeadLettered) or disposition == later()
    assert ledger.flow.held == 1 + keeps
    assert (ledger.read_budget() > 0) == (not keeps)
    assert keeps or ledger.capacity_signals > signals


# -- order -------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", [KEY, SHARD])
def test_a_lane_waits_for_its_retry(ordering: Ordering) -> None:
    ledger = SpyLedger(ordering=ordering)
    ledger.read(1, 2, 3, key="k")
    ledger.read(4, shard=B, key="k")
    ledger.fail_next(later(due=5.0))
    assert ids(ledger.process_next()) == [raw(4)]
    for attempt in range(2, 5):
        assert ledger.take_next() is None
        due = 5.0 * attempt
        assert ledger.retries.make_due(due) == 1
        again = ledger.start_next()
        assert (again.id, again.deliveries) == (raw(1), attempt)
        assert ledger.take_next() is None
        ledger.fail(again, later(due + 5.0))
    ledger.retries.make_due(1e9)
    assert [ledger.process_next()[0].id for _ in range(3)] == [raw(1), raw(2), raw(3)]
    assert not ledger._ready_queue._lanes


def test_without_an_order_no_entry_waits_for_a_retry() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, key="k")
    ledger.fail_next()
    assert ledger.start_next().id == raw(2)


def test_the_next_entry_of_a_lane_runs_when_the_one_before_was_given_up() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    ledger.fail_next(GIVEN_UP)
    assert ledger.start_next().id == raw(2)


def test_dropping_a_retry_removes_its_lane() -> None:
    ledger = SpyLedger(ordering=SHARD)
    ledger.read(1, 2)
    ledger.read(3, shard=B)
    ledger.fail_next()
    ledger.fail_next()
    assert ledger.removals.drop(A) == 2
    assert (ledger.flow.held, ledger.flow.size) == (1, 10)
    assert len(ledger._ready_queue._lanes) == 1
    ledger.read(4)
    assert ledger.start_next().id == raw(4)


def test_a_retry_is_released_with_its_shard_and_its_attempts() -> None:
    ledger = SpyLedger(ordering=SHARD)
    ledger.read(1, 2)
    ledger.fail_next()
    assert ledger.removals.release_shard(A) == [(A, 2, [raw(1)]), (A, 0, [raw(2)])]
    assert (ledger.flow.held, ledger.retries.next_due) == (0, None)
    assert not ledger._ready_queue._lanes


def test_a_retry_that_is_due_again_is_released_with_its_attempts() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.fail_next(later(due=1.0))
    ledger.retries.make_due(1.0)
    ledger.fail_next(later(due=2.0))
    ledger.retries.make_due(2.0)
    assert list(ledger.removals.release()) == [(A, 3, [raw(1)]), (A, 0, [raw(2)])]


def test_losing_a_retry_lets_its_lane_go_on() -> None:
    ledger = SpyLedger(ordering=KEY, lease=30.0)
    ledger.read(1, 2, key="k")
    ledger.fail_next()
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert (ledger.flow.held, ledger.flow.size, ledger.counters.lost) == (1, 10, 1)
    assert ledger.start_next().id == raw(2)
    assert len(ledger._ready_queue._lanes) == 1


def test_a_renewal_that_was_sent_before_the_failure_does_not_affect_the_retry() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1)
    entry = ledger.start_next()
    [renewal] = ledger.to_renew(25.0)
    ledger.fail(entry, later())
    assert renewal.ids == []
    assert len(ledger.removals.lose_all_but(renewal, [])) == 0
    ledger.leases.renewed(renewal, 25.0)
    [renewal] = ledger.to_renew(25.0)
    assert renewal.ids == [raw(1)], "the next renewal includes the retry"


def test_in_a_new_order_a_retry_has_no_lane_until_it_is_due() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3, key="k")
    ledger.fail_next(later(due=1.0))
    ledger.order_by(KEY)
    second = ledger.start_next()
    assert ledger.take_next() is None
    ledger.retries.make_due(1.0)
    assert ledger.take_next() is None, "more than one entry of a key may be taken"
    ledger.finish(second, ack=True)
    assert [ledger.process_next()[0].id for _ in range(2)] == [raw(3), raw(1)]
    assert not ledger._ready_queue._lanes


def test_after_an_order_has_ended_a_retry_still_comes_first() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    ledger.fail_next(later(due=1.0))
    ledger.order_by(NONE)
    assert ledger.work.length == 1
    ledger.retries.make_due(1.0)
    assert ids(entry for _ in range(2) for entry in ledger.process_next()) == [
        raw(1),
        raw(2),
    ]


def test_a_failed_entry_keeps_its_place_in_the_order_of_reading() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, key="k")
    ledger.read(3, shard=B, key="k")
    ledger.fail_next(later(due=1.0))
    ledger.read(4, key="k")
    ledger.retries.make_due(1.0)
    ledger.order_by(KEY)
    ledger.order_by(NONE)
    assert ids(ledger._queue) == [raw(1), raw(2), raw(4), raw(3)]


# -- redelivery --------------------------------------------------------------------


def test_a_postponed_entry_that_is_redelivered_is_handled_at_once() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    ledger.fail_next(later(due=5.0))
    assert ledger.read(1, key="k") == 0, "without a rewind it is not redelivered"
    assert ledger.read(1, 2, key="k", rewound=True) == 1
    assert (ledger.flow.held, ledger.retries.next_due, ledger.counters.lost) == (
        2,
        None,
        0,
    )
    assert ids(ledger.process_next()) == [raw(2)], "it was read before the redelivery"
    entry = ledger.start_next()
    assert (entry.id, entry.deliveries) == (raw(1), 1)


def test_a_failed_entry_that_is_redelivered_waits_for_its_handler() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    ledger.refuse(entry, GIVEN_UP, entry.fields)
    assert ledger.read(1, rewound=True) == 1
    assert ledger.take_next() is None
    ledger.finish(entry, ack=False)
    assert (ledger.acks.dead_lettering, ledger.flow.held) == (0, 1)
    assert ledger.start_next().deliveries == 1


def test_closing_keeps_no_postponed_entry() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.fail_next(later(due=5.0))
    ledger.close()
    assert not ledger.retries._postponed
    assert (ledger.flow.held, ledger.retries.next_due) == (0, None)
    assert ledger.retries.make_due(5.0) == 0
