"""What the server can do at most: its own time for each command, without a client's.

It executes commands in one thread. `executing` is what the commands took there, by
`INFO commandstats`; `server CPU` is all that the process used, so with the reading and
writing of connections, and is the nearer limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import table
from benchmarks.facts import versions
from benchmarks.job import Job
from benchmarks.peers import Candidate
from benchmarks.running import Row, perform
from benchmarks.server import connect, own_server
from benchmarks.store import Result, save

LOADS = {
    "XREADGROUP and XACK, 500 each": Candidate("", "raw", "consume", 0, ours=True),
    "XADD, 500 in a write": Candidate("", "raw", "send", 0, ours=True),
}
HEAD = (
    "",
    "messages/s by server CPU",
    "by executing alone",
    "server µs",
    "executing µs",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)


def main(given: argparse.Namespace, folder: Path) -> None:
    """Measure, print and store."""
    rows = [Row(name) for name in LOADS]
    with own_server() as url, connect(url) as redis:
        for _ in range(given.rounds):
            for row in rows:
                redis.flushall()
                run, row.versions = perform(
                    LOADS[row.name], Job(url, url, given.messages)
                )
                row.runs.append(run)
        on = versions(redis)
    print(table.plain(HEAD, cells(rows)))
    stored = [row.stored() for row in rows]
    asked = {"messages": given.messages, "rounds": given.rounds}
    save(Result("limit", asked, stored, on), folder)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [
            row.name,
            f"{1e6 / row.server_cpu:,.0f}",
            f"{1e6 / row.executing:,.0f}",
            f"{row.server_cpu:.2f}",
            f"{row.executing:.2f}",
        ]
        for row in rows
    ]
