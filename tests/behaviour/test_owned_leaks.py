"""Owned consumers that open and close leave nothing behind: no task, file or key."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import Consumer, Owned, Producer
from penstock._core.messages.shard_keys import numbered
from penstock._core.ownership.keys import members_key, owner_key
from support.events import Events
from support.storm import nothing_left
from support.waiting import eventually

SHARDS = 8
FILES = Path("/proc/self/fd")


def opened(url: str, stream: str) -> Consumer[bytes]:
    return Consumer(stream, url=url, group="g", ownership="owned")


async def open_and_close(url: str, stream: str, *, owns: bool) -> None:
    """Open a consumer, perhaps wait until it has all shards, and close it."""
    async with opened(url, stream) as consumer:

        async def has_all() -> bool:
            return len(consumer.shards) == consumer.statistics().owned == SHARDS

        if owns:
            await eventually(has_all)


def open_files() -> int:
    """Return how many files are open; 0 where the system does not tell."""
    return len([*FILES.iterdir()]) if FILES.exists() else 0


async def sizes(redis: Any, stream: str) -> Sequence[int]:
    """Return the sizes of the hashes, and how many consumers and keys there are."""
    shards = [numbered(stream, number) for number in range(SHARDS)]
    owners = [await redis.hlen(owner_key(shard.key, "g")) for shard in shards]
    consumers = [len(await redis.xinfo_consumers(shard.key, "g")) for shard in shards]
    members = await redis.hlen(members_key(stream.encode(), "g"))
    keys = [key async for key in redis.scan_iter(f"*{stream}*", count=1000)]
    return [max(owners), max(consumers), members, len(keys)]


@pytest.fixture
async def spread(url: str, stream: str) -> None:
    """Create the shards."""
    async with Producer(url, shards=SHARDS) as producer:
        for number in range(SHARDS * 8):
            await producer.send(stream, b"x", key=f"k{number}")


@pytest.mark.usefixtures("spread")
@pytest.mark.parametrize("owns", [True, False])
async def test_fifty_openings_leave_nothing_behind(
    url: str, stream: str, redis: Any, *, owns: bool
) -> None:
    async with nothing_left(redis):
        for _ in range(3):
            await open_and_close(url, stream, owns=True)
        owners, consumers, members, keys = await sizes(redis, stream)
        # What a consumer has read and not handled stays pending under its name, so that
        # of the last one may be left.
        most = [owners, max(consumers, 1), members, keys]
        files = open_files()
        for _ in range(50):
            await open_and_close(url, stream, owns=owns)
        after = await sizes(redis, stream)
        grown = [new > old for new, old in zip(after, most, strict=True)]
        assert not any(grown), (after, most)
        assert open_files() <= files


@pytest.mark.usefixtures("spread")
async def test_members_that_die_do_not_stay_in_the_groups_hash(
    url: str, stream: str, redis: Any
) -> None:
    """A member that was closed has left; those that have died are removed by others."""
    key = members_key(stream.encode(), "g")
    await redis.hset(key, mapping={f"m:dead-{n}": "1 1" for n in range(100)})
    await redis.hset(key, "since", "1")
    options: Any = {"group": "g", "ownership": Owned(lease=1)}
    async with Consumer(stream, url=url, **options):

        async def alone() -> bool:
            fields = await redis.hkeys(key)
            return len([field for field in fields if field.startswith(b"m:")]) == 1

        await eventually(alone, within=25)


@pytest.mark.usefixtures("spread")
async def test_asyncio_has_nothing_to_complain_about(
    url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 60  # of a busy machine
    try:
        await open_and_close(url, stream, owns=True)
        gc.collect()
    finally:
        loop.set_debug(False)
    complaints = [r for r in caplog.records if r.name == "asyncio" and r.levelno > 20]
    assert not complaints


@pytest.mark.usefixtures("spread")
async def test_shards_that_are_taken_while_the_consumer_closes_are_not_lost(
    url: str, stream: str, events: Events
) -> None:
    """Whatever the moment: in some of these loop turns a TAKE is under way."""
    for turns in range(40):
        consumer = Consumer(
            stream, url=url, group=f"g{turns}", ownership="owned", on_event=events
        )
        await consumer.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await consumer.aclose()
    assert "shard_lost" not in {event.name for event in events}
