"""What it costs to have it: memory with full buffers, and doing nothing.

What a message costs in processor time and commands is in every line of `versus`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.clock import between, look
from benchmarks.facts import versions
from benchmarks.filling import fill
from benchmarks.holder import QUICK
from benchmarks.job import GROUP, STREAM, Job
from benchmarks.processes import Child
from benchmarks.server import connect, own_server
from benchmarks.store import Result, save

MIB = 1024 * 1024
PAYLOADS = (200, 10_000, 100_000)
SHARDS = (1, 64)
# More than anybody holds.
MESSAGES = QUICK + 3_000
# Milliseconds for which the server answers nobody's writes.
PAUSE = 60_000

FULL = ("", "held", "MiB of payload", "MiB before", "MiB full", "more")
IDLE = ("", "of a core", "commands/s", "server's of a core")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10, help="of idling")
    parser.add_argument("--rounds", type=int, default=3)


def main(given: argparse.Namespace, folder: Path) -> None:
    """Measure, print and store."""
    with own_server() as url, connect(url) as redis:
        on = versions(redis)
        full = [
            full_of(redis, url, what, payload)
            for what in ("consumer", "producer")
            for payload in PAYLOADS
        ]
        print(table.plain(FULL, [full_cells(row) for row in full]))
        idle = [
            idling(redis, url, shards, given.seconds)
            for _ in range(given.rounds)
            for shards in SHARDS
        ]
        print(table.plain(IDLE, [idle_cells(row) for row in idle]))
    asked = {"seconds": given.seconds, "rounds": given.rounds}
    save(Result("cost-memory", {}, full, on), folder)
    save(Result("cost-idle", asked, idle, on), folder)


def full_of(redis: Any, url: str, what: str, payload: int) -> dict[str, Any]:
    """Have a process hold what it may; gives what it holds and what that takes."""
    redis.flushall()
    if what == "consumer":
        fields = (b"msg", b"x" * payload)
        fill(url, [STREAM], fields, MESSAGES, GROUP)
    with Child("benchmarks.holder") as holder:
        holder.tell(url=url, what=what, payload=payload, shards=1)
        before = holder.hear()["resident"]
        if what == "producer":
            redis.client_pause(PAUSE, all=False)
        heard = holder.hear()
        if what == "producer":
            redis.client_unpause()
        holder.tell()
        holder.hear()
    return {
        "name": f"{what}, {payload:,} B",
        "payload": payload,
        "before": before,
        "resident": heard["resident"],
        "held": heard["held"],
    }


def full_cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        f"{row['held']:,}",
        f"{row['held'] * row['payload'] / MIB:.1f}",
        f"{row['before'] / MIB:.1f}",
        f"{row['resident'] / MIB:.1f}",
        f"{(row['resident'] - row['before']) / MIB:.1f}",
    ]


def idling(redis: Any, url: str, shards: int, seconds: float) -> dict[str, Any]:
    """Have a consumer wait on empty shards; gives what it and the server do."""
    redis.flushall()
    fill(url, Job(url, url, 0, shards=shards).keys, (b"msg", b""), 0, GROUP)
    with Child("benchmarks.holder") as holder:
        holder.tell(url=url, what="idle", payload=0, shards=shards)
        holder.hear()
        holder.hear()
        before = look(redis)
        time.sleep(seconds)
        after = look(redis)
        holder.tell()
        heard = holder.hear()
    run = between(
        before, after, messages=0, seconds=heard["seconds"], client_cpu=heard["cpu"]
    )
    return {
        "name": f"{shards} idle shards",
        "shards": shards,
        "core": run.client_cpu / run.seconds,
        "server_core": run.server_cpu / run.seconds,
        "commands": {name: calls / run.seconds for name, calls in run.calls.items()},
    }


def idle_cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        f"{row['core']:.2%}",
        f"{sum(row['commands'].values()):.2f}",
        f"{row['server_core']:.2%}",
    ]
