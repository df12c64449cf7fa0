"""What was to be reached, and whether it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.report.figures import CONSUMED, READING, SENT, Figures
from benchmarks.spread import Spread

ASYNC_FOR, RUN, RAW = "penstock async for", "penstock run(16)", "raw"
DELAYED = "versus-consume-asyncio-1ms"
# Of the server's limit; the rest is what it takes to ask it.
AT_THE_LIMIT = 0.9


@dataclass(frozen=True)
class Goal:
    """One of them.

    Attributes:
        text: What is to be.
        measured: What is; None where it was not measured.
        bound: What it has to be.
        below: Whether it has to be less than that, not at least that.
        unit: Of both.
        otherwise: Whether it is reached for another reason.
    """

    text: str
    measured: float | None
    bound: float
    below: bool = False
    unit: str = "x"
    otherwise: bool = False

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        if self.below:
            return self.measured < self.bound
        return self.measured >= self.bound or self.otherwise

    def cells(self) -> list[str]:
        told = {True: "reached", False: "**not reached**", None: "not measured"}
        sign = "<" if self.below else "≥"
        found = "" if self.measured is None else f"{self.measured:.3g} {self.unit}"
        return [
            self.text,
            f"{sign} {self.bound:g} {self.unit}",
            found,
            told[self.reached],
        ]


def goals(figures: Figures) -> Iterator[Goal]:
    """All of them."""
    yield from consuming(figures)
    yield from scaling(figures)
    yield from sending(figures)
    p99 = figures.latency(1_000, 0.0, "start", "99")
    text = "p99 from when a message is due to its handler's start, at 1,000 a second"
    yield Goal(text, p99.median if p99 else None, 5, below=True, unit="ms")
    for row in (
        figures.results["recovery"].rows if "recovery" in figures.results else ()
    ):
        text = f"the worst of: {row['name']}"
        yield Goal(text, max(row["seconds"]), row["goal"], below=True, unit="s")
    yield Goal("64 idle shards", idle(figures), 3, below=True, unit="% of a core")


def consuming(figures: Figures) -> Iterator[Goal]:
    ours = figures.rate(CONSUMED, ASYNC_FOR)
    for other, bound in (
        (RAW, 1.0),
        ("redis-py, XACK a batch", 1.5),
        ("faststream batch", 4),
        ("faststream", 50),
        ("taskiq-redis", 50),
    ):
        measured = over(ours, figures.rate(CONSUMED, other))
        yield Goal(f"`async for` beside {other}", measured, bound)
    measured = over(figures.rate(CONSUMED, RUN), figures.rate(CONSUMED, RAW))
    yield Goal("`run(concurrency=16)` beside raw", measured, 0.8)
    for name, row in (("`async for`", ASYNC_FOR), ("`run(concurrency=16)`", RUN)):
        measured = over(figures.rate(DELAYED, row), figures.rate(CONSUMED, row))
        yield Goal(f"{name} 1 ms away, beside itself on loopback", measured, 0.8)


def scaling(figures: Figures) -> Iterator[Goal]:
    limit = figures.limit(READING)
    for compute in (0, 20):
        one, two = (
            figures.rate("scaling-processes", f"{count} x run(16), {compute} µs")
            for count in (1, 2)
        )
        text = f"two processes beside one, handlers that compute for {compute} µs"
        at_limit = over(two, limit)
        full = at_limit is not None and at_limit >= AT_THE_LIMIT
        if full:
            text += f" (at {at_limit:.0%} of the server's limit)"
        yield Goal(text, over(two, one), 1.5, otherwise=full)
    found = figures.rate("scaling-waiting", "penstock run, 256 x 10 ms")
    text = "256 handlers that await 10 ms, beside 25,600 a second"
    yield Goal(text, over(found, 25_600), 0.9)


def sending(figures: Figures) -> Iterator[Goal]:
    ours = figures.rate(SENT, "penstock enqueue")
    measured = over(ours, figures.rate(SENT, RAW))
    yield Goal("`enqueue` beside raw sending", measured, 0.8)
    publish = "faststream publish, 50 at a time"
    yield Goal(
        f"`enqueue` beside {publish}", over(ours, figures.rate(SENT, publish)), 5
    )


def idle(figures: Figures) -> float | None:
    """Percents of a core, the median."""
    if "cost-idle" not in figures.results:
        return None
    rows = figures.results["cost-idle"].rows
    return Spread.of([r["core"] * 100 for r in rows if r["shards"] == 64]).median


def over(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None
