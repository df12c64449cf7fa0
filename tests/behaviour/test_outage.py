"""An outage of three seconds, under load on both sides of it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

import pytest

from penstock import (
    LOAD_BALANCED,
    RESUMABLE,
    Commit,
    Consumer,
    Message,
    Mode,
    Producer,
    SendUnknown,
)
from support.events import Events
from support.proxy import Proxy, proxy
from support.waiting import eventually, pending

KEYS = 7


@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED])
async def test_both_sides_recover_and_each_key_s_order_is_kept(
    url: str, stream: str, redis: Any, events: Events, mode: Mode
) -> None:
    """Messages with a receipt are handled in the order sent; nothing is sent twice."""
    handled: dict[str, list[int]] = defaultdict(list)

    async def handle(message: Message[bytes]) -> None:
        handled[str(message.key)].append(int(message.payload))
        await asyncio.sleep(0.001)

    async with proxy(url) as between:
        async with Consumer(
            stream,
            url=between.url,
            mode=mode,
            group="g",
            commit=Commit(interval=0.02),
            on_event=events,
        ) as consumer:
            run = asyncio.create_task(
                consumer.run(handle, concurrency=4, ordering="key")
            )
            confirmed, unknown, recovered_at = await send_throughout_an_outage(
                between, stream
            )
            first_after = await eventually(lambda: all_handled(handled, confirmed))
            assert time.monotonic() - recovered_at < 5, first_after
            await consumer.commit()
            await consumer.aclose()
            await run
    stored = await stored_by_key(redis, stream)
    everything = sorted(n for numbers in stored.values() for n in numbers)
    # Stored once or not at all, and confirmed ones for certain.
    assert len(everything) == len(set(everything))
    assert set(confirmed) <= set(everything) <= set(confirmed) | set(unknown)
    assert len(confirmed) > 300
    for key, numbers in stored.items():
        assert numbers == sorted(numbers)
        # Messages in flight may have been redelivered, but not after newer ones.
        first_times = list(dict.fromkeys(handled[key]))
        assert first_times == numbers
    assert await pending(redis, stream, "g") == 0
    assert len(events.named("connection_lost")) == 1
    assert len(events) < 30


async def send_throughout_an_outage(
    between: Proxy, stream: str
) -> tuple[list[int], list[int], float]:
    """Send while the server is cut off for three seconds, and before and after.

    Returns:
        The numbers with a receipt, those without one, and when the outage was over.
    """
    futures: list[asyncio.Future[Any]] = []

    async def send(producer: Producer, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            number = len(futures)
            key = f"k{number % KEYS}"
            futures.append(await producer.enqueue(stream, b"%d" % number, key=key))
            await asyncio.sleep(0.005)

    async with Producer(between.url) as producer:
        await send(producer, 0.5)
        await between.stop()
        await send(producer, 3)
        await between.start()
        recovered_at = time.monotonic()
        await send(producer, 0.5)
        await producer.flush()
    confirmed: list[int] = []
    unknown: list[int] = []
    for number, future in enumerate(futures):
        error = future.exception()
        assert error is None or isinstance(error, SendUnknown)
        (unknown if error else confirmed).append(number)
    # Messages that were only queued were sent afterwards.
    assert len(unknown) < 50
    return confirmed, unknown, recovered_at


async def all_handled(handled: dict[str, list[int]], wanted: list[int]) -> bool:
    return set(wanted) <= {n for numbers in handled.values() for n in numbers}


async def stored_by_key(redis: Any, stream: str) -> dict[str, list[int]]:
    by_key: dict[str, list[int]] = defaultdict(list)
    for _, fields in await redis.xrange(stream):
        by_key[fields[b"key"].decode()].append(int(fields[b"msg"]))
    return by_key
