"""Statistics of a few figures: the median, and how far they lie apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Several figures of the same thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of figures in ascending order."""
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


def in_milliseconds(nanoseconds: Sequence[int]) -> dict[str, float]:
    """The percentiles of durations, and the longest, as `latency` reports them."""
    ordered = sorted(nanoseconds)
    wanted = {f"{p:g}": percentile(ordered, p) for p in (50, 99, 99.9, 100)}
    return {name: round(value / 1e6, 3) for name, value in wanted.items()}
