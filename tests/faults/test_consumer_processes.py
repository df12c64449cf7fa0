"""Consumers that are killed, pause, block their event loop, or restart."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from penstock import Claim, Consumer, Message, Prefetch, Producer
from support.failing import running
from support.fleet import open_fleet
from support.waiting import eventually, leave_pending, numbers, pending, send


async def test_recovered_messages_are_taken_in_the_order_of_the_stream(
    url: str, stream: str, redis: Any
) -> None:
    """Some of a process's entries had been started, and are tried one at a time."""
    await send(url, stream, *range(8))
    await leave_pending(redis, stream, "g")
    for number, (id_, _) in enumerate(await redis.xrange(stream)):
        started = 1 if number in {1, 2, 5} else 0
        await redis.xclaim(stream, "g", "g", 0, [id_], retrycount=started, justid=True)
    async with Consumer(stream, url=url, mode="resumable", group="g") as consumer:
        got: list[int] = []
        while len(got) < 8:
            took = numbers(await consumer.take(10, timeout=0.1))
            got += took
    assert got == [*range(8)]


async def test_consumers_that_all_pause_for_longer_than_a_lease_share_the_work_again(
    url: str, stream: str, tmp_path: Path, redis: Any
) -> None:
    """As on a laptop that sleeps: none reclaims what others have claimed since."""
    async with open_fleet(url, stream, tmp_path) as fleet:
        processes = [await fleet.start(f"w{number}") for number in range(3)]
        await fleet.send(*["sleep 0.02"] * 120)
        await eventually(lambda: fleet.handled(0))
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.5)  # the lease is 1 s
        for process in processes:
            process.send_signal(signal.SIGCONT)
        await eventually(lambda: fleet.handled(*range(120)), within=20)
        await eventually(lambda: nothing_is_pending(redis, stream))
        for process in processes:
            assert await process.end(signal.SIGTERM) == 0
        # Messages that were held, or handled and not yet acknowledged, may be handled
        # once more.
        again = Counter(fleet.ended())
        assert max(again.values()) <= 2
        assert sum(again.values()) <= 120 + 3 * 60


async def nothing_is_pending(redis: Any, stream: str) -> bool:
    return not await pending(redis, stream, "g")


async def test_a_handler_that_blocks_the_loop_for_longer_than_the_lease_loses_nothing(
    url: str, stream: str
) -> None:
    """Meanwhile leases can't be renewed; another consumer may get the message too."""
    seen: Counter[int] = Counter()
    blocked = False

    async def block_once(message: Message[bytes]) -> None:
        nonlocal blocked
        if not blocked:
            blocked = True
            time.sleep(1.2)  # noqa: ASYNC251 - as a bad handler does
        seen[int(message.payload)] += 1

    async def have_all() -> bool:
        return set(range(20)) <= set(seen)

    claim = Claim(idle=0.4, interval=0.1)
    async with (
        running(Consumer(stream, url=url, group="g", claim=claim), block_once),
        running(Consumer(stream, url=url, group="g", claim=claim), block_once),
    ):
        await send(url, stream, *range(20))
        await eventually(have_all)
    assert max(seen.values()) <= 2


async def test_a_handler_may_send_to_its_own_stream_however_small_the_buffer(
    url: str, stream: str, redis: Any
) -> None:
    seen: list[int] = []

    async def have_all() -> bool:
        return len(seen) == 300

    async with Producer(url, max_messages=1) as producer:

        async def split(message: Message[bytes]) -> None:
            number = int(message.payload)
            seen.append(number)
            if number < 100:
                await producer.send(stream, b"%d" % (number + 100))
                await producer.send(stream, b"%d" % (number + 200))

        consumer = Consumer(stream, url=url, group="g", prefetch=Prefetch(10))
        async with running(consumer, split, concurrency=8):
            await send(url, stream, *range(100))
            await eventually(have_all)
    assert sorted(seen) == [*range(300)]
    assert await pending(redis, stream, "g") == 0


async def test_the_end_of_a_process_is_recorded_though_nobody_waits_for_it(
    url: str, stream: str, tmp_path: Path
) -> None:
    async with open_fleet(url, stream, tmp_path) as fleet:
        process = await fleet.start("w")
        ending = asyncio.create_task(process.end(signal.SIGKILL))
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()

        async def is_recorded() -> bool:
            return math.isfinite(process.ended_at)

        await eventually(is_recorded)
        assert process.was_killed
