"""All faults together: failing handlers, kills, stops, restarts and claims, in order.

When several consumers share a group, this holds of order: in each process the messages
of a key run one at a time, and those that the process was the first to get start in the
order of the stream. Messages that another consumer had before may come late: another
consumer may be ahead with the same key by then.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from penstock import EntryId, Producer
from penstock._core.messages import dead_letter
from support.fleet import Fleet, Handling, WorkerProcess, open_fleet
from support.waiting import eventually

MESSAGES = 20_000
KEYS = 200
WORKERS = 4
MAX_ATTEMPTS = 4
SENDING = 14.0
LEASE = 2.0


def tasks(chance: random.Random) -> list[str]:
    """Return the payloads: 2 % of the handlers fail, half of those on all attempts."""
    kinds = ["fail", "fail", "fail 1", "fail 2", *["sleep 0.002"] * 196]
    return chance.choices(kinds, k=MESSAGES)


async def send(fleet: Fleet, payloads: list[str], chance: random.Random) -> None:
    """Send all payloads at a constant rate with random keys."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with Producer(fleet.url) as producer:
        for number, payload in enumerate(payloads):
            key = f"k{chance.randrange(KEYS)}"
            await producer.enqueue(
                fleet.stream, f"{number} {payload}".encode(), key=key
            )
            ahead = number * SENDING / MESSAGES - (loop.time() - start)
            if ahead > 0.01:
                await asyncio.sleep(ahead)


class Chaos:
    """Kills or stops a random worker every second, and replaces it."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance
        self._workers: list[WorkerProcess] = []
        self._names = 0

    async def start_workers(self) -> None:
        """Start the workers."""
        async with asyncio.TaskGroup() as starting:
            for _ in range(WORKERS):
                starting.create_task(self._start(self._new_name()))

    async def run(self) -> None:
        """End and replace workers until cancelled."""
        async with asyncio.TaskGroup() as replacing:
            while True:
                await asyncio.sleep(0.8 + 0.4 * self._chance.random())
                if self._workers:
                    process = self._chance.choice(self._workers)
                    self._workers.remove(process)
                    replacing.create_task(
                        self._replace(process, *self._choices(process))
                    )

    def _choices(self, process: WorkerProcess) -> tuple[signal.Signals, str]:
        how = self._chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        return how, self._chance.choice([process.name, self._new_name()])

    async def _replace(
        self, process: WorkerProcess, how: signal.Signals, name: str
    ) -> None:
        await process.end(how)
        await self._start(name)

    async def _start(self, name: str) -> None:
        self._workers.append(await self._fleet.start(name))

    def _new_name(self) -> str:
        self._names += 1
        return f"w{self._names}"


@pytest.mark.slow
async def test_under_kills_stops_and_failures_messages_are_handled_or_dead_lettered(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201 - to repeat the run
    chance = random.Random(seed)
    payloads = tasks(chance)
    always_failing = {n for n, payload in enumerate(payloads) if payload == "fail"}
    async with open_fleet(
        url,
        stream,
        tmp_path,
        retry={"max_attempts": MAX_ATTEMPTS, "backoff": [0.02, 0.1]},
        claim={"idle": LEASE, "interval": 0.5},
        run={"concurrency": 16, "ordering": "key"},
    ) as fleet:
        chaos = Chaos(fleet, chance)
        await chaos.start_workers()
        ending = asyncio.create_task(chaos.run())
        await send(fleet, payloads, chance)
        ending.cancel()
        await asyncio.wait([ending])
        await eventually(lambda: all_is_done(redis, stream), within=20)
        # Stopped in order, so that the last journal is complete.
        for process in fleet.processes:
            await process.end(signal.SIGTERM)
        handlings = fleet.handlings()
        assert set(fleet.ended()) == set(range(MESSAGES)) - always_failing
        assert await dead(redis, stream) == dict.fromkeys(always_failing, MAX_ATTEMPTS)
        check_attempts(handlings)
        check_order(handlings)
        check_ownership(handlings)
        check_repetitions(handlings)


async def all_is_done(redis: Any, stream: str) -> bool:
    [group] = await redis.xinfo_groups(stream)
    return not group["pending"] and (group["entries-read"] or 0) >= MESSAGES


async def dead(redis: Any, stream: str) -> dict[int, int]:
    """Return the attempts of dead letters by their messages' numbers."""
    found = {}
    raw = await redis.xrange(f"{stream}.dead")
    for _, fields in raw:
        decoded = dead_letter.read([word for pair in fields.items() for word in pair])
        assert decoded is not None
        found[int(fields[b"msg"].split()[0])] = decoded[1].attempts
    assert len(found) == len(raw)
    return found


def check_attempts(handlings: list[Handling]) -> None:
    """Check that the attempts of a message increase from start to start.

    At this rate a start is sent to the server without waiting for the reply. So it may
    be forgotten, but only if the process was killed right after it.
    """
    for calls in grouped(handlings, lambda each: each.start.number):
        attempts = [each.start.attempt for each in calls]
        for one, next_ in pairwise(calls):
            more = next_.start.attempt - one.start.attempt
            assert more > 0 or (more == 0 and was_killed_right_after(one)), attempts
        assert attempts[-1] <= MAX_ATTEMPTS


def was_killed_right_after(handling: Handling) -> bool:
    """Return whether its process was killed within a few round trips of its start."""
    process = handling.process
    return process.was_killed and process.ended_at - handling.start.at < 0.5


def check_order(handlings: list[Handling]) -> None:
    """Check that a process runs a key's messages one at a time, new ones in order."""
    for of_process in grouped(handlings, lambda each: each.process):
        process = of_process[0].process
        taken = {id_ for line in process.lines("taken") for id_ in line.facts}
        for calls in grouped(of_process, lambda each: each.start.facts[2]):
            assert all(one.until <= next_.start.at for one, next_ in pairwise(calls))
            ids = dict.fromkeys(each.start.facts[3] for each in calls)
            new = [EntryId.parse(id_) for id_ in ids if id_ not in taken]
            assert new == sorted(new)


def check_ownership(handlings: list[Handling]) -> None:
    """Check that no message is handled by one process while another one has it."""
    for calls in grouped(handlings, lambda each: each.start.number):
        for one, next_ in pairwise(calls):
            # A process that paused for a whole lease has lost it, and has reported
            # that.
            assert one.until <= next_.start.at or has_lost_leases(one.process)


def has_lost_leases(process: WorkerProcess) -> bool:
    return any(line.facts == ["lease_lost"] for line in process.lines("event"))


def check_repetitions(handlings: list[Handling]) -> None:
    """Check that messages are handled again only if their process was killed then."""
    for calls in grouped(handlings, lambda each: each.start.number):
        done = [each for each in calls if each.outcome == "end"]
        for each in done[:-1]:
            assert each.lost or each.process.ended_at - each.until < 1.0


def grouped(
    handlings: list[Handling], by: Callable[[Handling], Hashable]
) -> Iterable[list[Handling]]:
    """Group handlings; each group is in the order of time."""
    groups = defaultdict(list)
    for handling in handlings:
        groups[by(handling)].append(handling)
    return groups.values()
