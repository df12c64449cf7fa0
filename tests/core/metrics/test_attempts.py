"""Attempts: their outcomes, durations, and the ages of messages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.ledger.failure_policy import (
    NACKED,
    DeadLettered,
    Disposition,
    Dropped,
    Stopped,
)
from penstock._core.ledger.states import LOSE, State
from penstock._core.metrics.attempts import AttemptTotals, Outcome, outcome_of
from penstock._core.metrics.histogram import BOUNDS
from support.ledger import SpyLedger, later

NOW = 1_700_000_000.0


def running(disposition: Disposition | None = None) -> SpyLedger:
    ledger = SpyLedger()
    ledger.read(1)
    [entry] = ledger.work.take_fresh(1)
    if disposition is not None:
        ledger.refuse(entry, disposition, entry.fields)
    return ledger


@pytest.mark.parametrize(
    ("disposition", "outcome", "expected"),
    [
        (None, "ok", "ok"),
        (None, "failed", "failed"),
        (None, "timeout", "timeout"),
        (None, "cancelled", "cancelled"),
        (later(), "ok", "failed"),
        (DeadLettered(NACKED), "ok", "failed"),
        (DeadLettered("no"), "ok", "rejected"),
        (Dropped("no"), "ok", "rejected"),
        (Stopped("no"), "failed", "rejected"),
        (DeadLettered("no"), "cancelled", "cancelled"),
    ],
)
def test_an_outcome_is_what_the_user_has_done_before(
    disposition: Disposition | None, outcome: Outcome, expected: Outcome
) -> None:
    [entry] = running(disposition).running
    assert outcome_of(entry, outcome) == expected


@pytest.mark.parametrize("outcome", ["ok", "failed", "cancelled"])
def test_a_lost_entry_is_lost_whatever_its_handler_did(outcome: Outcome) -> None:
    ledger = running()
    [entry] = ledger.running
    entry.state = LOSE[entry.state]
    assert entry.state is State.LOST
    assert outcome_of(entry, outcome) == "lost"


def test_outcomes_add_up_to_the_number_of_durations() -> None:
    totals = AttemptTotals()
    for seconds in (0.0, 0.001, 0.002, 20.0):
        totals.seconds.observe(seconds)
    totals.ended_otherwise("failed")
    totals.ended_otherwise("failed")
    assert totals.number("ok") == 2
    assert totals.number("failed") == 2
    assert totals.number("lost") == 0
    assert totals.seconds.counts[:2] == [2, 1]
    assert math.isclose(totals.seconds.total, 20.003)


def record(totals: AttemptTotals, id_: bytes, began: float) -> bool:
    """Record the age at a time of the monotonic clock; return whether it was known."""
    known = totals.all_aged_as_before([id_], began)
    if not known:
        totals.aged(id_, began, NOW + began)
    return known


def test_ids_of_one_millisecond_are_parsed_once() -> None:
    totals = AttemptTotals()
    ms = int(NOW * 1000) - 7
    assert not record(totals, b"%d-0" % ms, 0.0)
    assert record(totals, b"%d-1" % ms, 0.0005)
    assert not record(totals, b"%d-1" % ms, 0.1), "time has passed"
    assert not record(totals, b"%d-0" % (ms + 5), 0.1)
    assert totals.ages.number == 4


@pytest.mark.parametrize(
    "id_",
    [b"1-1", b"0-1", b"%d-0" % (int(NOW * 1000) + 90_000_000), b"9" * 20 + b"-1"],
)
def test_ids_that_are_no_times_have_no_age(id_: bytes) -> None:
    totals = AttemptTotals()
    assert not record(totals, id_, 0.0)
    assert totals.ages.number == 0


def test_ids_may_count_nanoseconds() -> None:
    totals = AttemptTotals()
    record(totals, b"%d-0" % int((NOW - 20) * 10**9), 0.0)
    assert math.isclose(totals.ages.total, 20)
    assert not record(totals, b"%d-0" % int((NOW - 20) * 10**9), 0.0)


def test_a_message_of_the_future_has_no_negative_age() -> None:
    totals = AttemptTotals()
    record(totals, b"%d-0" % int((NOW + 5) * 1000), 0.0)
    assert (totals.ages.number, totals.ages.total) == (1, 0)


def test_an_id_with_more_digits_is_not_taken_for_a_close_one() -> None:
    totals = AttemptTotals()
    ms = int(NOW * 1000)
    record(totals, b"%d-0" % ms, 0.0)
    assert not totals.all_aged_as_before([b"%d7-0" % ms], 0.0)


def test_ids_in_order_are_known_if_the_first_and_the_last_are() -> None:
    totals = AttemptTotals()
    ms = int(NOW * 1000) - 10_000
    record(totals, b"%d-0" % ms, 0.0)
    near, far = b"%d-3" % (ms + 50), b"%d-0" % (ms + 500)
    assert totals.all_aged_as_before([b"%d-1" % ms, b"%d-2" % ms, near], 0.001)
    assert totals.ages.number == 4
    assert math.isclose(totals.ages.total, 40)
    assert not totals.all_aged_as_before([near, far], 0.001)
    assert not totals.all_aged_as_before([b"%d-0" % (ms - 500), near], 0.001)
    assert totals.all_aged_as_before([], 0.001)
    assert totals.ages.number == 4
    totals.aged(near, 0.001, NOW)
    assert math.isclose(totals.ages.total, 50), "it counts as the others"


steps = st.lists(
    st.tuples(st.integers(0, 400_000), st.integers(0, 3), st.floats(0, 0.02))
)


@given(steps)
def test_ages_are_right_to_a_hundredth_or_some_milliseconds(
    found: list[tuple[int, int, float]],
) -> None:
    totals, began, ages = AttemptTotals(), 0.0, []
    for age, seq, pause in found:
        began += pause
        id_ = b"%d-%d" % (int((NOW + began) * 1000) - age, seq)
        ages.append(max(0.0, NOW + began - int(id_.split(b"-")[0]) / 1000))
        record(totals, id_, began)
    assert totals.ages.number == len(ages)
    # A window is a hundredth wide to both sides, and as long.
    slack = sum(max(0.002, age * 0.021) for age in ages)
    assert abs(totals.ages.total - sum(ages)) <= slack + 1e-6
    for bound, number in totals.ages.cumulative():
        low = sum(age + max(0.002, age * 0.021) <= bound for age in ages)
        high = sum(age - max(0.002, age * 0.021) <= bound for age in ages)
        assert low <= number <= high
    assert len(totals.ages.counts) == len(BOUNDS) + 1
