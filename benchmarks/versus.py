"""Penstock beside its peers: consuming with acknowledgements, and sending."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import table
from benchmarks.delay import Passage, behind, measure
from benchmarks.facts import versions
from benchmarks.job import Job
from benchmarks.loops import LOOPS
from benchmarks.peers import CONSUMING, SENDING, Candidate
from benchmarks.processes import Stuck
from benchmarks.running import Row, perform
from benchmarks.server import check_length, check_settled, connect, own_server
from benchmarks.store import Result, save

JOBS = {"consume": CONSUMING, "send": SENDING}
HEAD = (
    "",
    "messages/s",
    "lowest",
    "highest",
    "of raw",
    "client µs",
    "server µs",
    "commands",
    "a run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", choices=JOBS, default="consume")
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    parser.add_argument("--delay", type=float, default=0, help="ms a round trip takes")
    parser.add_argument("--messages", type=int, default=400_000, help="at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="names begin like this")


def main(given: argparse.Namespace, folder: Path) -> None:
    """Measure, print and store."""
    candidates = chosen(JOBS[given.job], given.only)
    rows = {candidate.name: Row(candidate.name) for candidate in candidates}
    with own_server() as direct, behind(direct, given.delay / 1000) as url:
        passage = measure(url, direct)
        print(told(passage), file=sys.stderr)
        with connect(direct) as redis:
            on = versions(redis)
        for number in range(given.rounds):
            for candidate in candidates:
                progress(number, given.rounds, candidate.name)
                run(candidate, given, Job(url, direct, 0, given.loop), rows)
    finished = [row for row in rows.values() if row.runs]
    show(finished)
    save(
        Result(
            name=f"versus-{given.job}-{given.loop}-{given.delay:g}ms",
            parameters={
                **{name: getattr(given, name) for name in ("job", "loop", "delay")},
                **{name: getattr(given, name) for name in ("messages", "rounds")},
                "passage": asdict(passage),
            },
            rows=[row.stored() for row in finished],
            versions=on,
        ),
        folder,
    )


def chosen(candidates: Sequence[Candidate], only: Sequence[str]) -> list[Candidate]:
    """Those whose names begin with one of the words.

    Raises:
        SystemExit: There are none.
    """
    found = [c for c in candidates if not only or c.name.startswith(tuple(only))]
    if not found:
        names = ", ".join(repr(candidate.name) for candidate in candidates)
        raise SystemExit(f"--only fits none of {names}")
    return found


def run(
    candidate: Candidate, given: argparse.Namespace, job: Job, rows: dict[str, Row]
) -> None:
    """One run of one candidate, on an empty server; all must be done after it.

    A peer that stands still is told of, and the others go on.
    """
    messages = candidate.messages(given.messages, given.delay / 1000)
    job = Job(**{**asdict(job), "messages": messages})
    row = rows[candidate.name]
    with connect(job.direct) as redis:
        redis.flushall()
        try:
            taken, row.versions = perform(candidate, job)
        except Stuck as stuck:
            if candidate.ours:
                raise
            print(stuck, file=sys.stderr)
            row.stuck += 1
            return
        if given.job == "consume":
            check_settled(redis)
        else:
            check_length(redis, messages)
    row.runs.append(taken)


def progress(number: int, rounds: int, name: str) -> None:
    """Say where it is, to whom waits for it."""
    print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)


def told(passage: Passage) -> str:
    return (
        f"the way to the server: {passage.round_trip_ms} ms a round trip; lets through "
        f"{passage.reads:,} entries/s read, {passage.adds:,} written"
    )


def show(rows: Sequence[Row]) -> None:
    """Print a line a contender, and the versions."""
    raw = next((row.rate.median for row in rows if row.name == "raw"), None)
    print(table.plain(HEAD, [cells(row, raw) for row in rows]))
    packages = {name: v for row in rows for name, v in row.versions.items()}
    print(", ".join(f"{name} {v}" for name, v in sorted(packages.items())))


def cells(row: Row, raw: float | None) -> list[str]:
    rate = row.rate
    return [
        row.name,
        f"{rate.median:,.0f}",
        f"{rate.low:,.0f}",
        f"{rate.high:,.0f}",
        f"{rate.median / raw:.3g}" if raw else "",
        f"{row.client_cpu:.1f}",
        f"{row.server_cpu:.1f}",
        f"{row.commands:.3g}",
        f"{row.runs[0].messages:,}",
    ]
