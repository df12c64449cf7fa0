"""Builder of families: adds numbers, and bounds how many series there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from penstock._core.metrics.histogram import Histogram
from penstock.observe._families import Family, Kind, Labels, Sample

__all__ = ["OTHER", "Builder", "Cardinality"]

OTHER = "_other"
"""Stands for all streams that are too many."""


class Cardinality:
    """Bounds the number of series, by the streams and groups that they are of.

    Args:
        on_overflow: Called once, when a stream is refused series of its own.

    Attributes:
        max_series: The number of series from which on streams and groups that are new
            get none.
    """

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        self.max_series = 0
        self._on_overflow = on_overflow
        self._known: set[tuple[str, str]] = set()
        self._overflowed = False

    def admit(self, stream: str, group: str, series: int) -> tuple[str, str]:
        """Return the stream and the group under which numbers are counted.

        Args:
            stream: The stream.
            group: The group; empty without one.
            series: The number of series so far.
        """
        if (stream, group) not in self._known:
            if series >= self.max_series:
                if not self._overflowed:
                    self._overflowed = True
                    self._on_overflow()
                return OTHER, ""
            self._known.add((stream, group))
        return stream, group


class Builder:
    """Families that are being built.

    Args:
        described: The kind and the description of each family, in their order.
    """

    def __init__(self, described: Mapping[str, tuple[Kind, str]]) -> None:
        self._described = described
        self._values: dict[str, dict[tuple[str, Labels], float]] = {
            name: {} for name in described
        }

    @property
    def series(self) -> int:
        """The number of series."""
        return sum(map(len, self._values.values()))

    def add(self, name: str, labels: Labels, value: float) -> None:
        """Add a number to a counter or a gauge."""
        suffix = "_total" if self._described[name][0] == "counter" else ""
        self._add(name, suffix, labels, value)

    def raise_to(self, name: str, labels: Labels, value: float) -> None:
        """Set a gauge to a number if it is lower."""
        key = name, labels
        self._values[name][key] = max(self._values[name].get(key, -inf), value)

    def add_histogram(self, name: str, labels: Labels, found: Histogram) -> None:
        """Add a histogram."""
        for bound, number in found.cumulative():
            self._add(name, "_bucket", (*labels, ("le", str(bound))), number)
        number = found.number
        self._add(name, "_bucket", (*labels, ("le", "+Inf")), number)
        self._add(name, "_sum", labels, found.total)
        self._add(name, "_count", labels, number)

    def _add(self, name: str, suffix: str, labels: Labels, value: float) -> None:
        values, key = self._values[name], (name + suffix, labels)
        values[key] = values.get(key, 0) + value

    def families(self) -> list[Family]:
        """Return the families that have any series."""
        return [
            Family(
                name,
                kind,
                text,
                tuple(
                    Sample(sample, labels, value)
                    for (sample, labels), value in self._values[name].items()
                ),
            )
            for name, (kind, text) in self._described.items()
            if self._values[name]
        ]
