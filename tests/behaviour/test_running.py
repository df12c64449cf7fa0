"""`run`: concurrency, ordering, and bounded prefetching."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from typing import Any

import pytest

from penstock import (
    Commit,
    Consumer,
    Message,
    Prefetch,
    Producer,
    Retry,
    UsageError,
)
from support.waiting import eventually, holds, numbers, pending, read, send


async def test_as_many_handlers_run_as_the_concurrency_says_and_no_more(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(60))
    running = most = done = 0

    async def handle(_: Message[bytes]) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        done += 1
        if done == 60:
            await consumer.aclose()

    async with Consumer(stream, url=url, group="g") as consumer:
        start = time.monotonic()
        await consumer.run(handle, concurrency=20)
    assert most == 20
    assert time.monotonic() - start < 0.4  # 0.6 s one after the other
    assert await pending(redis, stream, "g") == 0


async def test_concurrency_one_handles_in_the_order_of_the_stream(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(2000))
    seen = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) == 2000:
            await consumer.aclose()

    async with Consumer(stream, url=url, group="g") as consumer:
        await consumer.run(handle)
    assert seen == list(range(2000))


@pytest.mark.parametrize("ordering", ["key", "shard"])
async def test_an_ordering_handles_each_lane_one_at_a_time_in_stream_order(
    url: str, stream: str, redis: Any, ordering: str
) -> None:
    streams = [f"{stream}-{n}" for n in range(3)]
    chance = random.Random(7)
    async with Producer(url) as producer:
        for number in range(1500):
            key = f"k{chance.randrange(20)}" if number % 10 else None
            await producer.enqueue(chance.choice(streams), b"%d" % number, key=key)
    running: set[object] = set()
    seen: dict[object, list[int]] = defaultdict(list)
    together = done = 0

    async def handle(message: Message[bytes]) -> None:
        nonlocal together, done
        lane = (message.stream, message.key if ordering == "key" else None)
        assert lane not in running
        running.add(lane)
        together = max(together, len(running))
        seen[lane].append(int(message.payload))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() / 1000)
        running.discard(lane)
        done += 1
        if done == 1500:
            await consumer.aclose()

    async with Consumer(*streams, url=url, group="g") as consumer:
        async with asyncio.timeout(30):
            await consumer.run(handle, concurrency=32, ordering=ordering)
    assert sum(map(len, seen.values())) == 1500
    for order in seen.values():
        assert order == sorted(order)
    assert together > (10 if ordering == "key" else 2)
    for name in streams:
        assert await pending(redis, name, "g") == 0


async def test_an_ordering_applies_to_messages_that_were_queued_before_run(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        for number in range(200):
            await producer.enqueue(stream, b"%d" % number, key=f"k{number % 4}")
    async with Consumer(stream, url=url, group="g") as consumer:
        await eventually(lambda: has_queued(consumer))
        seen: dict[str | None, list[int]] = defaultdict(list)
        done = 0

        async def handle(message: Message[bytes]) -> None:
            nonlocal done
            seen[message.key].append(int(message.payload))
            await asyncio.sleep(0)
            done += 1
            if done == 200:
                await consumer.aclose()

        await consumer.run(handle, concurrency=16, ordering="key")
    assert {key: sorted(order) for key, order in seen.items()} == seen


async def has_queued(consumer: Consumer[bytes]) -> bool:
    return consumer.statistics().queued > 5


async def test_a_handler_that_raises_stops_neither_the_others_nor_its_lane(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        for number in range(100):
            await producer.enqueue(stream, b"%d" % number, key=f"k{number % 3}")
    tried: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        tried.append(int(message.payload))
        if len(set(tried)) == 100:
            await consumer.aclose()
        if int(message.payload) % 7 == 0:
            raise ValueError

    once = Retry(max_attempts=1)
    async with Consumer(stream, url=url, group="g", retry=once) as consumer:
        async with asyncio.timeout(20):
            await consumer.run(handle, concurrency=8, ordering="key")
    assert sorted(tried) == list(range(100))


async def test_two_runs_of_a_consumer_must_have_the_same_ordering(
    url: str, stream: str
) -> None:
    started = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        started.set()
        await asyncio.Event().wait()

    async with Consumer(stream, url=url, group="g", close_timeout=0) as consumer:
        run = asyncio.create_task(consumer.run(handle, ordering="key"))
        await send(url, stream, 1)
        await started.wait()
        with pytest.raises(UsageError, match="'key'"):
            await consumer.run(handle)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


# -- prefetching -----------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 7, 50])
async def test_no_more_messages_are_held_than_max_messages(
    url: str, stream: str, redis: Any, most: int
) -> None:
    await send(url, stream, *range(300))
    bound = Prefetch(max_messages=most)
    async with Consumer(stream, url=url, group="g", prefetch=bound) as consumer:
        highest = 0
        for _ in range(300):
            await consumer.next()
            highest = max(highest, consumer.statistics().in_hand)
            if _ % 20 == 0:
                await asyncio.sleep(0.002)  # let the reader fill up
    assert highest <= most


async def test_messages_that_a_slow_consumer_does_not_hold_go_to_another(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(10))
    small = Prefetch(max_messages=3)
    async with Consumer(stream, url=url, group="g", prefetch=small) as slow:
        held = numbers(await read(slow, 1))
        await eventually(lambda: holds(slow, 3))
        async with Consumer(stream, url=url, group="g") as other:
            rest = numbers(await read(other, 7))
    assert held == [0]
    assert rest == list(range(3, 10))


async def test_large_messages_are_bounded_by_their_bytes(url: str, stream: str) -> None:
    """100 messages of 200 kB, a bound of 2 MB; the reader has to learn their size."""
    async with Producer(url) as producer:
        for number in range(100):
            await producer.enqueue(stream, b"%d-" % number + b"x" * 200_000)
    bound = Prefetch(max_bytes=2_000_000)
    async with Consumer(stream, url=url, group="g", prefetch=bound) as consumer:
        highest = 0
        for number in range(100):
            message = await consumer.next()
            assert message.payload.startswith(b"%d-" % number)
            # The size is not known at the first read, which is of 16 at most.
            if number >= 20:
                highest = max(highest, consumer.statistics().bytes_in_hand)
            await asyncio.sleep(0.001)
    assert 400_000 < highest <= 2_200_000


async def test_a_message_larger_than_max_bytes_is_still_delivered(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        for _ in range(5):
            await producer.enqueue(stream, b"x" * 1_000_000)
    bound = Prefetch(max_bytes=1000)
    async with Consumer(stream, url=url, group="g", prefetch=bound) as consumer:
        assert [len(message.payload) for message in await read(consumer, 5)] == [
            1_000_000
        ] * 5


async def test_with_quick_handlers_hundreds_of_messages_are_read_at_a_time(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10_000))
    before = await reads(redis)
    async with Consumer(
        stream, url=url, group="g", commit=Commit(interval=60)
    ) as consumer:
        await read(consumer, 10_000)
        assert await reads(redis) - before < 60


async def reads(redis: Any) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_xreadgroup", {"calls": 0})["calls"])


async def test_a_handler_that_never_awaits_does_not_delay_acks(
    url: str, stream: str, redis: Any
) -> None:
    """The event loop gets turns between messages, so acks are sent at the interval."""
    await send(url, stream, *range(100))
    async with Consumer(
        stream, url=url, group="g", commit=Commit(interval=0.02)
    ) as consumer:
        count = 0
        sizes = []
        async for _ in consumer:
            count += 1
            end = time.perf_counter() + 0.005
            while time.perf_counter() < end:
                pass
            sizes.append(consumer.statistics().uncommitted)
            if count == 100:
                break
    # 0.02 s are four messages; the server's answer takes a turn or two more.
    assert max(sizes) < 15


async def test_idle_workers_get_new_messages_while_the_others_are_busy(
    url: str, stream: str
) -> None:
    """More than half of max_messages is held, but no message is queued."""
    started = 0
    go = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        nonlocal started
        started += 1
        await go.wait()

    async def have_started(count: int) -> bool:
        return started == count

    ten = Prefetch(max_messages=10)
    async with Consumer(stream, url=url, group="g", prefetch=ten) as consumer:
        run = asyncio.create_task(consumer.run(handle, concurrency=10))
        await send(url, stream, *range(6))
        await eventually(lambda: have_started(6))
        await send(url, stream, *range(4))
        await eventually(lambda: have_started(10), within=2)
        go.set()
        await consumer.aclose()
        await run
