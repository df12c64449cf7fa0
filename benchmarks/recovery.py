"""How long it takes until messages are handled again, after what befalls everybody.

It is measured from the outside: from the fault, or from when the server listens again,
to the start of a handler in another process.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.facts import versions
from benchmarks.job import GROUP, STREAM
from benchmarks.processes import ROOT, Child, import_path
from benchmarks.recovery_app import SHORT
from benchmarks.server import connect, own_server
from benchmarks.spread import Spread
from benchmarks.store import Result, save
from penstock.embedded import find_server

HEAD = ("", "goal", "median", "worst")
LEASE = 2.0
# Seconds for which a server is down: so long that tries have become rare, and not the
# same each time, lest it comes back right before one of them.
DOWN = (2.0, 3.0)
# What the killed worker holds.
HELD = 10
# Seconds after which nothing counts as recovered any more.
PATIENCE = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=20)


def main(given: argparse.Namespace, folder: Path) -> None:
    """Measure, print and store."""
    with own_server() as url, connect(url) as redis:
        on = versions(redis)
        rows = [
            row("all connections killed", 0.2, given.rounds, lambda: cut(redis, url)),
            row("server killed, from listening", 1.0, given.rounds, restart),
            row(
                f"worker killed, lease {LEASE:g} s",
                LEASE + 1.0,
                given.rounds,
                lambda: takeover(redis, url),
            ),
            row(
                "SIGTERM, idle", 0.3, given.rounds, lambda: stop(redis, url, busy=False)
            ),
            row(
                f"SIGTERM, handlers of {SHORT:g} s",
                SHORT + 0.3,
                given.rounds,
                lambda: stop(redis, url, busy=True),
            ),
        ]
    print(table.plain(HEAD, [cells(each) for each in rows]))
    asked = {"rounds": given.rounds, "lease": LEASE, "down": DOWN}
    save(Result("recovery", asked, rows, on), folder)


def row(
    name: str, goal: float, rounds: int, measure: Callable[[], float]
) -> dict[str, Any]:
    """Measure some rounds."""
    return {"name": name, "goal": goal, "seconds": [measure() for _ in range(rounds)]}


def cells(row: dict[str, Any]) -> list[str]:
    spread = Spread.of(row["seconds"])
    figures = (row["goal"], spread.median, spread.high)
    return [row["name"], *(f"{figure:.3f} s" for figure in figures)]


def cut(redis: Any, url: str) -> float:
    """Kill all connections but our own, and send."""
    redis.flushall()
    with consumer(url) as child:
        redis.xadd(STREAM, {"msg": "before"})
        handled(child, "before")
        start = time.monotonic()
        for kind in ("normal", "pubsub"):
            redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        redis.xadd(STREAM, {"msg": "after"})
        return handled(child, "after") - start


def restart() -> float:
    """Kill the server, and start it again after a while."""
    with tempfile.TemporaryDirectory() as folder, free_port() as port:
        url = f"redis://127.0.0.1:{port}"
        server = started(folder, port)
        try:
            with connect(url) as redis, consumer(url) as child:
                redis.xadd(STREAM, {"msg": "before"})
                handled(child, "before")
                server.kill()
                server.wait()
                time.sleep(random.uniform(*DOWN))  # noqa: S311
                server = started(folder, port)
                start = time.monotonic()
                redis.xadd(STREAM, {"msg": "after"})
                return handled(child, "after") - start
        finally:
            server.kill()
            server.wait()


def takeover(redis: Any, url: str) -> float:
    """Kill a worker that holds messages; until the last is another's."""
    redis.flushall()
    with (
        consumer(url, "dies", hold=True) as dead_lettering,
        Child("benchmarks.recoverer") as it,
    ):
        for number in range(HELD):
            redis.xadd(STREAM, {"msg": f"{number}"})
        for _ in range(HELD):
            dead_lettering.hear()
        it.tell(url=url, name="lives", lease=LEASE, hold=False)
        it.hear()
        # Not right after they were read: leases have been renewed by then, or not.
        time.sleep(LEASE * 0.75)
        dead_lettering.kill()
        start = time.monotonic()
        last = max(it.hear(PATIENCE)["at"] for _ in range(HELD))
        it.tell()
        return float(last - start)


def stop(redis: Any, url: str, *, busy: bool) -> float:
    """End `penstock run` by SIGTERM; until the process is gone."""
    redis.flushall()
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready")
        words = ("run", "benchmarks.recovery_app", "--ready-file", str(ready))
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", *words, "--log-level", "error"],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": import_path(sys.executable),
                "REDIS_URL": url,
                "BENCH_STREAM": STREAM,
            },
            stdout=subprocess.PIPE,
        )
        try:
            until(ready.exists)
            if busy:
                assert process.stdout is not None  # noqa: S101 - it was asked for
                for _ in range(4):
                    redis.xadd(STREAM, {"msg": "short"})
                for _ in range(4):
                    process.stdout.readline()
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
            took = time.monotonic() - start
        finally:
            process.kill()
            process.communicate()
    if code or redis.xpending(STREAM, GROUP)["pending"]:
        raise RuntimeError(f"it ended with {code}, or left something pending")
    return took


@contextmanager
def consumer(url: str, name: str = "it", *, hold: bool = False) -> Iterator[Child]:
    """A consumer that is open; it is told to end, unless it was killed."""
    with Child("benchmarks.recoverer") as child:
        child.tell(url=url, name=name, lease=LEASE, hold=hold)
        child.hear()
        yield child
        child.tell()


def handled(child: Child, payload: str) -> float:
    """Wait until a message's handler starts; gives when it did.

    Raises:
        RuntimeError: It did not.
    """
    while (heard := child.hear(PATIENCE))["payload"] != payload:
        pass
    return float(heard["at"])


@contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield port


def started(folder: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server with an append-only file, and wait until it answers."""
    words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    words += ["--appendonly", "yes", "--appendfsync", "always"]
    server = subprocess.Popen([find_server(), *words], stdout=subprocess.DEVNULL)
    until(lambda: answers(port))
    return server


def answers(port: int) -> bool:
    """Whether a server is there that has loaded its data."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so.

    Raises:
        RuntimeError: It was not in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE:g} s")
        time.sleep(0.001)
