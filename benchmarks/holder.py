"""A consumer or a producer that holds all it may, or does nothing: `cost` looks at it.

`python -m benchmarks.holder` is told the `url`, `what` it is to be, the bytes of a
`payload` and the number of `shards`. It tells its resident set size before it opens;
and when it is as it is to be, that again and what it holds. With the next line it ends,
and tells the processor seconds that it used meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.job import GROUP, STREAM
from benchmarks.lines import line, say, told
from benchmarks.memory_consumer import resident
from penstock import KEEP_ALL, BufferFull, Consumer, Message, Producer

# Messages that are handled at once before handlers wait: it reads far ahead by then.
QUICK = 5_000
# Seconds in which nothing changes any more.
STILL = 0.5


@asynccontextmanager
async def full_consumer(url: str, payload: int, shards: int) -> AsyncIterator[int]:
    """Handle some messages, then none; gives how many it holds."""
    _ = payload
    ends = asyncio.Event()
    quick = QUICK

    async def handle(message: Message[bytes]) -> None:
        nonlocal quick
        _ = message
        quick -= 1
        if quick < 0:
            await ends.wait()

    names = shards if shards > 1 else None
    async with Consumer(STREAM, url=url, group=GROUP, shards=names) as consumer:
        running = asyncio.create_task(consumer.run(handle, concurrency=16))
        held = -1
        while quick > 0 or held != consumer.statistics().in_hand:
            held = consumer.statistics().in_hand
            await asyncio.sleep(STILL)
        yield held
        ends.set()
        await consumer.aclose()
        await running


@asynccontextmanager
async def full_producer(url: str, payload: int, shards: int) -> AsyncIterator[int]:
    """Send to a server that answers nobody until there is no room."""
    _ = shards
    # Each its own bytes, as messages have.
    body = bytearray(b"x" * payload)
    async with Producer(url, retention=KEEP_ALL) as producer:
        held = 0
        try:
            while True:
                producer.enqueue_nowait(STREAM, bytes(body))
                held += 1
                await asyncio.sleep(0)
        except BufferFull:
            yield held


@asynccontextmanager
async def idle_consumer(url: str, payload: int, shards: int) -> AsyncIterator[int]:
    """Wait for messages that do not come."""
    _ = payload
    names = shards if shards > 1 else None

    async def handle(message: Message[bytes]) -> None:
        raise RuntimeError(f"a message came: {message.id}")

    async with Consumer(STREAM, url=url, group=GROUP, shards=names) as consumer:
        running = asyncio.create_task(consumer.run(handle, concurrency=16))
        # What opening sets going is over by then.
        await asyncio.sleep(2)
        yield 0
        await consumer.aclose()
        await running


HOLDERS = {
    "consumer": full_consumer,
    "producer": full_producer,
    "idle": idle_consumer,
}


async def hold(url: str, what: str, payload: int, shards: int) -> None:
    """Be it until told to end."""
    say(resident=resident())
    async with HOLDERS[what](url, payload, shards) as held:
        cpu, start = time.process_time(), time.perf_counter()
        say(resident=resident(), held=held)
        await line()
        say(
            cpu=time.process_time() - cpu,
            seconds=time.perf_counter() - start,
        )


if __name__ == "__main__":
    asyncio.run(told(hold))
