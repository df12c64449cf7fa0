"""What counting starts may cost."""

from __future__ import annotations

import pytest

from penstock._core.ledger.counting_cost import CountingCost
from support.ledger import SpyLedger


def measured(seconds: float, *, times: int = 100, at: float = 0.0) -> CountingCost:
    cost = CountingCost()
    for _ in range(times):
        cost.took(seconds, 1, at)
    return cost


def test_before_it_was_measured_any_rate_can_be_counted() -> None:
    assert CountingCost().is_affordable(1e9, 0.0)


@pytest.mark.parametrize(("rate", "affordable"), [(400, True), (600, False)])
def test_counting_may_take_up_a_fifth_of_the_time(
    rate: float,
    affordable: bool,  # noqa: FBT001
) -> None:
    assert measured(0.0004).is_affordable(rate, 0.0) is affordable


def test_starts_that_are_counted_together_share_the_cost() -> None:
    cost = CountingCost()
    for _ in range(100):
        cost.took(0.004, 10, 0.0)
    assert cost.is_affordable(400, 0.0)
    assert not cost.is_affordable(600, 0.0)


def test_a_single_pause_of_the_process_is_no_reason_to_stop_counting() -> None:
    cost = measured(0.00005)
    cost.took(10.0, 1, 0.0)
    assert cost.is_affordable(500, 0.0)


def test_below_a_hundred_messages_a_second_starts_are_counted_at_any_cost() -> None:
    assert measured(10.0).is_affordable(99, 0.0)


def test_a_cost_that_was_measured_long_ago_says_little() -> None:
    cost = measured(0.002, at=100.0)
    assert not cost.is_affordable(1000, 101.0)
    assert cost.is_affordable(1000, 105.0)


def test_a_slow_consumer_does_not_count_what_would_take_most_of_its_time() -> None:
    ledger = SpyLedger(max_messages=1000)
    ledger.read_budget(now=0.0)
    ledger.read(*range(200))
    ledger.process_next(200)
    ledger.read_budget(now=0.2)
    ledger.work.begin_turn(0.2)
    assert ledger.work.counts_starts
    for _ in range(100):
        ledger.work.counting_cost.took(0.0008, 1, 0.2)
    ledger.work.begin_turn(0.2)
    assert not ledger.work.counts_starts
    ledger.work.begin_turn(10.0)
    assert ledger.work.counts_starts
