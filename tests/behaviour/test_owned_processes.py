"""Owned shards of processes that are stopped, killed and frozen, under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from penstock import Producer
from support.dead_letters import origins
from support.fleet import Fleet, JournalLine, WorkerProcess, open_fleet
from support.waiting import eventually, pending

SHARDS = 8
KEYS = 40
LEASE = 2.0
BURST = 20
PER_SECOND = 200
RUN = {"concurrency": 4, "ordering": "key"}
PAYLOAD = "sleep 0.005"


@asynccontextmanager
async def open_owners(
    url: str, stream: str, folder: Path, **options: Any
) -> AsyncIterator[Fleet]:
    """Provide a fleet whose consumers own shards."""
    given = {"ownership": {"lease": LEASE}, "shards": SHARDS, "run": RUN, **options}
    async with open_fleet(url, stream, folder, **given) as fleet:
        yield fleet


class Load:
    """Sends messages at a constant rate, with keys in turn.

    Attributes:
        sent: How many messages the server has confirmed.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.sent = 0
        self._fleet = fleet
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Send in bursts until stopped."""
        loop, fleet = asyncio.get_running_loop(), self._fleet
        async with Producer(fleet.url, shards=SHARDS) as producer:
            due = loop.time()
            while not self._stopped.is_set():
                for number in range(self.sent, self.sent + BURST):
                    payload = f"{number} {PAYLOAD}".encode()
                    key = f"k{number % KEYS}"
                    await producer.enqueue(fleet.stream, payload, key=key)
                await producer.flush()
                self.sent += BURST
                due += BURST / PER_SECOND
                await asyncio.sleep(due - loop.time())

    def stop(self) -> None:
        """Stop sending."""
        self._stopped.set()


@asynccontextmanager
async def load(fleet: Fleet) -> AsyncIterator[Load]:
    """Send during a block, and wait in the end until everything is handled."""
    made = Load(fleet)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        made.stop()
        await task

    async def all_handled() -> bool:
        return set(fleet.ended()) >= set(range(made.sent))

    await eventually(all_handled, within=40)


def shard_of(start: JournalLine) -> int:
    return int(start.facts[4])


def epoch_of(start: JournalLine) -> int:
    return int(start.facts[5])


def valid_starts(fleet: Fleet) -> list[JournalLine]:
    """Return the starts under tokens that were the server's, in the order of time.

    A process may be frozen between the start of a message and the check before it.
    """
    found: list[JournalLine] = []
    epochs: defaultdict[int, int] = defaultdict(int)
    for line in fleet.lines("start"):
        shard, epoch = shard_of(line), epoch_of(line)
        if epoch >= epochs[shard]:
            epochs[shard] = epoch
            found.append(line)
    return found


def disorder(starts: list[JournalLine]) -> list[JournalLine]:
    """Return the first starts that came after one of a later message of the key."""
    found: list[JournalLine] = []
    seen: set[int] = set()
    last: defaultdict[str, int] = defaultdict(lambda: -1)
    for line in starts:
        key = line.facts[2]
        if line.number not in seen:
            seen.add(line.number)
            if line.number < last[key]:
                found.append(line)
            last[key] = max(last[key], line.number)
    return found


async def nothing_is_pending(redis: Any, stream: str) -> bool:
    left = [await pending(redis, f"{stream}:{number}", "g") for number in range(SHARDS)]
    return not any(left)


async def all_start(*processes: WorkerProcess) -> bool:
    """Return whether each process has started some messages."""
    return all(len(list(process.lines("start"))) > 20 for process in processes)


async def test_processes_that_come_and_go_handle_each_message_once_and_in_order(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    async with open_owners(url, stream, tmp_path) as fleet:
        workers: list[WorkerProcess] = []
        async with load(fleet) as sender:
            for number in range(3):
                workers.append(await fleet.start(f"w{number}"))
                await eventually(lambda: all_start(workers[-1]))
            for worker in workers[:2]:
                assert await worker.end(signal.SIGTERM) == 0
        await eventually(lambda: nothing_is_pending(redis, stream))
        assert fleet.attempts() == {number: [1] for number in range(sender.sent)}
        assert disorder(fleet.lines("start")) == []
        events = Counter(line.facts[0] for line in fleet.lines("event"))
        assert not events.keys() & {"shard_lost", "drain_incomplete"}


async def test_a_killed_process_s_shards_go_on_after_its_lease_in_order(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    async with open_owners(url, stream, tmp_path) as fleet:
        workers = [await fleet.start(f"w{number}") for number in range(3)]
        async with load(fleet) as sender:
            await eventually(lambda: all_start(*workers))
            killed = workers[0]
            await killed.end(signal.SIGKILL)
            had = max_epochs(killed)
            await eventually(lambda: others_start(fleet, had), within=30)
        await eventually(lambda: nothing_is_pending(redis, stream))
        assert disorder(fleet.lines("start")) == []
        in_hand = [call for call in fleet.handlings() if call.process is killed]
        waited = [
            first_start(fleet, *each).at - killed.ended_at for each in had.items()
        ]
        # A second on a quiet machine.
        assert max(waited) < LEASE + 4
        attempts = fleet.attempts()
        assert attempts.keys() == set(range(sender.sent))
        # What ran, and what had ended and was not acknowledged yet.
        again = {number for number, tried in attempts.items() if len(tried) > 1}
        assert again <= {call.start.number for call in in_hand}
        assert len(again) <= 100
        # A busy machine does not count all first starts.
        assert all(tried in ([1], [1, 1], [1, 2]) for tried in attempts.values())


def max_epochs(process: WorkerProcess) -> dict[int, int]:
    """Return the last ownership of each shard that a process has read."""
    found: dict[int, int] = {}
    for line in process.lines("start"):
        found[shard_of(line)] = max(found.get(shard_of(line), 0), epoch_of(line))
    return found


def first_start(fleet: Fleet, shard: int, after: int) -> JournalLine:
    """Return the first start of a shard under a later ownership."""
    return next(
        line
        for line in fleet.lines("start")
        if shard_of(line) == shard and epoch_of(line) > after
    )


async def others_start(fleet: Fleet, had: dict[int, int]) -> bool:
    """Return whether messages of shards are started under later ownerships."""
    later = {
        shard_of(line)
        for line in fleet.lines("start")
        if epoch_of(line) > had.get(shard_of(line), 10**9)
    }
    return later == had.keys()


async def test_a_process_that_was_frozen_for_longer_than_its_lease_changes_nothing(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    """Others have its shards meanwhile. It finds that out, and takes part again."""
    async with open_owners(url, stream, tmp_path) as fleet:
        workers = [await fleet.start(f"w{number}") for number in range(3)]
        async with load(fleet) as sender:
            await eventually(lambda: all_start(*workers))
            frozen = workers[0]
            await eventually(lambda: freeze_while_it_handles(frozen))
            stopped_at = time.monotonic()
            had = max_epochs(frozen)
            await eventually(lambda: others_start(fleet, had), within=30)
            before = len(list(frozen.lines("start")))
            frozen.send_signal(signal.SIGCONT)
            await eventually(lambda: frozen.has("shard_lost"))
            await eventually(lambda: has_started_more(frozen, before))
        await eventually(lambda: nothing_is_pending(redis, stream))
        assert disorder(valid_starts(fleet)) == []
        assert fleet.attempts().keys() == set(range(sender.sent))
        # Nothing counts of what it ran: that was handled again.
        ran = {
            call.start.number
            for call in fleet.handlings()
            if call.process is frozen and call.start.at < stopped_at < call.until
        }
        assert ran
        again = {n for n, tried in fleet.attempts().items() if len(tried) > 1}
        assert ran <= again
        assert len(again) <= 100


async def freeze_while_it_handles(process: WorkerProcess) -> bool:
    """Freeze a process; return whether a handler runs in it."""
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(0.05)  # the signal has no reply
    words = Counter(line.word for line in process.lines("start", "end"))
    if words["start"] > words["end"]:
        return True
    process.send_signal(signal.SIGCONT)
    return False


async def has_started_more(process: WorkerProcess, before: int) -> bool:
    return len(list(process.lines("start"))) > before


async def test_messages_that_kill_their_process_are_dead_lettered_whoever_owns_them(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    """All others are handled, in order, by whoever has their shards then."""
    poison = {40, 81}
    payloads = ["kill" if n in poison else PAYLOAD for n in range(200)]
    lease, retry = {"lease": 1.0}, {"max_attempts": 2}
    async with open_owners(
        url, stream, tmp_path, ownership=lease, retry=retry
    ) as fleet:
        await fleet.send(*payloads, keys=KEYS)
        for number in range(2):
            await fleet.start(f"w{number}", restart=True)

        async def all_are_done() -> bool:
            dead = await origins(redis, stream)
            done = set(fleet.ended()) | dead.keys() == set(range(200))
            return done and await nothing_is_pending(redis, stream)

        await eventually(all_are_done, within=50)
        dead = await origins(redis, stream)
        assert dead.keys() == poison
        assert {letter.attempts for letter in dead.values()} == {2}
        assert set(fleet.ended()) == set(range(200)) - poison
        assert disorder(fleet.lines("start")) == []
        attempts = fleet.attempts()
        # A busy machine does not count all first starts.
        assert all(attempts[number] in ([1, 2], [1, 1, 2]) for number in poison)
