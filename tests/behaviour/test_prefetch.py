"""Prefetching follows the rate of the handlers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import Consumer, Message, Prefetch
from support.waiting import eventually, numbers, pending, send

TENTH = 0.1


async def test_a_late_second_consumer_gets_its_share_of_slow_work_within_a_second(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(60))
    handled: dict[str, list[float]] = {"early": [], "late": []}

    def handler(name: str) -> Any:
        async def handle(_: Message[bytes]) -> None:
            await asyncio.sleep(TENTH)  # the work
            handled[name].append(time.monotonic())

        return handle

    async with (
        Consumer(stream, url=url, group="g") as early,
        Consumer(stream, url=url, group="g") as late,
    ):
        tasks = [asyncio.create_task(early.run(handler("early")))]
        await eventually(lambda: reached(handled["early"], 10))
        joined = time.monotonic()
        tasks.append(asyncio.create_task(late.run(handler("late"))))
        await eventually(lambda: reached([*handled["early"], *handled["late"]], 60))
        finished = time.monotonic()
        await early.aclose()
        await late.aclose()
        await asyncio.wait(tasks)
    soon = [when for when in handled["late"] if when - joined < 1]
    assert len(soon) >= 5
    # No message waits in the buffer of one while the other is idle: they end together.
    last = max(handled["early"]), max(handled["late"])
    assert abs(last[0] - last[1]) < 1.3
    assert finished - joined < 50 * TENTH / 2 + 1.3
    assert await pending(redis, stream, "g") == 0


async def reached(what: list[float], count: int) -> bool:
    return len(what) >= count


async def test_messages_that_take_longer_than_max_wait_are_not_prefetched(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(40))
    quick = Prefetch(max_wait=0.05)
    async with Consumer(stream, url=url, group="g", prefetch=quick) as consumer:
        waiting = []

        async def handle(_: Message[bytes]) -> None:
            await asyncio.sleep(TENTH)  # the work
            waiting.append(consumer.statistics().queued)
            if len(waiting) == 14:
                await consumer.aclose()

        await consumer.run(handle)
    # A few are prefetched in the beginning, before the rate is known; and one later, if
    # this machine was so busy that a handler seemed to be quicker than it was.
    assert 0 in waiting[7:]
    assert max(waiting) <= 8


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_messages_of_quick_handlers_are_read_500_and_more_at_a_time(
    url: str, stream: str, redis: Any, concurrency: int
) -> None:
    count = 30_000
    await send(url, stream, *range(count))
    seen = 0
    async with Consumer(stream, url=url, group="g") as consumer:

        async def handle(_: Message[bytes]) -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                await consumer.aclose()

        before = await reads(redis)
        await consumer.run(handle, concurrency=concurrency)
    # The first reads are of fewer: 8, 16, 32 and so on.
    assert await reads(redis) - before <= count / 500 + 20


async def reads(redis: Any) -> int:
    stats = await redis.info("commandstats")
    return int(stats["cmdstat_xreadgroup"]["calls"])


async def test_as_many_messages_are_read_as_callers_ask_for_at_once(
    url: str, stream: str
) -> None:
    """Even before the rate is known, and when many workers wait."""
    await send(url, stream, *range(500))
    async with Consumer(stream, url=url, group="g") as consumer:
        assert numbers(await consumer.take(300, timeout=5)) == list(range(300))
        together = most = 0
        done = asyncio.Event()

        async def handle(_: Message[bytes]) -> None:
            nonlocal together, most
            together += 1
            most = max(most, together)
            if together == 100:
                done.set()
            await done.wait()
            together -= 1

        running = asyncio.create_task(consumer.run(handle, concurrency=100))
        async with asyncio.timeout(5):
            await done.wait()
        await consumer.aclose()
        await running
    assert most == 100


async def test_many_waiting_workers_do_not_exceed_max_messages(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(200))
    small = Prefetch(max_messages=20)
    async with Consumer(stream, url=url, group="g", prefetch=small) as consumer:
        held = []

        async def handle(_: Message[bytes]) -> None:
            await asyncio.sleep(0.005)  # the work
            held.append(consumer.statistics().in_hand)
            if len(held) == 200:
                await consumer.aclose()

        await consumer.run(handle, concurrency=50)
    assert max(held) <= 20


async def test_a_search_for_expired_leases_goes_through_a_long_pending_list(
    url: str, stream: str, redis: Any
) -> None:
    """Most entries have a lease; the few whose lease has ended are found soon."""
    await send(url, stream, *range(3000))
    await redis.xgroup_create(stream, "g", id="0")
    await redis.xreadgroup("g", "dead", {stream: ">"}, count=3000)
    listed = await redis.xpending_range(stream, "g", "-", "+", 3000)
    ids = [line["message_id"] for line in listed]
    # The last five have been idle for longer than the lease.
    await redis.xclaim(stream, "g", "dead", 0, ids[-5:], idle=120_000, justid=True)
    async with Consumer(stream, url=url, group="g") as consumer:
        got = [await consumer.next(timeout=5) for _ in range(5)]
    assert [int(m.payload) for m in got if m] == [2995, 2996, 2997, 2998, 2999]
