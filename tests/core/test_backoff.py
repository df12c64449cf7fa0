"""The backoff of reconnects."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.backoff import ReconnectBackoff


def test_delays_double_up_to_the_cap() -> None:
    backoff = ReconnectBackoff()
    waits = [backoff.failed(0.5) for _ in range(8)]
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.6, 0.6, 0.6, 0.6])
    assert backoff.failures == 8


def test_first_factor_and_cap_can_be_chosen() -> None:
    backoff = ReconnectBackoff(first=1.0, factor=3.0, cap=20.0)
    assert [backoff.failed(0.5) for _ in range(4)] == [1.0, 3.0, 9.0, 20.0]


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
def test_chance_changes_a_delay_by_a_quarter_either_way(
    chance: float, share: float
) -> None:
    assert ReconnectBackoff(first=1.0, cap=5.0).failed(chance) == share


def test_progress_resets_the_backoff() -> None:
    backoff = ReconnectBackoff()
    for _ in range(5):
        backoff.failed(0.5)
    backoff.progress()
    assert backoff.failures == 0
    assert backoff.failed(0.5) == 0.05


def test_an_outage_may_last_forever() -> None:
    backoff = ReconnectBackoff(failures=10**9)
    assert backoff.failed(0.5) == 0.6
    assert backoff.failures == 10**9 + 1


@given(st.floats(0, 1), st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_no_delay_makes_recovery_take_a_second(chance: float, failures: int) -> None:
    assert 0 < ReconnectBackoff(failures=failures).failed(chance) <= 0.75


@given(st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_delays_with_the_same_chance_never_get_shorter(chance: float) -> None:
    backoff = ReconnectBackoff()
    waits = [backoff.failed(chance) for _ in range(100)]
    assert all(one <= other for one, other in pairwise(waits))
