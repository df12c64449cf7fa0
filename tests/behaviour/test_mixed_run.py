"""Everything at once: failing handlers, kills, stops, restarts and takeovers, in order.

What holds of order when several consumers share a group: in each process the messages
of a key run one at a time, and those that it was the first to get start in the order of
the stream. What comes to it after somebody else may come late: another consumer may be
ahead with the same key by then.
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
MOST = 4
SENDING = 14.0
LEASE = 2.0


def tasks(chance: random.Random) -> list[str]:
    """What the handlers have to do: 2 % fail, half of those in the end."""
    kinds = ["fail", "fail", "fail 1", "fail 2", *["sleep 0.002"] * 196]
    return chance.choices(kinds, k=MESSAGES)


async def send(fleet: Fleet, payloads: list[str], chance: random.Random) -> None:
    """Send all, at a constant rate, with random keys."""
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
    """Ends a random worker every second, one way or the other, and replaces it."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._worker_pool = fleet
        self._chance = chance
        self._on_duty: list[WorkerProcess] = []
        self._names = 0

    async def begin(self) -> None:
        """Start the workers."""
        async with asyncio.TaskGroup() as starting:
            for _ in range(WORKERS):
                starting.create_task(self._start(self._new_name()))

    async def go_on(self) -> None:
        """Do harm until cancelled."""
        async with asyncio.TaskGroup() as replacing:
            while True:
                await asyncio.sleep(0.8 + 0.4 * self._chance.random())
                if self._on_duty:
                    process = self._chance.choice(self._on_duty)
                    self._on_duty.remove(process)
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
        self._on_duty.append(await self._worker_pool.start(name))

    def _new_name(self) -> str:
        self._names += 1
        return f"w{self._names}"


@pytest.mark.slow
async def test_under_kills_stops_and_failures_each_message_is_handled_or_given_up(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201 - to be run again
    chance = random.Random(seed)
    payloads = tasks(chance)
    hopeless = {n for n, payload in enumerate(payloads) if payload == "fail"}
    async with open_fleet(
        url,
        stream,
        tmp_path,
        retry={"max_attempts": MOST, "backoff": [0.02, 0.1]},
        claim={"idle": LEASE, "interval": 0.5},
        run={"concurrency": 16, "ordering": "key"},
    ) as fleet:
        chaos = Chaos(fleet, chance)
        await chaos.begin()
        harm = asyncio.create_task(chaos.go_on())
        await send(fleet, payloads, chance)
        harm.cancel()
        await asyncio.wait([harm])
        await eventually(lambda: all_is_done(redis, stream), within=20)
        # In order now, so that the last journal is whole.
        for process in fleet.processes:
            await process.end(signal.SIGTERM)
        handlings = fleet.handlings()
        assert set(fleet.ended()) == set(range(MESSAGES)) - hopeless
        assert await dead(redis, stream) == dict.fromkeys(hopeless, MOST)
        check_attempts(handlings)
        check_order(handlings)
        check_ownership(handlings)
        check_repetitions(handlings)


async def all_is_done(redis: Any, stream: str) -> bool:
    [group] = await redis.xinfo_groups(stream)
    return not group["pending"] and (group["entries-read"] or 0) >= MESSAGES


async def dead(redis: Any, stream: str) -> dict[int, int]:
    """The attempts of dead letters by their messages' numbers."""
    found = {}
    raw = await redis.xrange(f"{stream}.dead")
    for _, fields in raw:
        letter = dead_letter.read([word for pair in fields.items() for word in pair])
        assert letter is not None
        found[int(fields[b"msg"].split()[0])] = letter[1].attempts
    assert len(found) == len(raw)
    return found


def check_attempts(handlings: list[Handling]) -> None:
    """Each start of a message's handler counts more than the one before.

    At this pace a start is sent to the server and not waited for. So it may be
    forgotten, but only if the process was killed right after it.
    """
    for calls in grouped(handlings, lambda each: each.start.number):
        attempts = [each.start.attempt for each in calls]
        for one, next_ in pairwise(calls):
            more = next_.start.attempt - one.start.attempt
            assert more > 0 or (more == 0 and is_killed_right_after(one)), attempts
        assert attempts[-1] <= MOST


def is_killed_right_after(handling: Handling) -> bool:
    """Whether its process was killed within a few round trips of its start."""
    process = handling.process
    return process.was_killed and process.ended_at - handling.start.at < 0.5


def check_order(handlings: list[Handling]) -> None:
    """In each process, each key's messages run one at a time, and new ones in order."""
    for of_process in grouped(handlings, lambda each: each.process):
        process = of_process[0].process
        taken = {id_ for line in process.lines("taken") for id_ in line.facts}
        for calls in grouped(of_process, lambda each: each.start.facts[2]):
            assert all(one.until <= next_.start.at for one, next_ in pairwise(calls))
            ids = dict.fromkeys(each.start.facts[3] for each in calls)
            new = [EntryId.parse(id_) for id_ in ids if id_ not in taken]
            assert new == sorted(new)


def check_ownership(handlings: list[Handling]) -> None:
    """No message is handled by one process while another one has it."""
    for calls in grouped(handlings, lambda each: each.start.number):
        for one, next_ in pairwise(calls):
            # What stood still for a whole lease has lost it, and is told so.
            assert one.until <= next_.start.at or has_lost_leases(one.process)


def has_lost_leases(process: WorkerProcess) -> bool:
    return any(line.facts == ["lease_lost"] for line in process.lines("event"))


def check_repetitions(handlings: list[Handling]) -> None:
    """What was handled is handled again only if the process was killed right after."""
    for calls in grouped(handlings, lambda each: each.start.number):
        done = [each for each in calls if each.outcome == "end"]
        for each in done[:-1]:
            assert each.lost or each.process.ended_at - each.until < 1.0


def grouped(
    handlings: list[Handling], by: Callable[[Handling], Hashable]
) -> Iterable[list[Handling]]:
    """Part them, each part in the order of time."""
    parts = defaultdict(list)
    for handling in handlings:
        parts[by(handling)].append(handling)
    return parts.values()
