"""Streams that were deleted and recreated, with the ids that they had before."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Consumer,
    Message,
    Mode,
    Prefetch,
    Producer,
)
from support.events import Events
from support.failing import running
from support.proxy import proxy
from support.server import server
from support.waiting import eventually, numbers, options, pending, read

GROUPS = [RESUMABLE, LOAD_BALANCED]
MODES = [REALTIME, *GROUPS]
NEW = 1000


class Handler:
    """A handler that counts finished messages, and waits while it is closed."""

    def __init__(self, *, opened: bool = True) -> None:
        self.started: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.open = asyncio.Event()
        if opened:
            self.open.set()

    async def __call__(self, message: Message[bytes]) -> None:
        number = int(message.payload)
        self.started[number] += 1
        await self.open.wait()
        self.done[number] += 1

    async def have(self, *wanted: int) -> bool:
        return set(wanted) <= set(self.done)

    async def holds(self, count: int) -> bool:
        return self.started.total() >= count


async def fill(redis: Any, stream: str, *values: int) -> None:
    """Add values with the ids 1-0, 2-0 and so on."""
    async with redis.pipeline(transaction=False) as pipeline:
        for number, value in enumerate(values, 1):
            pipeline.xadd(stream, {"msg": value}, id=f"{number}-0")
        await pipeline.execute()


async def recreate(redis: Any, stream: str, count: int, group: str = "") -> None:
    """Replace a stream by one with NEW, NEW + 1 and so on, in one transaction."""
    async with redis.pipeline(transaction=True) as pipeline:
        pipeline.delete(stream)
        for number in range(count):
            pipeline.xadd(stream, {"msg": NEW + number}, id=f"{number + 1}-0")
        if group:
            pipeline.xgroup_create(stream, group, "0")
        await pipeline.execute()


@pytest.fixture
def consumed(url: str, stream: str, events: Events) -> tuple[str, str, Events]:
    """Provide the URL and the stream to consume, and the list for events."""
    return url, stream, events


async def nothing_is_pending(redis: Any, stream: str) -> bool:
    return not await pending(redis, stream, "g")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [30, 100, 150])
async def test_a_stream_that_is_recreated_in_one_transaction_is_read_completely(
    url: str, stream: str, redis: Any, mode: Mode, count: int
) -> None:
    await fill(redis, stream, *range(100))
    async with Consumer(stream, url=url, **options(mode)) as consumer:
        assert numbers(await read(consumer, 100)) == [*range(100)]
        await consumer.commit()
        await recreate(redis, stream, count)
        wanted = {*range(NEW, NEW + count)}
        got: set[int] = set()
        while not wanted <= got:
            got.update(numbers(await read(consumer, 1, within=6)))
        assert got == wanted
        if mode is not REALTIME:
            assert await consumer.next(timeout=0.05) is None
            await consumer.commit()
            assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_stream_that_is_recreated_during_an_outage_is_read_completely(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await fill(redis, stream, *range(100))
    handler = Handler()
    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, **options(mode))
        async with running(consumer, handler):
            await eventually(lambda: handler.have(*range(100)))
            await consumer.commit()
            await between.stop()
            await recreate(redis, stream, 150)
            await between.start()
            await eventually(lambda: handler.have(*range(NEW, NEW + 150)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [20, 100, 150])
async def test_a_stream_that_is_recreated_while_a_consumer_is_full_is_read_completely(
    url: str, stream: str, redis: Any, mode: Mode, count: int
) -> None:
    await fill(redis, stream, *range(100))
    handler = Handler(opened=False)
    consumer = Consumer(
        stream, url=url, prefetch=Prefetch(max_messages=10), **options(mode)
    )
    async with running(consumer, handler, concurrency=10):
        await eventually(lambda: handler.holds(10))
        await recreate(redis, stream, count)
        handler.open.set()
        await eventually(lambda: handler.have(*range(NEW, NEW + count)))
        if mode is not REALTIME:
            await eventually(lambda: nothing_is_pending(redis, stream))


@pytest.mark.parametrize(
    ("mode", "group"), [(mode, group) for mode in GROUPS for group in ("", "g")]
)
async def test_the_outcome_of_an_old_message_is_not_that_of_a_new_one_with_the_same_id(
    redis: Any, consumed: tuple[str, str, Events], mode: Mode, group: str
) -> None:
    """Whether Penstock recreates the group or another client does."""
    url, stream, events = consumed
    await fill(redis, stream, *range(10))
    handler = Handler(opened=False)
    consumer = Consumer(stream, url=url, on_event=events, **options(mode))
    async with running(consumer, handler, concurrency=40):
        await eventually(lambda: handler.holds(10))
        await recreate(redis, stream, 10, group)
        await eventually(lambda: delivered(redis, stream, 10))
        handler.open.set()
        await eventually(lambda: handler.have(*range(10)))
        await eventually(lambda: handler.have(*range(NEW, NEW + 10)))
        await eventually(lambda: nothing_is_pending(redis, stream))
    assert handler.done == Counter([*range(10), *range(NEW, NEW + 10)])
    [event] = events.named("stream_recreated")
    assert event.facts["messages"] == 10


async def delivered(redis: Any, stream: str, count: int) -> bool:
    """Return whether the last id that the group has delivered is `count`-0."""
    groups = await redis.xinfo_groups(stream)
    return bool(groups) and groups[0]["last-delivered-id"] == b"%d-0" % count


@pytest.mark.parametrize("mode", MODES)
async def test_the_first_message_after_each_of_many_flushes_is_handled(
    tmp_path: Path, stream: str, mode: Mode
) -> None:
    """With ids of the server, two messages of one millisecond may have the same id."""
    handler = Handler()
    async with server(tmp_path) as own, own.client() as redis:
        consumer = Consumer(stream, url=own.url, **options(mode))
        async with (
            running(consumer, handler, concurrency=4),
            Producer(own.url) as producer,
        ):
            for turn in range(30):
                first = turn * 10
                for number in range(first, first + 5):
                    await producer.send(stream, b"%d" % number)
                await redis.flushall()
                await producer.send(stream, b"%d" % (first + 5))
                await eventually(partial(handler.have, first + 5), within=5)


@pytest.mark.parametrize("mode", MODES)
async def test_the_only_messages_before_and_after_a_flush_may_have_the_same_id(
    tmp_path: Path, stream: str, mode: Mode
) -> None:
    handler = Handler()
    async with server(tmp_path) as own, own.client() as redis:
        consumer = Consumer(stream, url=own.url, **options(mode))
        async with running(consumer, handler, concurrency=4):
            for turn in range(10):
                async with redis.pipeline(transaction=True) as pipeline:
                    pipeline.flushall()
                    pipeline.xadd(stream, {"msg": turn}, id="5-0")
                    await pipeline.execute()
                await eventually(partial(handler.have, turn), within=6)
            await consumer.commit()
    assert handler.done.total() >= 10


async def test_all_consumers_of_a_group_together_handle_all_new_messages(
    url: str, stream: str, redis: Any
) -> None:
    await fill(redis, stream, *range(200))
    one, other = Handler(opened=False), Handler(opened=False)
    few = Prefetch(max_messages=20)
    async with (
        running(Consumer(stream, url=url, group="g", prefetch=few), one, concurrency=9),
        running(
            Consumer(stream, url=url, group="g", prefetch=few), other, concurrency=9
        ),
    ):
        await eventually(lambda: one.holds(9))
        await eventually(lambda: other.holds(9))
        await recreate(redis, stream, 250)
        one.open.set()
        other.open.set()
        wanted = {*range(NEW, NEW + 250)}

        async def done() -> bool:
            return wanted <= {*one.done, *other.done}

        await eventually(done)
        await eventually(lambda: nothing_is_pending(redis, stream))


@pytest.mark.parametrize("mode", GROUPS)
async def test_destroying_a_group_of_a_stream_that_stays_delivers_no_message_twice(
    url: str, stream: str, redis: Any, mode: Mode, events: Events
) -> None:
    await fill(redis, stream, *range(10))
    handler = Handler(opened=False)
    consumer = Consumer(stream, url=url, on_event=events, **options(mode))
    async with running(consumer, handler, concurrency=40):
        await eventually(lambda: handler.holds(10))
        await redis.xgroup_destroy(stream, "g")
        await eventually(lambda: delivered(redis, stream, 10))
        handler.open.set()
        await eventually(lambda: handler.have(*range(10)))
        await eventually(lambda: nothing_is_pending(redis, stream))
    assert handler.started == Counter(range(10))
    assert not events.named("stream_recreated")
