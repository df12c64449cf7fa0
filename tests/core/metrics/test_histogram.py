"""Histograms: each duration is in one bucket, and the sums are right."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.metrics.histogram import BOUNDS, Histogram

durations = st.floats(0, 1000, allow_nan=False) | st.sampled_from(BOUNDS)


@given(st.lists(durations))
def test_each_bucket_counts_what_is_at_most_its_bound(seconds: list[float]) -> None:
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    for bound, number in histogram.cumulative():
        assert number == sum(each <= bound for each in seconds)
    assert histogram.number == len(seconds)
    assert math.isclose(histogram.total, sum(seconds), abs_tol=1e-9)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_belongs_to_its_own_bucket(bound: float) -> None:
    histogram = Histogram()
    histogram.observe(bound)
    assert dict(histogram.cumulative())[bound] == 1
    histogram.observe(math.nextafter(bound, math.inf))
    assert dict(histogram.cumulative())[bound] == 1


def test_the_bounds_rise() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert (BOUNDS[0], BOUNDS[-1], len(BOUNDS)) == (0.001, 300, 16)
