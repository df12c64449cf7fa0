"""`lag()`: the number of undelivered entries, or None where it can't be known."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Consumer,
    Prefetch,
    Producer,
    RoundRobin,
    after,
)
from support.waiting import eventually, read, send

GROUPS = [RESUMABLE, LOAD_BALANCED]
PREFETCH_ONE = Prefetch(max_messages=1)


async def lag(consumer: Consumer[Any]) -> int | None:
    [count] = (await consumer.lag()).values()
    return count


async def lag_is(consumer: Consumer[Any], count: int | None) -> bool:
    return await lag(consumer) == count


@pytest.mark.parametrize("mode", GROUPS)
async def test_the_lag_of_a_group_is_the_number_of_undelivered_entries(
    url: str, stream: str, mode: Any, redis: Any
) -> None:
    info = await redis.info("server")
    await send(url, stream, *range(10))
    async with Consumer(
        stream, url=url, group="g", mode=mode, prefetch=PREFETCH_ONE
    ) as reader:
        await read(reader, 1)
        if "lag" in (await redis.xinfo_groups(stream))[0]:
            # One is in progress, and the next one may have been prefetched.
            await eventually(lambda: lag_is(reader, 9))
        else:
            assert info["redis_version"].startswith("6.")
            assert await lag(reader) is None
        await read(reader, 9)
        await eventually(lambda: lag_is(reader, 0))


@pytest.mark.parametrize("mode", [REALTIME, *GROUPS])
async def test_the_lag_is_returned_per_shard(url: str, stream: str, mode: Any) -> None:
    async with Producer(url, sharder=RoundRobin(3)) as producer:
        for _ in range(9):
            await producer.enqueue(stream, b"x")
    group = None if mode is REALTIME else "g"
    async with Consumer(
        stream, url=url, group=group, mode=mode, start=EARLIEST
    ) as reader:
        await read(reader, 9)
        found = await reader.lag()
        assert {shard.number: count for shard, count in found.items()} == {
            0: 0,
            1: 0,
            2: 0,
        }
        assert set(found) == set(reader.shards)


@pytest.mark.parametrize("mode", [REALTIME, *GROUPS])
async def test_the_lag_of_a_missing_stream_is_0(
    url: str, stream: str, mode: Any
) -> None:
    group = None if mode is REALTIME else "g"
    async with Consumer(stream, url=url, group=group, mode=mode) as reader:
        assert await lag(reader) == 0


async def test_in_realtime_the_lag_is_known_at_the_ends_only(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(10))
    async with Consumer(
        stream, url=url, start=EARLIEST, prefetch=PREFETCH_ONE
    ) as reader:
        reader.pause()
        # One entry at most was read. The first one is an end, too.
        assert await lag(reader) in {10, 9, None}
        reader.resume()
        await read(reader, 10)
        await eventually(lambda: lag_is(reader, 0))


async def test_after_trimming_the_lag_is_the_number_of_remaining_entries(
    url: str, stream: str, redis: Any
) -> None:
    """redis/redis#13957: the number that the server reports is wrong then."""
    await send(url, stream, *range(100))
    async with Consumer(stream, url=url, group="g", prefetch=PREFETCH_ONE) as reader:
        await read(reader, 1)
        await redis.xtrim(stream, maxlen=20, approximate=False)
        await eventually(lambda: lag_is(reader, 20))


async def test_after_an_entry_was_deleted_from_the_middle_the_lag_is_unknown(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        ids = [str((await producer.send(stream, b"x")).id) for _ in range(20)]
    async with Consumer(stream, url=url, group="g", prefetch=PREFETCH_ONE) as reader:
        await read(reader, 2)
        await redis.xdel(stream, ids[15])
        assert await lag(reader) is None
        await read(reader, 17)
        await eventually(lambda: lag_is(reader, 0))


async def test_after_a_seek_to_an_id_the_lag_is_never_a_wrong_number(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        ids = [(await producer.send(stream, b"x")).id for _ in range(20)]
    async with Consumer(
        stream, url=url, group="g", mode=RESUMABLE, prefetch=PREFETCH_ONE
    ) as reader:
        await reader.seek(after(ids[9]))
        await read(reader, 1)
        assert await lag(reader) in {9, 8, None}
