"""Delivery counts: the server counts the starts of handlers."""

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
    SpyLedger,
    ids,
    known,
    later,
    left_unsettled,
    only,
    raw,
    state_of,
)

# -- recovery ----------------------------------------------------------------------


def test_the_start_of_a_recovered_entry_is_counted_before_it_runs() -> None:
    ledger = SpyLedger()
    assert ledger.recover(1, 2, delivered=True, now=7.5) == 2
    assert (ledger.flow.held, ledger.flow.size, ledger.work.length) == (2, 20, 2)
    assert ledger.counters.received == 2
    assert ledger.work.take() is None
    assert ledger.work.next_is_counted
    [entry] = ledger.work.take_counted()
    assert (entry.id, state_of(entry)) == (raw(1), State.RUNNING)
    assert (entry.deliveries, entry.leased_at, entry.size) == (1, 7.5, 10)
    assert entry.suspected, "it may have been started, too fast to be counted"
    assert ledger.may_start(entry)
    assert ledger.flow.held == 2


def test_an_entry_that_certainly_was_not_started_is_not_a_suspect() -> None:
    ledger = SpyLedger()
    ledger.recover(1, 2, 3, attempts=0)
    taken = [ledger.work.take() for _ in range(3)]
    assert ids(taken) == [raw(1), raw(2), raw(3)]
    assert not any(entry is None or entry.suspected for entry in taken)


@pytest.mark.parametrize("attempts", [1, 2, 7])
def test_an_entry_that_a_handler_had_is_a_suspect_on_its_next_attempt(
    attempts: int,
) -> None:
    ledger = SpyLedger()
    ledger.recover(1, attempts=attempts)
    assert ledger.work.next_is_repeated
    entry = ledger.start_next()
    assert entry.suspected
    assert entry.deliveries == attempts + 1


def test_an_entry_without_a_delivery_count_was_never_started() -> None:
    ledger = SpyLedger()
    ledger.deliveries.recovered(A, [[raw(1), [b"msg", b"a"]]], 0.0, {})
    entry = ledger.start_next()
    assert (entry.deliveries, entry.suspected) == (1, False)
    assert not ledger.work.next_is_repeated


def test_new_entries_wait_behind_recovered_ones() -> None:
    ledger = SpyLedger()
    ledger.recover(1, delivered=True)
    ledger.read(2)
    assert ledger.work.take() is None, "entry 2 would start before its turn"
    assert ledger.start_next().id == raw(1)
    assert not ledger.work.next_is_counted
    assert not ledger.work.next_is_repeated
    assert ids([ledger.work.take()]) == [raw(2)]
    assert not ledger.work.next_is_counted
    assert not ledger.work.next_is_repeated


def test_take_fresh_takes_several_entries_up_to_a_recovered_one() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    ledger.recover(4, delivered=True)
    ledger.read(5)
    assert ids(ledger.work.take_fresh(2)) == [raw(1), raw(2)]
    assert ids(ledger.work.take_fresh(9)) == [raw(3)]
    assert ledger.work.take_fresh(9) == []
    assert ledger.start_next().id == raw(4)
    taken = ledger.work.take_fresh(9)
    assert ids(taken) == [raw(5)]
    assert ledger.may_start(taken[0])
    ledger.finish_all(taken, ack=True)
    ledger.read(6)
    ledger.finish_all(ledger.work.take_fresh(9), ack=False)
    [batch] = ledger.acks.to_send()
    assert batch.ids == [raw(5)]


def test_an_entry_that_the_ledger_has_is_not_recovered() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3, 4, 5)
    ledger.fail_next(later())
    ledger.fail_next(GIVEN_UP)
    unsettled = ledger.start_next()
    ledger.finish(unsettled, ack=False)
    ledger.start_next()
    assert ledger.recover(1, 2, 3, 4, 5, attempts=1) == 0
    assert (ledger.flow.held, ledger.counters.received) == (4, 5)


@pytest.mark.parametrize("fields", [None, ()])
def test_recovery_needs_no_fields_of_an_entry_that_the_ledger_has(
    fields: tuple[bytes] | None,
) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    assert ledger.deliveries.recovered(A, [[raw(1), fields]], 0.0, {raw(1): 1}) == 0
    assert ledger.counters.deleted == 0
    assert ledger.start_next().fields


def test_a_deleted_entry_that_is_recovered_is_acknowledged() -> None:
    ledger = SpyLedger()
    assert (
        ledger.deliveries.recovered(A, [[raw(1), None], [raw(2), [b"a", b""]]], 0.0, {})
        == 1
    )
    assert (ledger.counters.deleted, ledger.acks.uncommitted) == (1, 1)
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_an_acknowledged_entry_that_is_recovered_is_acknowledged_again() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.process_next()
    assert ledger.acks.to_send()
    assert ledger.recover(1, attempts=1) == 0
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_a_recovered_entry_has_its_place_in_its_lane() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.recover(1, 2, key="k")
    ledger.read(3, key="k")
    assert ledger.work.length == 1
    assert [ledger.process_next()[0].id for _ in range(3)] == [raw(1), raw(2), raw(3)]


def test_an_unsettled_entry_that_this_consumer_claims_is_retried() -> None:
    ledger = SpyLedger(lease=30.0)
    old = left_unsettled(ledger, 1)
    assert ledger.recover(1, attempts=1) == 0, "its user still has it"
    assert ledger.recover(1, attempts=1, claimed=True) == 1
    assert ledger.ack(old)
    assert ledger.acks.to_send() == [], "only the later delivery counts"
    assert ledger.start_next().deliveries == 2


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
def test_an_entry_without_an_attempt_left_is_not_started(
    most: int | None,
    attempts: int,
    exhausted: bool,  # noqa: FBT001
) -> None:
    ledger = SpyLedger(max_attempts=most)
    assert ledger.recover(1, attempts=attempts) == (not exhausted)
    assert ids(ledger.exhausted) == [raw(1)] * exhausted
    assert ledger.counters.received == 1
    assert ledger.work.length == (not exhausted)
    assert ledger.acks.dead_lettering == exhausted


def test_an_entry_without_an_attempt_left_is_dead_lettered_with_its_fields() -> None:
    ledger = SpyLedger(max_attempts=2)
    ledger.recover(1, attempts=3)
    [entry] = ledger.acks.dead_letters_to_send(10)
    assert entry.fields == [b"msg", b"ten byt"]
    assert (entry.deliveries, entry.disposition) == (3, GIVEN_UP)
    assert not entry.suspected
    assert (ledger.flow.held, ledger.flow.size) == (1, 10)


@pytest.mark.parametrize(
    ("dead_letter_policy", "state"),
    [(Dropped("why"), State.TO_ACK), (Stopped("why"), State.UNSETTLED)],
)
def test_an_entry_without_an_attempt_left_is_dropped_or_left_by_the_policy(
    dead_letter_policy: Dropped | Stopped, state: State
) -> None:
    ledger = SpyLedger(max_attempts=2, exhausted=dead_letter_policy)
    ledger.recover(1, 2, attempts=2)
    assert [state_of(entry) for entry in ledger.exhausted] == [state] * 2
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.dead_lettering) == (0, 0, 0)
    assert ledger.counters.dropped == 2 * isinstance(dead_letter_policy, Dropped)
    assert ledger.acks.uncommitted == 2 * isinstance(dead_letter_policy, Dropped)
    assert ledger.counters.left == 2 * isinstance(dead_letter_policy, Stopped)
    assert known(ledger, A, raw(1))
    assert ledger.take_next() is None


def test_other_entries_are_recorded_beside_one_without_an_attempt_left() -> None:
    ledger = SpyLedger(max_attempts=2)
    counts = {raw(1): 0, raw(2): 3, raw(3): 2}
    entries = [[raw(n), [b"msg", b"a"]] for n in (1, 2, 3)]
    assert ledger.deliveries.recovered(A, entries, 0.0, counts) == 2
    assert ids([ledger.start_next(), ledger.start_next()]) == [raw(1), raw(3)]
    assert ids(ledger.acks.dead_letters_to_send(10)) == [raw(2)]


def test_an_exhausted_entry_that_was_left_is_released_with_its_attempts() -> None:
    ledger = SpyLedger(max_attempts=2, exhausted=Stopped("why"))
    ledger.recover(1, attempts=2)
    assert list(ledger.removals.release()) == [(A, 3, [raw(1)])]


# -- starting ----------------------------------------------------------------------


def test_an_entry_that_was_put_back_comes_first_and_counts_no_attempt() -> None:
    ledger = SpyLedger()
    ledger.recover(1, 2, delivered=True)
    [entry] = ledger.work.take_counted()
    signals = ledger.ready_signals
    ledger.put_back(entry)
    assert ledger.ready_signals == signals + 1
    assert state_of(entry) is State.TO_COUNT
    assert (ledger.flow.held, ledger.work.length) == (2, 2)
    assert ledger.work.take_counted() == [entry]
    assert entry.deliveries == 1
    ledger.put_back(entry)
    assert list(ledger.removals.release()) == [(A, 1, [raw(1), raw(2)])]


def test_a_new_entry_that_was_put_back_is_counted_before_it_starts() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    ledger.put_back(entry)
    assert ledger.work.take() is None
    assert ledger.work.take_counted() == [entry]


def test_an_entry_that_was_put_back_keeps_its_lane() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    entry = ledger.start_next()
    ledger.put_back(entry)
    assert ledger.work.length == 1
    assert ids(ledger.process_next()) == [raw(1)]
    assert ids(ledger.process_next()) == [raw(2)]


@pytest.mark.parametrize("how", ["lost", "released"])
def test_an_entry_that_has_left_meanwhile_is_not_put_back(how: str) -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.recover(1, 2, key="k", attempts=1)
    entry = ledger.start_next()
    assert ledger.work.length == 0
    if how == "lost":
        ledger.removals.lose(entry)
    else:
        list(ledger.removals.release())
    assert not ledger.may_start(entry)
    ledger.put_back(entry)
    assert (ledger.flow.held, ledger.work.length) == (
        (1, 1) if how == "lost" else (0, 0)
    )
    assert ledger.counters.left == 0


def test_losing_an_entry_twice_counts_once() -> None:
    ledger = SpyLedger()
    ledger.recover(1)
    entry = ledger.start_next()
    ledger.removals.lose(entry)
    ledger.removals.lose(entry)
    assert (ledger.counters.lost, state_of(entry)) == (1, State.LOST)
    assert not known(ledger, A, raw(1))
    assert ledger.flow.held == 1, "a handler still has it"
    ledger.finish(entry, ack=False)
    assert ledger.flow.held == 0


def test_the_reader_is_woken_when_an_entry_to_count_is_taken() -> None:
    ledger = SpyLedger(max_messages=4)
    ledger.recover(*range(4), delivered=True)
    assert ledger.read_budget() == 0
    ledger.flow.waiting_changed(5)
    signals = ledger.capacity_signals
    ledger.work.take_counted()
    assert ledger.capacity_signals == signals + 1


def test_a_reader_with_a_budget_is_not_woken_when_an_entry_to_count_is_taken() -> None:
    ledger = SpyLedger()
    ledger.recover(1)
    ledger.work.take_counted()
    assert ledger.capacity_signals == 0


# -- suspects ----------------------------------------------------------------------


def test_suspects_run_beside_each_other_and_beside_new_entries() -> None:
    ledger = SpyLedger()
    ledger.recover(1, 2, attempts=1)
    ledger.recover(3, delivered=True)
    ledger.read(4, 5)
    taken = [ledger.start_next() for _ in range(5)]
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
    ledger = SpyLedger(max_attempts=most)
    ledger.recover(1, attempts=attempts)
    assert ledger.work.next_is_probe == alone
    assert ledger.start_next().probe == alone


def test_an_entry_that_failed_here_does_not_run_alone_on_its_last_attempt() -> None:
    """An entry that has failed is known not to kill its process."""
    ledger = SpyLedger(max_attempts=2)
    ledger.read(1)
    ledger.fail_next(later(due=5.0))
    ledger.retries.make_due(5.0)
    assert ledger.work.next_is_repeated
    assert not ledger.work.next_is_probe
    again = ledger.start_next()
    assert (again.deliveries, again.suspected, again.probe) == (2, False, False)


def test_a_suspect_that_failed_without_killing_its_process_is_not_one_any_more() -> (
    None
):
    ledger = SpyLedger()
    ledger.recover(1, 2, attempts=1)
    ledger.fail_next(later(due=5.0))
    assert ledger.start_next().id == raw(2)
    assert ledger.retries.make_due(5.0) == 1
    again = ledger.start_next()
    assert (again.id, again.deliveries, again.suspected) == (raw(1), 3, False)
    ledger.finish(again, ack=True)
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_several_suspects_are_taken_at_once_but_a_probe_by_itself() -> None:
    ledger = SpyLedger(max_attempts=3)
    ledger.recover(1, 2, attempts=1)
    ledger.recover(3, attempts=2)
    ledger.recover(4, attempts=1)
    assert ids(ledger.work.take_counted(9)) == [raw(1), raw(2)]
    assert ids(ledger.work.take_counted(9)) == [raw(3)]
    assert ids(ledger.work.take_counted(9)) == [raw(4)]
    assert ledger.work.take_counted(9) == []


def test_with_apart_each_further_attempt_is_taken_by_itself() -> None:
    ledger = SpyLedger()
    ledger.recover(1, 2, delivered=True)
    ledger.recover(3, 4, attempts=1)
    assert ids(ledger.work.take_counted(9, apart=True)) == [raw(1), raw(2)]
    assert ids(ledger.work.take_counted(9, apart=True)) == [raw(3)]
    assert ids(ledger.work.take_counted(9, apart=True)) == [raw(4)]


def test_while_suspects_are_held_other_entries_are_taken() -> None:
    ledger = SpyLedger()
    ledger.recover(1, attempts=1)
    ledger.read(2)
    ledger.hold_starts(held=True)
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(2), None]
    ledger.hold_starts(held=False)
    assert ledger.start_next().id == raw(1)


def test_with_a_strict_order_no_entry_passes_a_held_suspect() -> None:
    ledger = SpyLedger(strict=True)
    ledger.read(1)
    ledger.recover(2, 3, attempts=1)
    ledger.read(4)
    ledger.hold_starts(held=True)
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(1), None]
    assert not ledger.work.next_is_counted
    assert not ledger.work.next_is_repeated
    assert ledger.work.length == 0
    assert ledger.flow.held == 4
    ledger.read(5)
    assert ledger.take_next() is None
    ledger.hold_starts(held=False)
    assert ledger.work.length == 4
    for number in (2, 3, 4, 5):
        entry = ledger.start_next()
        assert entry.id == raw(number)
        ledger.finish(entry, ack=True)


def test_with_one_attempt_only_all_entries_are_held() -> None:
    ledger = SpyLedger(max_attempts=1)
    ledger.read(1, 2)
    ledger.work.begin_turn(0.0)
    taken = ledger.work.take_counted(1)
    ledger.hold_starts(held=True)
    ledger.put_back(taken[0])
    assert ledger.work.take_counted(9) == []
    assert ledger.work.length == 0
    signals = ledger.ready_signals
    ledger.hold_starts(held=False)
    assert ledger.ready_signals == signals + 1
    assert ids(ledger.work.take_counted(9)) == [raw(1), raw(2)]


def test_suspects_that_could_not_be_counted_are_put_back_in_their_order() -> None:
    ledger = SpyLedger()
    ledger.recover(1, 2, 3, attempts=1)
    taken = ledger.work.take_counted(2)
    ledger.hold_starts(held=True)
    for entry in reversed(taken):
        ledger.put_back(entry)
    assert ledger.take_next() is None
    assert ledger.flow.held == 3
    ledger.hold_starts(held=False)
    assert ids(ledger.work.take_counted(9)) == [raw(1), raw(2), raw(3)]


def test_suspects_that_were_set_aside_are_released_and_dropped_like_others() -> None:
    ledger = SpyLedger()
    ledger.recover(1, 2, attempts=1)
    ledger.recover(3, shard=B, attempts=1)
    ledger.hold_starts(held=True)
    assert ledger.take_next() is None
    assert ledger.removals.drop(A) == 2
    assert ledger.flow.held == 1
    assert ledger.removals.release_shard(B) == [(B, 2, [raw(3)])]
    assert ledger.flow.held == 0


def test_leases_of_suspects_that_were_set_aside_are_overdue_too() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.recover(1, 2, attempts=1, now=0.0)
    ledger.hold_starts(held=True)
    assert ledger.take_next() is None
    assert ledger.work.length == 0
    assert not ledger.leases.overdue(29.9)
    assert ledger.leases.overdue(30.0)


def test_no_entry_is_claimed_while_a_probe_waits() -> None:
    ledger = SpyLedger(max_messages=1000, max_attempts=2)
    ledger.recover(1, 2, attempts=1)
    ledger.flow.waiting_changed(30)
    first = ledger.start_next()
    assert ledger.claim_budget() == 0, (
        "other consumers of the group can handle the rest"
    )
    second = ledger.start_next()
    signals = ledger.capacity_signals
    ledger.finish(first, ack=True)
    assert ledger.capacity_signals > signals
    assert ledger.claim_budget() == 30
    ledger.finish(second, ack=True)


def test_probes_behind_another_probe_are_released_after_two_thirds_of_a_lease() -> None:
    ledger = SpyLedger(lease=30.0, max_attempts=2)
    ledger.recover(1, 2, 3, attempts=1, now=0.0)
    ledger.read(4, now=10.0)
    assert [due.ids for due in ledger.to_renew(10.0)] == [[raw(1)]]
    assert ledger.flow.held == 4
    assert [due.ids for due in ledger.to_renew(20.0)] == [[raw(1), raw(4)]]
    assert ledger.flow.held == 2, "the leases of entries 2 and 3 are about to end"
    assert not known(ledger, A, raw(2))
    assert ledger.counters.lost == 0
    ledger.finish(ledger.start_next(), ack=True)
    assert ids([ledger.take_next()]) == [raw(4)]


@pytest.mark.parametrize("ordering", [KEY, Ordering.SHARD])
def test_probes_are_not_released_if_that_would_break_an_order(
    ordering: Ordering,
) -> None:
    ledger = SpyLedger(lease=30.0, max_attempts=2, ordering=ordering)
    ledger.recover(1, 2, attempts=1, key="k", now=0.0)
    assert [due.ids for due in ledger.to_renew(20.0)] == [[raw(1), raw(2)]]
    assert ledger.removals.release_probes(1) == []
    assert ledger.flow.held == 2


def test_surplus_probes_are_released_with_their_counts() -> None:
    ledger = SpyLedger(max_attempts=3)
    ledger.recover(1, 2, 3, attempts=2)
    ledger.recover(4, 5, attempts=1)
    ledger.recover(6, shard=B, attempts=2)
    assert ledger.read_budget() == 0 or ledger.capacity_signals == 0
    assert ledger.removals.release_probes(2) == [(A, 3, [raw(3)]), (B, 3, [raw(6)])]
    assert ids(ledger.work.take_counted()) == [raw(1)]
    assert ledger.removals.release_probes(1) == []
    assert ledger.flow.held == 4


def test_the_reader_is_woken_when_probes_are_released() -> None:
    ledger = SpyLedger(max_attempts=2, max_messages=2)
    ledger.recover(1, 2, attempts=1)
    assert ledger.read_budget() == 0
    ledger.removals.release_probes(1)
    assert ledger.capacity_signals == 1


# -- leases ------------------------------------------------------------------------


def test_an_entry_that_another_consumer_may_have_claimed_is_not_taken() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=0.0)
    ledger.read(2, now=10.0)
    ledger.work.begin_turn(29.9)
    assert ledger.work.take_counted()
    ledger.work.begin_turn(40.0)
    assert ledger.work.take() is None
    assert ledger.work.take_fresh(9) == []
    assert ledger.work.take_counted(9) == []
    assert not ledger.work.next_is_counted
    ledger.work.counts_starts = False
    assert ledger.work.take() is None
    assert ledger.work.take_fresh(9) == []
    [renewal] = ledger.to_renew(40.0)
    assert renewal.late
    ledger.leases.renewed(renewal, 40.0)
    assert ids([ledger.take_next()]) == [raw(2)]


def test_an_entry_with_an_ended_lease_blocks_the_queue_behind_a_younger_one() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=5.0)
    ledger.read(2, now=0.0)
    ledger.work.begin_turn(30.0)
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(1), None]


def test_a_confirmed_count_renews_the_lease() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=0.0)
    entry = ledger.start_next()
    ledger.leases.counted(entry, 15.0)
    assert ledger.leases.left(entry, 20.0) == 25.0
    ledger.leases.counted(entry, 10.0)
    assert ledger.leases.left(entry, 20.0) == 25.0, (
        "an earlier count does not shorten the lease"
    )


def test_running_entries_are_listed_for_the_poison_guard() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    one, two = ledger.start_next(), ledger.start_next()
    ledger.refuse(two, later(), two.fields)
    assert (ledger.running, ledger.untracked) == ([one, two], 0)
    ledger.processed(one)
    assert ledger.running == [two]


def test_without_acks_only_the_number_of_running_entries_is_known() -> None:
    ledger = SpyLedger(acks=False, ordering=KEY)
    ledger.read(1, 2, 3, key="k")
    ledger.start_next()
    assert (ledger.running, ledger.untracked) == ([], 1)


def test_watchers_are_called_whenever_an_entry_has_finished_or_is_confirmed() -> None:
    ledger = SpyLedger()
    finished: list[str] = []
    ledger.read(1, 2, 3)
    taken = [ledger.start_next() for _ in range(3)]
    assert not ledger.urgent
    ledger.watchers[lambda: finished.append("")] = None
    assert ledger.urgent
    ledger.finish(taken[0], ack=True)
    assert len(finished) == 1
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert len(finished) == 2
    for entry in taken[1:]:
        ledger.fail(entry, DeadLettered("x"))
    assert len(finished) == 4
    first, second = ledger.acks.dead_letters_to_send(2)
    ledger.dead_letter_confirmed(first, ours=True)
    ledger.dead_letter_written(second)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert len(finished) == 6


def test_without_acks_a_lease_never_ends() -> None:
    ledger = SpyLedger(acks=False)
    ledger.read(1)
    assert ledger.leases.left(ledger.start_next(), 1e9) == float("inf")


def test_a_lease_has_time_left_as_long_as_the_entry_has_no_outcome() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, now=5.0)
    entry = ledger.start_next()
    assert ledger.leases.left(entry, 20.0) == 15.0
    assert ledger.leases.left(entry, 35.1) == 0.0
    ledger.refuse(entry, later(), entry.fields)
    assert ledger.leases.left(entry, 20.0) == 15.0
    ledger.finish(entry, ack=False)
    assert ledger.leases.left(entry, 20.0) == 0.0
    unsettled = ledger.start_next()
    ledger.finish(unsettled, ack=False)
    assert ledger.leases.left(unsettled, 20.0) == 15.0
    ledger.ack(unsettled)
    assert ledger.leases.left(unsettled, 20.0) == 0.0


# -- counting ----------------------------------------------------------------------


def counting_ledger() -> SpyLedger:
    ledger = SpyLedger()
    ledger.work.begin_turn(0.0)
    assert ledger.work.counts_starts
    return ledger


def test_at_a_low_rate_every_start_is_counted() -> None:
    ledger = counting_ledger()
    ledger.read(1, 2, 3)
    assert ledger.work.take() is None
    assert ledger.work.take_fresh(9) == []
    assert ledger.work.next_is_counted
    assert [state_of(entry) for entry in ledger.work.take_counted(2)] == [
        State.RUNNING
    ] * 2
    assert ids([ledger.take_next()]) == [raw(3)]


def test_at_a_high_rate_first_starts_are_not_counted() -> None:
    ledger = SpyLedger(max_messages=5000)
    ledger.read_budget(now=0.0)
    ledger.read(*range(3000))
    for _ in range(2500):
        ledger.process_next()
    ledger.read_budget(now=1.0)
    assert ledger.flow.rate == 2500
    ledger.work.begin_turn(1.0)
    assert ledger.work.take() is not None
    assert not ledger.work.next_is_counted
    ledger.read_budget(now=10.0)
    ledger.process_next()
    ledger.read_budget(now=1001.0)
    ledger.work.begin_turn(1.0)
    assert ledger.work.take() is None
    assert ledger.work.next_is_counted


def test_with_one_attempt_every_start_is_counted_at_any_rate() -> None:
    ledger = SpyLedger(max_messages=5000, max_attempts=1)
    ledger.read_budget(now=0.0)
    ledger.read(*range(3000))
    for _ in range(2500):
        ledger.process_next()
    ledger.read_budget(now=1.0)
    ledger.work.begin_turn(1.0)
    assert ledger.work.take() is None
    assert ledger.work.next_is_counted


def test_without_acks_no_start_is_counted() -> None:
    ledger = SpyLedger(acks=False)
    ledger.read(1)
    ledger.work.begin_turn(1e9)
    assert not ledger.work.next_is_counted
    assert ledger.work.take() is not None


def test_a_redelivered_entry_waits_for_its_handler_and_is_counted() -> None:
    ledger = counting_ledger()
    ledger.read(1, 2)
    [first] = ledger.work.take_counted()
    ledger.read(1, rewound=True)
    assert ids(ledger.work.take_counted(9)) == [raw(2)]
    ledger.finish(first, ack=True)
    assert ids(ledger.work.take_counted(9)) == [raw(1)]


def test_entries_that_were_not_started_are_released_as_not_started() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.recover(2, delivered=True)
    ledger.recover(3, attempts=2)
    assert list(ledger.removals.release()) == [
        (A, 0, [raw(1)]),
        (A, 1, [raw(2)]),
        (A, 3, [raw(3)]),
    ]


def test_interrupted_entries_are_released_as_not_started() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.recover(3, attempts=1)
    one, _, three = (ledger.start_next() for _ in range(3))
    ledger.put_back(one)
    ledger.put_back(three)
    assert list(ledger.removals.release()) == [
        (A, 2, [raw(3)]),
        (A, 0, [raw(1), raw(2)]),
    ]


def test_failed_and_unsettled_entries_are_released_as_started() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    ledger.fail_next(later())
    ledger.finish(ledger.start_next(), ack=False)
    nacked = ledger.start_next()
    ledger.refuse(nacked, later(), nacked.fields)
    released = list(ledger.removals.release())
    assert {count for _, count, _ in released} == {2}
    assert sorted(id_ for _, _, ids_ in released for id_ in ids_) == [
        raw(1),
        raw(2),
        raw(3),
    ]


def facts_of(
    renewals: list[LeaseRenewal],
) -> list[tuple[object, list[bytes], int | None]]:
    return [(due.shard_state.shard, due.ids, due.count) for due in renewals]


def test_waiting_entries_are_renewed_together_with_running_ones() -> None:
    ledger = SpyLedger(lease=30.0, max_messages=5000)
    ledger.read(1, 2, now=0.0)
    ledger.recover(3, attempts=2, now=0.0)
    ledger.read(4, shard=B, now=0.0)
    running = ledger.start_next()
    renewals = ledger.to_renew(10.0)
    assert facts_of(renewals) == [
        (A, [raw(1), raw(2), raw(3)], None),
        (B, [raw(4)], None),
    ]
    assert state_of(running) is State.RUNNING


def test_past_two_thirds_of_a_lease_the_server_has_to_be_asked_for_the_owner() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=0.0)
    ledger.read(2, shard=B, now=10.0)
    renewals = ledger.to_renew(20.0)
    assert facts_of(renewals) == [(A, [raw(1)], None), (B, [raw(2)], None)]
    assert all(due.late for due in renewals)


def test_postponed_and_dead_lettered_entries_are_renewed_too() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, 3, now=0.0)
    ledger.fail_next(later(due=1e9))
    ledger.fail_next(DeadLettered("x"))
    ledger.acks.dead_letters_to_send(1)
    ledger.fail_next(DeadLettered("y"))
    assert facts_of(ledger.to_renew(10.0)) == [(A, [raw(1), raw(2), raw(3)], None)]
    assert [ledger.to_renew(9.9)] == [[]]
