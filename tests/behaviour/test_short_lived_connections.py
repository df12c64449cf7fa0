"""Reading continues although connections end after some number of reply bytes."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import (
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Claim,
    Consumer,
    Message,
    Mode,
    Producer,
    RoundRobin,
    replay,
)
from support.failing import running
from support.proxy import proxy
from support.waiting import eventually, leave_pending, options, pending

MODES = pytest.mark.parametrize("mode", [REALTIME, RESUMABLE, LOAD_BALANCED])
SIZE = 5_000
MANY = 100_000
# The first replies of a connection and those of commands about an entry take about a
# kilobyte.
ONE = 9_000


async def fill(url: str, stream: str, count: int, shards: int = 0) -> None:
    async with Producer(
        url, sharder=RoundRobin(shards) if shards else None
    ) as producer:
        for number in range(count):
            await producer.enqueue(stream, b"%d" % number + bytes(SIZE))


class Handled:
    """A handler that records the numbers that it has seen."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    async def __call__(self, message: Message[bytes]) -> None:
        self.numbers.add(int(message.payload.rstrip(b"\0")))

    async def all_of(self, count: int) -> bool:
        return len(self.numbers) == count


async def acknowledged(redis: Any, stream: str, keys: list[str]) -> bool:
    return not any([await pending(redis, key, "g") for key in keys])


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(("cut_after", "count"), [(MANY, 300), (ONE, 40)])
@MODES
async def test_all_messages_are_handled(
    url: str,
    stream: str,
    redis: Any,
    *,
    mode: Mode,
    cut_after: int,
    count: int,
    protocol: int,
) -> None:
    await fill(url, stream, count)
    seen = Handled()
    async with proxy(url) as between:
        between.cut_after = cut_after
        consumer = Consumer(
            stream, url=f"{between.url}?protocol={protocol}", **options(mode)
        )
        async with running(consumer, seen, concurrency=100):
            await eventually(lambda: seen.all_of(count), within=20)
            if mode is not REALTIME:
                await eventually(lambda: acknowledged(redis, stream, [stream]))
        assert between.cuts


@MODES
async def test_all_messages_of_many_shards_are_handled(
    url: str, stream: str, mode: Mode
) -> None:
    """A single entry of each shard is more than a connection transmits."""
    await fill(url, stream, 60, shards=12)
    seen = Handled()
    async with proxy(url) as between:
        between.cut_after = 30_000
        consumer = Consumer(stream, url=between.url, **options(mode))
        async with running(consumer, seen, concurrency=100):
            await eventually(lambda: seen.all_of(60), within=30)
        assert between.cuts


@pytest.mark.parametrize(("cut_after", "count"), [(MANY, 300), (ONE, 40)])
async def test_all_entries_of_a_dead_consumer_are_claimed(
    url: str, stream: str, redis: Any, *, cut_after: int, count: int
) -> None:
    await fill(url, stream, count)
    await leave_pending(redis, stream, "dead", count)
    seen = Handled()
    async with proxy(url) as between:
        between.cut_after = cut_after
        consumer = Consumer(
            stream, url=between.url, group="g", claim=Claim(idle=1, interval=0.1)
        )
        async with running(consumer, seen, concurrency=100):
            await eventually(lambda: seen.all_of(count), within=30)


@pytest.mark.parametrize(("cut_after", "count"), [(MANY, 300), (ONE, 40)])
@pytest.mark.parametrize("shards", [0, 5])
async def test_a_replay_yields_all_messages_once(
    url: str, stream: str, *, cut_after: int, count: int, shards: int
) -> None:
    await fill(url, stream, count, shards)
    async with proxy(url) as between:
        async with replay(stream, url=between.url) as messages:
            given = []
            async for each in messages:
                given.append(int(each.payload.rstrip(b"\0")))
                if not between.cut_after:
                    # From now on; before, the replay asks where each shard ends.
                    between.cut_after = cut_after
                    between.cut()
        assert sorted(given) == list(range(count))
        assert between.cuts
