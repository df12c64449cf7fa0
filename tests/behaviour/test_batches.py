"""Batches: as many messages as requested, or those that arrive in time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import Batch, ConfigurationError, Consumer, Message, Prefetch, Retry
from support.failing import Boom, handled, running
from support.waiting import deliveries, eventually, numbers, pending, send

QUICK = Retry(max_attempts=3, backoff=[0.02])


async def test_a_batch_is_delivered_when_it_is_full_or_its_linger_time_is_over(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(10))
    async with Consumer(stream, url=url, group="g") as consumer:
        got = []
        start = time.monotonic()
        async for messages in consumer.batches(4, linger=0.3):
            got.append((numbers(messages), time.monotonic() - start))
            if len(got) == 3:
                break
    assert [batch for batch, _ in got] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert got[1][1] < 0.3 <= got[2][1] < 1.5


async def test_the_linger_time_begins_with_the_first_message(
    url: str, stream: str
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        batches = consumer.batches(100, linger=0.2)
        first = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.4)
        assert not first.done()
        await send(url, stream, 1)
        start = time.monotonic()
        assert numbers(await first) == [1]
        assert 0.1 < time.monotonic() - start < 1


async def test_a_batch_is_acknowledged_when_the_loop_continues_or_is_left_cleanly(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    async with Consumer(stream, url=url, group="g") as consumer:
        rounds = 0
        async for _ in consumer.batches(3, linger=1):
            rounds += 1
            await consumer.commit()
            assert await pending(redis, stream, "g") == (6, 3)[rounds - 1]
            if rounds == 2:
                break
    assert await pending(redis, stream, "g") == 0


async def test_a_batch_is_not_acknowledged_when_the_loop_is_left_by_an_exception(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    with pytest.raises(Boom):
        async with Consumer(stream, url=url, group="g") as consumer:
            async for _ in consumer.batches(3, linger=1):
                raise Boom
    assert len(await deliveries(redis, stream, "g")) == 6


async def test_messages_of_a_batch_have_outcomes_of_their_own(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    seen: list[list[tuple[int, int]]] = []

    async def handle(messages: list[Message[bytes]]) -> None:
        seen.append([(int(m.payload), m.attempt) for m in messages])
        for message in messages:
            if message.payload == b"1" and message.attempt == 1:
                message.nack()
            if message.payload == b"2":
                message.reject("no")
            if message.payload == b"3":
                message.ack()

    consumer = Consumer(stream, url=url, group="g", retry=QUICK)
    async with running(consumer, handle, batch=Batch(6, linger=1)):
        await eventually(lambda: handled(redis, stream, 6))
    assert seen == [[(n, 1) for n in range(6)], [(1, 2)]]
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_one_failing_message_does_not_dead_letter_the_others_of_its_batch(
    url: str, stream: str, redis: Any
) -> None:
    """The messages of a failed batch are retried one by one, to find the bad one."""
    await send(url, stream, *range(20))
    alone: dict[int, int] = {}

    async def handle(messages: list[Message[bytes]]) -> None:
        if len(messages) == 1:
            alone[int(messages[0].payload)] = messages[0].attempt
        if 7 in numbers(messages):
            raise Boom

    consumer = Consumer(stream, url=url, group="g", retry=QUICK)
    async with running(consumer, handle, batch=20):
        await eventually(lambda: handled(redis, stream, 20))
        await consumer.commit()
        assert consumer.statistics().dead_lettered == 1
    assert alone[7] == 3
    [(_, fields)] = await redis.xrange(f"{stream}.dead")
    assert fields[b"msg"] == b"7"


async def test_several_workers_share_batches(url: str, stream: str, redis: Any) -> None:
    await send(url, stream, *range(300))
    seen: list[int] = []
    most = now = 0

    async def handle(messages: list[Message[bytes]]) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        seen.extend(numbers(messages))
        await asyncio.sleep(0.005)
        now -= 1

    consumer = Consumer(stream, url=url, group="g")
    async with running(consumer, handle, batch=Batch(10, linger=0.05), concurrency=4):
        await eventually(lambda: handled(redis, stream, 300))
    assert sorted(seen) == list(range(300))
    assert 1 < most <= 4


async def test_a_batch_has_no_more_messages_than_prefetch_allows(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(20))
    few = Prefetch(max_messages=5)
    async with Consumer(stream, url=url, group="g", prefetch=few) as consumer:
        async with asyncio.timeout(5):
            async for messages in consumer.batches(100, linger=60):
                assert len(messages) == 5
                break


async def test_a_paused_consumer_delivers_no_batch(url: str, stream: str) -> None:
    await send(url, stream, *range(3))
    async with Consumer(stream, url=url, group="g") as consumer:
        consumer.pause()
        first = asyncio.ensure_future(anext(consumer.batches(3, linger=0.05)))
        done, _ = await asyncio.wait([first], timeout=0.4)
        assert not done
        consumer.resume()
        assert numbers(await first) == [0, 1, 2]


async def test_closing_ends_the_wait_for_a_batch(url: str, stream: str) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        waiting = asyncio.ensure_future(anext(consumer.batches(100, linger=60)))
        await asyncio.wait([waiting], timeout=0.2)
        await consumer.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting


@pytest.mark.parametrize(("size", "linger"), [(0, 1), (1, -1), ("x", 1)])
async def test_invalid_sizes_and_linger_times_are_refused(
    url: str, stream: str, size: Any, linger: Any
) -> None:
    with pytest.raises(ConfigurationError):
        Batch(size, linger)
    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(ConfigurationError):
            consumer.batches(size, linger)
