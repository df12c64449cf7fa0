"""The clock of a run, and what it has cost the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis

from benchmarks.job import Run

# What the measuring itself asks the server.
OURS = ("info", "xpending", "xinfo", "hello", "client", "ping")


@dataclass(frozen=True)
class Look:
    """What the server has done so far."""

    cpu: float
    calls: dict[str, int]
    executing: dict[str, int]


def look(redis: Any) -> Look:
    """Ask the server what it has done so far."""
    cpu = redis.info("cpu")
    stats = {
        name.removeprefix("cmdstat_"): facts
        for name, facts in redis.info("commandstats").items()
        if name.removeprefix("cmdstat_").partition("|")[0] not in OURS
    }
    return Look(
        cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        {name: facts["calls"] for name, facts in stats.items()},
        {name: facts["usec"] for name, facts in stats.items()},
    )


def since(new: dict[str, int], old: dict[str, int]) -> dict[str, int]:
    """What was added."""
    added = {name: value - old.get(name, 0) for name, value in new.items()}
    return {name: value for name, value in added.items() if value}


def between(before: Look, after: Look, **taken: Any) -> Run:
    """A run, with what the server did in the meantime."""
    return Run(
        **taken,
        server_cpu=after.cpu - before.cpu,
        calls=since(after.calls, before.calls),
        executing=since(after.executing, before.executing),
    )


class Clock:
    """Times one run.

    Attributes:
        run: What it took; None until it is done.
    """

    def __init__(self, direct: str) -> None:
        self._direct = direct
        self.run: Run | None = None

    @contextmanager
    def timed(self, messages: int) -> Iterator[None]:
        """Time what is done within it, for so many messages."""
        # Its connection idles meanwhile: asked before and after, never in between.
        with Redis.from_url(self._direct) as redis:
            before, cpu, start = look(redis), time.process_time(), time.perf_counter()
            yield
            seconds = time.perf_counter() - start
            used = time.process_time() - cpu
            taken = {"messages": messages, "seconds": seconds, "client_cpu": used}
            self.run = between(before, look(redis), **taken)
