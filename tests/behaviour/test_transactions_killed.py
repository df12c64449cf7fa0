"""Transactions of killed processes: the effects of each message are applied once.

Processes are killed at any moment. `PENSTOCK_SOAK=30` makes the test run for so many
seconds; with `--log-cli-level=INFO` it logs the result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.fleet import Fleet, open_fleet
from support.waiting import eventually, pending

SECONDS = float(os.environ.get("PENSTOCK_SOAK", "3"))
WORKERS = 3
# A redelivered message is tried however often its process was killed.
RETRY = {"max_attempts": None}


async def feed(fleet: Fleet, out: str, until: float) -> int:
    """Send messages until a time; return how many."""
    sent = 0
    while time.monotonic() < until:
        await fleet.send(*[f"count {out}"] * 60, first=sent, keys=7)
        sent += 60
        await asyncio.sleep(0.1)
    return sent


async def kill(fleet: Fleet, number: int, until: float) -> int:
    """Start workers and kill each at a random moment; return how many."""
    killed = 0
    while time.monotonic() < until or killed < 2:
        # Some restart with the same name; the entries of the others have to be claimed.
        process = await fleet.start(f"w{number}-{killed // 2}")
        await asyncio.sleep(random.uniform(0, 0.5))
        await process.end(signal.SIGKILL)
        killed += 1
    return killed


@pytest.mark.slow
@pytest.mark.timeout(60 + 4 * SECONDS)
async def test_every_message_counts_once_however_often_processes_are_killed(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    out = f"{stream}.out"
    claim = {"idle": 0.6, "interval": 0.1}
    run = {"concurrency": 8}
    async with open_fleet(
        url, stream, tmp_path, retry=RETRY, claim=claim, run=run
    ) as fleet:
        until = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(feed(fleet, out, until))
            killers = [
                group.create_task(kill(fleet, number, until))
                for number in range(WORKERS)
            ]
        sent, killed = feeding.result(), sum(task.result() for task in killers)
        await fleet.start("last")
        done = lambda: _all_is_done(redis, stream, out, sent)  # noqa: E731
        await eventually(done, within=30 + SECONDS)
        starts = Counter(line.number for line in fleet.lines("start"))
    counts = {
        k.decode(): int(n) for k, n in (await redis.hgetall(f"{out}.counts")).items()
    }
    total = counts.pop("total")
    outputs = Counter(int(fields[b"msg"]) for _, fields in await redis.xrange(out))
    repeated = sum(times - 1 for times in starts.values())
    summary = "%g s: %d messages, %d kills, %d handlers started again"
    logging.getLogger(__name__).info(summary, SECONDS, sent, killed, repeated)
    assert total == sent
    assert counts == {str(number): 1 for number in range(sent)}
    assert outputs == dict.fromkeys(range(sent), 1)
    assert not await redis.exists(f"{stream}.dead")


async def _all_is_done(redis: Any, stream: str, out: str, sent: int) -> bool:
    all_sent = await redis.xlen(out) >= sent
    return all_sent and not await pending(redis, stream, "g")
