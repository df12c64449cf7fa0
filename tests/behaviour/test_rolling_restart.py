"""Rolling restart: workers are restarted in turn under load, without any effect."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import Producer
from support.fleet import Fleet, WorkerProcess, open_fleet
from support.waiting import eventually, pending

PER_SECOND = 500
# So many are sent at a time, so that some are queued wherever they are read.
BURST = 50
# Two of the workers can handle more than that, and so what the third one releases.
WORKERS = 3
CONCURRENCY = 8
PAYLOAD = "sleep 0.02"
ROUNDS = 3


class Sender:
    """Sends messages at a constant rate until it is stopped.

    Attributes:
        sent: How many messages the server has confirmed.
    """

    def __init__(self) -> None:
        self.sent = 0
        self._stopped = asyncio.Event()

    async def run(self, fleet: Fleet) -> None:
        """Send in bursts."""
        loop = asyncio.get_running_loop()
        async with Producer(fleet.url) as producer:
            due = loop.time()
            while not self._stopped.is_set():
                for number in range(self.sent, self.sent + BURST):
                    await producer.enqueue(fleet.stream, f"{number} {PAYLOAD}".encode())
                await producer.flush()
                self.sent += BURST
                due += BURST / PER_SECOND
                await asyncio.sleep(due - loop.time())

    def stop(self) -> None:
        """Stop sending."""
        self._stopped.set()


@asynccontextmanager
async def load(fleet: Fleet) -> AsyncIterator[Sender]:
    """Send messages during a block."""
    sender = Sender()
    task = asyncio.create_task(sender.run(fleet))
    try:
        yield sender
    finally:
        sender.stop()
        await task


@pytest.mark.slow
async def test_workers_restarted_in_turn_lose_repeat_and_delay_no_message(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    """SIGTERM under constant load; no message waits for its lease, a whole minute."""
    claim = {"idle": 60, "interval": 30}
    run = {"concurrency": CONCURRENCY}
    async with open_fleet(url, stream, tmp_path, claim=claim, run=run) as fleet:
        workers = [await fleet.start(f"w{number}") for number in range(WORKERS)]
        had: dict[str, WorkerProcess] = {}
        async with load(fleet) as sender:
            for number in range(ROUNDS * WORKERS):
                leaving = workers.pop(0)
                # It has messages that it has not started.
                await eventually(lambda: buffers(redis, stream, leaving), within=15)
                had |= dict.fromkeys(await owned(redis, stream, leaving), leaving)
                assert await leaving.end(signal.SIGTERM) == 0
                workers.append(await fleet.start(f"w{number + WORKERS}"))
        await eventually(lambda: all_handled(fleet, sender.sent), within=20)
        await eventually(lambda: nothing_is_pending(redis, stream))
        started = {each.start.facts[3]: each.process for each in fleet.handlings()}
        taken = {id_: line for line in fleet.lines("taken") for id_ in line.facts}
        tried, ended = fleet.attempts(), fleet.ended()
        events = {line.facts[0] for line in fleet.lines("event")}
        released = {
            id_: process for id_, process in had.items() if started[id_] != process
        }
        waited = [taken[id_].at - process.ended_at for id_, process in released.items()]
    assert ended == list(range(sender.sent))
    assert tried == {number: [1] for number in range(sender.sent)}
    assert waited
    assert max(waited) < 1.0
    assert events == {"claimed"}
    assert not await redis.exists(f"{stream}.dead")


async def buffers(redis: Any, stream: str, process: WorkerProcess) -> bool:
    """Return whether the process has more messages than it can handle at a time."""
    return len(await owned(redis, stream, process)) > CONCURRENCY


async def owned(redis: Any, stream: str, process: WorkerProcess) -> list[str]:
    """Return the ids of the pending entries of a process."""
    lines = await redis.xpending_range(stream, "g", "-", "+", 10_000, process.name)
    return [line["message_id"].decode() for line in lines]


async def all_handled(fleet: Fleet, count: int) -> bool:
    return len(fleet.ended()) >= count


async def nothing_is_pending(redis: Any, stream: str) -> bool:
    return not await pending(redis, stream, "g")
