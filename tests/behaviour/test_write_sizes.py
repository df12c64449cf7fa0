"""`linger`, `max_batch` and `max_in_flight`: when queued messages are written."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import BufferFull, Producer, Receipt, RoundRobin, SendUnknown
from support.proxy import Proxy, proxy
from support.waiting import eventually

FOREVER = 3600


async def reads(redis: Any) -> int:
    """Return how often the server has read from a client."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_a_batch_that_is_not_full_waits_for_more_messages(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, linger=0.1) as producer:
        before = await reads(redis)
        start = time.monotonic()
        tasks = []
        for _ in range(20):
            tasks.append(asyncio.create_task(producer.send(stream, b"x")))
            for _ in range(10):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert time.monotonic() - start >= 0.095
        # One of the reads is of the INFO command itself.
        assert await reads(redis) - before <= 2 + 1


async def test_messages_do_not_linger_by_default(url: str, stream: str) -> None:
    async with Producer(url) as producer:
        async with asyncio.timeout(5):
            for _ in range(100):
                await producer.send(stream, b"x")


async def test_a_full_batch_does_not_wait(url: str, stream: str) -> None:
    async with Producer(url, linger=FOREVER, max_batch=10) as producer:
        async with asyncio.timeout(5):
            futures = [await producer.enqueue(stream, b"x") for _ in range(25)]
            await asyncio.gather(*futures[:20])
        assert not any(future.done() for future in futures[20:])


async def test_flushing_and_closing_do_not_linger(
    url: str, stream: str, redis: Any
) -> None:
    async with asyncio.timeout(5):
        async with Producer(url, linger=FOREVER) as producer:
            producer.enqueue_nowait(stream, b"1")
            await producer.flush()
            assert await redis.xlen(stream) == 1
            producer.enqueue_nowait(stream, b"2")
    assert await redis.xlen(stream) == 2


async def test_messages_do_not_linger_while_senders_wait_for_space(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, linger=FOREVER, max_messages=3) as producer:
        async with asyncio.timeout(5):
            for _ in range(100):
                await producer.enqueue(stream, b"x")
    assert await redis.xlen(stream) == 100


async def test_a_full_buffer_does_not_linger(url: str, stream: str, redis: Any) -> None:
    async with Producer(url, linger=FOREVER, max_messages=3) as producer:
        futures = [producer.enqueue_nowait(stream, b"x") for _ in range(3)]
        with pytest.raises(BufferFull):
            producer.enqueue_nowait(stream, b"x")
        async with asyncio.timeout(5):
            await asyncio.gather(*futures)
    assert await redis.xlen(stream) == 3


async def test_flushing_does_not_linger_for_senders_that_waited_for_space(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, linger=FOREVER, max_messages=3) as producer:
        async with asyncio.timeout(5):
            tasks = [
                asyncio.create_task(producer.enqueue(stream, b"x")) for _ in range(5)
            ]
            await asyncio.sleep(0)
            await producer.flush()
            assert await redis.xlen(stream) == 5
            await asyncio.gather(*tasks)


async def test_writes_exceed_neither_max_batch_nor_max_in_flight(
    url: str, stream: str
) -> None:
    async def sent(between: Proxy, count: int) -> bool:
        return between.sends == count

    async with proxy(url) as between:
        async with Producer(
            between.url, max_batch=3, max_in_flight=2, close_timeout=0.05
        ) as producer:
            between.drop_replies = True
            futures = [producer.enqueue_nowait(stream, b"x") for _ in range(50)]
            await eventually(lambda: sent(between, 6))
            assert not await producer_writes_more(between)
        await asyncio.gather(*futures, return_exceptions=True)


async def producer_writes_more(between: Proxy) -> bool:
    """Return whether more is written during a round trip through the proxy."""
    before = between.sends
    reader, writer = await asyncio.open_connection("127.0.0.1", between.port)
    writer.write(b"PING\r\n")
    await writer.drain()
    await eventually(lambda: accepted(between, 2))
    writer.close()
    await writer.wait_closed()
    del reader
    return between.sends > before


async def accepted(between: Proxy, count: int) -> bool:
    return between.accepted >= count


@pytest.mark.parametrize(
    "sizes",
    [(0, 500, 4), (0, 1, 1), (0, 7, 3), (0.001, 50, 2), (0.001, 3, 9)],
)
async def test_the_order_of_a_shard_is_that_of_the_calls_even_if_connections_are_cut(
    url: str, stream: str, redis: Any, sizes: tuple[float, int, int]
) -> None:
    linger, max_batch, max_in_flight = sizes
    outcomes: list[Receipt | BaseException] = []
    async with (
        proxy(url) as between,
        Producer(
            between.url,
            sharder=RoundRobin(2),
            max_messages=100,
            linger=linger,
            max_batch=max_batch,
            max_in_flight=max_in_flight,
        ) as producer,
    ):
        futures = []
        for number in range(2000):
            futures.append(await producer.enqueue(stream, b"%d" % number))
            if number % 600 == 500:
                between.cut()
        outcomes += await asyncio.gather(*futures, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {Receipt, SendUnknown}
    receipts = [o for o in outcomes if isinstance(o, Receipt)]
    # Each of the three cuts loses at most the messages in flight.
    assert len(receipts) >= 2000 - 3 * min(100, max_batch * max_in_flight)
    for shard in (0, 1):
        entries = await redis.xrange(f"{stream}:{shard}")
        bodies = [int(fields[b"msg"]) for _, fields in entries]
        assert bodies == sorted(set(bodies))
        ids = {int(fields[b"msg"]): id_.decode() for id_, fields in entries}
        for number, outcome in list(enumerate(outcomes))[shard::2]:
            if isinstance(outcome, Receipt):
                assert ids[number] == str(outcome.id)
