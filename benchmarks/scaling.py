"""How speed changes: with processes, shards, sizes, and handlers that wait."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.clock import between, look
from benchmarks.facts import versions
from benchmarks.filling import fill
from benchmarks.job import GROUP, STREAM, Job, Run
from benchmarks.peers import SECONDS, Candidate
from benchmarks.processes import PATIENCE, Child
from benchmarks.running import Row, perform
from benchmarks.server import check_settled, connect, own_server
from benchmarks.store import Result, save

PROCESSES = (1, 2, 4)
COMPUTE = (0, 20)  # microseconds
SHARDS = (1, 4, 16, 64)
PAYLOADS = (100, 1_000, 10_000, 100_000)
CONCURRENCY = (1, 16, 256)
WAITS = (0.001, 0.010)  # seconds

RUN = Candidate("penstock run(16)", "penstock", "run", 0, ours=True)
RAW = Candidate("raw", "raw", "consume", 0, ours=True)
WAITING = Candidate("penstock run", "penstock", "run", 0, ours=True)
TASKS = Candidate("bare tasks", "raw", "tasks", 0, ours=True)

# Bytes of payloads that the server is to hold at most.
HELD = 200_000_000
PARTS = {
    "processes": "worker processes on one group",
    "shards": "shards, one process",
    "payloads": "bytes of a message",
    "waiting": "handlers that wait",
}
HEAD = ("", "messages/s", "lowest", "highest", "of ideal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--messages", type=int, default=400_000, help="at most")
    parser.add_argument("--rounds", type=int, default=3)


def main(given: argparse.Namespace, folder: Path) -> None:
    """Measure, print and store."""
    with own_server() as url, connect(url) as redis:
        on = versions(redis)
        for part in given.only:
            rows = measure(redis, url, part, given)
            print(f"\n{PARTS[part]}\n{table.plain(HEAD, [cells(row) for row in rows])}")
            stored = [row.stored() for row in rows]
            asked = {"messages": given.messages, "rounds": given.rounds}
            save(Result(f"scaling-{part}", asked, stored, on), folder)


def measure(redis: Any, url: str, part: str, given: argparse.Namespace) -> list[Row]:
    """All cases of a part, in turn, `rounds` times."""
    rows: dict[str, Row] = {}
    for _ in range(given.rounds):
        for name, candidate, parameters in cases(part, given.messages):
            row = rows.setdefault(name, Row(name, parameters))
            redis.flushall()
            if candidate is None:
                run = together(redis, url, **parameters)
            else:
                run, row.versions = perform(candidate, Job(url, url, **parameters))
            check_settled(redis)
            row.runs.append(run)
    return list(rows.values())


def cases(
    part: str, most: int
) -> Iterator[tuple[str, Candidate | None, dict[str, Any]]]:
    """What a part measures: a name, who does it, and its parameters."""
    if part == "processes":
        for compute in COMPUTE:
            for processes in PROCESSES:
                some = int(min(most, 1e6 / compute * SECONDS)) if compute else most
                asked = {"processes": processes, "compute": compute, "messages": some}
                yield f"{processes} x run(16), {compute} µs", None, asked
    elif part == "shards":
        for shards in SHARDS:
            yield f"{shards} shards", RUN, {"shards": shards, "messages": most}
    elif part == "payloads":
        for payload in PAYLOADS:
            some = min(most, HELD // payload)
            for candidate in (RAW, RUN):
                asked = {"payload": payload, "messages": some}
                yield f"{candidate.name}, {payload:,} B", candidate, asked
    else:
        yield from waiting(most)


def waiting(most: int) -> Iterator[tuple[str, Candidate, dict[str, Any]]]:
    """Handlers that await a timer, and bare tasks that do."""
    for wait in WAITS:
        for concurrency in CONCURRENCY:
            some = int(min(most, SECONDS * concurrency / wait))
            for candidate in (TASKS, WAITING):
                asked = {"wait": wait, "concurrency": concurrency, "messages": some}
                name = f"{candidate.name}, {concurrency} x {wait * 1000:g} ms"
                yield name, candidate, asked


def together(
    redis: Any, url: str, processes: int, compute: float, messages: int
) -> Run:
    """Have processes share the messages of one group."""
    fill(url, [STREAM], (b"msg", b"x" * 200), messages, GROUP)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Child("benchmarks.worker")) for _ in range(processes)
        ]
        for worker in workers:
            worker.tell(url=url, compute=compute)
        for worker in workers:
            worker.hear()
        before, start = look(redis), time.perf_counter()
        for worker in workers:
            worker.tell()
        await_all(redis)
        seconds, after = time.perf_counter() - start, look(redis)
        for worker in workers:
            worker.tell()
        told = [worker.hear() for worker in workers]
    handled = sum(each["handled"] for each in told)
    if handled != messages:
        raise RuntimeError(f"{handled} of {messages} were handled")
    cpu = sum(each["cpu"] for each in told)
    taken = {"messages": messages, "seconds": seconds, "client_cpu": cpu}
    return between(before, after, **taken)


def await_all(redis: Any) -> None:
    """Wait until the group has had all entries, and none is pending."""
    last = redis.xinfo_stream(STREAM)["last-generated-id"]
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        [group] = redis.xinfo_groups(STREAM)
        if group["last-delivered-id"] == last and not group["pending"]:
            return
        time.sleep(0.005)
    raise RuntimeError(f"not all were handled within {PATIENCE:.0f} s")


def ideal(row: Row) -> float | None:
    """Messages a second if nothing but the handlers' waiting took time."""
    wait = row.parameters.get("wait")
    return row.parameters["concurrency"] / wait if wait else None


def cells(row: Row) -> Sequence[str]:
    rate, best = row.rate, ideal(row)
    return [
        row.name,
        *(f"{figure:,.0f}" for figure in (rate.median, rate.low, rate.high)),
        f"{rate.median / best:.2f}" if best else "",
    ]
