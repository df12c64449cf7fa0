"""Histograms of durations, with the same bounds for all."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

__all__ = ["BOUNDS", "Histogram"]

BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""The upper bounds of the buckets, in seconds; each bound belongs to its bucket."""


class Histogram:
    """How many durations were in each bucket, and their sum.

    Attributes:
        counts: The number in each bucket, without those in lower buckets; the last
            bucket has no upper bound.
        total: The sum, in seconds.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Record a duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def number(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return each bound but the last, with the number of durations up to it."""
        rows, number = [], 0
        for bound, count in zip(BOUNDS, self.counts, strict=False):
            number += count
            rows.append((bound, number))
        return rows
