"""Owned shards: loops and calls that another task's `aclose` meets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import ClosedError, Consumer, Owned, Producer
from support.events import Events
from support.waiting import eventually, pending

OWNED = Owned(lease=5.0, drain=30.0)


async def send(url: str, stream: str, count: int) -> None:
    async with Producer(url, shards=1) as producer:
        for number in range(count):
            await producer.send(stream, b"%d" % number, key="k")


def consumer(
    url: str, stream: str, owned: Owned = OWNED, **options: Any
) -> Consumer[bytes]:
    return Consumer(stream, url=url, group="g", ownership=owned, **options)


async def closing(consumer: Consumer[bytes]) -> asyncio.Task[None]:
    """Close a consumer from another task, and wait until that has begun."""
    task = asyncio.create_task(consumer.aclose())

    async def has_begun() -> bool:
        try:
            consumer.pause()
        except ClosedError:
            return True
        return False

    await eventually(has_begun)
    return task


@pytest.mark.parametrize("way", ["loop", "batches", "next"])
async def test_a_shard_is_freed_after_the_message_that_somebody_has(
    url: str, stream: str, redis: Any, way: str
) -> None:
    """The next owner would start it, or those behind it, at the same time."""
    await send(url, stream, 3)
    first, second = consumer(url, stream), consumer(url, stream)
    steps: list[str] = []
    began, go = asyncio.Event(), asyncio.Event()

    async def handle(payload: bytes) -> None:
        steps.append(f"first starts {payload.decode()}")
        began.set()
        await go.wait()
        steps.append("first ends")

    async def take() -> None:
        if way == "loop":
            async for message in first:
                await handle(message.payload)
        elif way == "batches":
            async for [message] in first.batches(1):
                await handle(message.payload)
        else:
            with pytest.raises(ClosedError):
                while True:
                    await handle((await first.next()).payload)

    async def take_rest() -> None:
        async for message in second:
            steps.append(f"second starts {message.payload.decode()}")

    async with first, second, asyncio.timeout(30):
        taking = asyncio.create_task(take())
        await began.wait()
        rest = asyncio.create_task(take_rest())
        close = await closing(first)
        await asyncio.wait([close], timeout=0.3)
        assert not close.done()
        assert steps == ["first starts 0"]
        go.set()
        await close
        await taking

        async def has_all() -> bool:
            return len(steps) == 4

        await eventually(has_all)
        await second.aclose()
        await rest
    order = ["first starts 0", "first ends", "second starts 1", "second starts 2"]
    assert steps == order
    assert await pending(redis, f"{stream}:0", "g") == 0


async def test_a_loop_that_takes_longer_than_the_drain_is_not_waited_for(
    url: str, stream: str, redis: Any
) -> None:
    events = Events()
    await send(url, stream, 1)
    brief = Owned(lease=5.0, drain=0.2)
    first = consumer(url, stream, brief, on_event=events)
    began, go = asyncio.Event(), asyncio.Event()

    async def take() -> None:
        async for _ in first:
            began.set()
            await go.wait()

    async with first, asyncio.timeout(30):
        taking = asyncio.create_task(take())
        await began.wait()
        await first.aclose()
        [event] = events.named("drain_incomplete")
        assert event.facts["running"] == 1
        go.set()
        await taking
    async with consumer(url, stream) as second, asyncio.timeout(30):
        assert (await second.next()).payload == b"0"


async def test_a_task_that_closes_the_consumer_waits_for_no_message_of_its_own(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 2)
    first = consumer(url, stream)
    async with first, asyncio.timeout(10):
        async for message in first:
            assert message.payload == b"0"
            await first.aclose()
    async with consumer(url, stream) as second, asyncio.timeout(30):
        assert (await second.next()).payload == b"1"
