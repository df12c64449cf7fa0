"""How long a message is on its way, at a steady rate that does not wait for anybody.

A sender and a receiver, each a process of its own, share the machine's monotonic clock.
Messages are due at fixed times; every figure counts from when a message was *due*, so
one that has to wait because those before it are slow counts that, too (no coordinated
omission).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.facts import versions
from benchmarks.loops import LOOPS
from benchmarks.processes import Child
from benchmarks.server import check_settled, connect, own_server
from benchmarks.spread import Spread
from benchmarks.store import Result, save

RATES = (100, 1_000, 10_000)  # messages a second
WAITS = (0.0, 0.005)  # seconds a handler awaits
PERCENTILES = (50, 99, 99.9)
# Of a run, while windows and caches grow; not counted.
WARM_UP = 0.1
# Times the handlers that are busy on average: the rest is for bursts.
SPARE = 4
FEWEST = 16
HEAD = ("", "p50 ms", "p99 ms", "p99.9 ms", "p99 lowest", "p99 highest")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=5, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")


def main(given: argparse.Namespace, folder: Path) -> None:
    """Measure, print and store."""
    rows: dict[tuple[int, float], dict[str, Any]] = {
        (rate, wait): {"rate": rate, "wait": wait, "runs": []}
        for wait in WAITS
        for rate in RATES
    }
    with own_server() as url, connect(url) as redis:
        for _ in range(given.rounds):
            for (rate, wait), row in rows.items():
                redis.flushall()
                row["runs"].append(run(url, rate, wait, given))
                check_settled(redis)
        on = versions(redis)
    lines = [cells(row, what) for row in rows.values() for what in ("start", "receipt")]
    print(table.plain(HEAD, lines))
    asked = {name: getattr(given, name) for name in ("seconds", "rounds", "loop")}
    name = f"latency-{given.loop}"
    save(Result(name, asked, list(rows.values()), on), folder)


def run(url: str, rate: int, wait: float, given: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds by percentile: to the handler's start, and to the receipt."""
    messages = max(10, int(rate * given.seconds))
    skip = int(messages * WARM_UP)
    with (
        Child("benchmarks.receiver") as receiver,
        Child("benchmarks.sender") as sender,
    ):
        concurrency = max(FEWEST, int(rate * wait * SPARE))
        receiver.tell(
            url=url,
            messages=messages,
            skip=skip,
            wait=wait,
            concurrency=concurrency,
            loop=given.loop,
        )
        receiver.hear()
        sender.tell(url=url, messages=messages, skip=skip, rate=rate)
        sent, received = sender.hear(), receiver.hear()
    return {**sent, **received, "messages": messages, "concurrency": concurrency}


def cells(row: dict[str, Any], what: str) -> list[str]:
    runs = row["runs"]
    figures = [Spread.of([each[what][f"{p:g}"] for each in runs]) for p in PERCENTILES]
    handler = f"handler of {row['wait'] * 1000:g} ms" if row["wait"] else "no waiting"
    subject = {"start": "handler's start", "receipt": "receipt"}[what]
    return [
        f"{row['rate']:,}/s, {handler}, to the {subject}",
        *(f"{figure.median:.2f}" for figure in figures),
        *(f"{figure:.2f}" for figure in (figures[1].low, figures[1].high)),
    ]
