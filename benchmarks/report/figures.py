"""The figures of stored results, found by what they are of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.running import Row
from benchmarks.spread import Spread
from benchmarks.store import Result

SENT, CONSUMED = "versus-send-asyncio-0ms", "versus-consume-asyncio-0ms"
READING, ADDING = "XREADGROUP and XACK, 500 each", "XADD, 500 in a write"


class Figures:
    """Figures by result and row; None for what was not measured."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        self.results = results

    def rows(self, result: str) -> dict[str, Row]:
        """The rows of runs that a result has, by name."""
        if result not in self.results:
            return {}
        rows = [Row.of(stored) for stored in self.results[result].rows]
        return {row.name: row for row in rows}

    def rate(self, result: str, row: str) -> float | None:
        """Messages a second."""
        found = self.rows(result).get(row)
        return found.rate.median if found else None

    def limit(self, load: str) -> float | None:
        """Messages a second that the server's processor time allows."""
        found = self.rows("limit").get(load)
        return 1e6 / found.server_cpu if found else None

    def limit_for(self, result: str) -> float | None:
        """The limit of what a result has measured."""
        return self.limit(ADDING if "-send-" in result else READING)

    def plain(self, result: str, **what: Any) -> Mapping[str, Any] | None:
        """The first row of another kind with these values."""
        rows = self.results[result].rows if result in self.results else []
        fitting = (r for r in rows if all(r.get(k) == v for k, v in what.items()))
        return next(fitting, None)

    def latency(self, rate: int, wait: float, what: str, percent: str) -> Spread | None:
        """Milliseconds to what, `start` or `receipt`."""
        row = self.plain("latency-asyncio", rate=rate, wait=wait)
        return Spread.of([run[what][percent] for run in row["runs"]]) if row else None
