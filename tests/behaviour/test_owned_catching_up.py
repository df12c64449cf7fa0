"""Owned shards: jobs that end when the group has handled all existing messages."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import Consumer, Message, Owned
from support.members import Members
from support.owned_group import open_group
from support.waiting import numbers, pending, record_shards, send, spread

WITHIN = 20
SHARDS = 3


def consumer_of(url: str, stream: str, **options: Any) -> Consumer[bytes]:
    given: dict[str, Any] = {"group": "g", "ownership": "owned"}
    return Consumer(stream, url=url, **{**given, **options})


async def is_acknowledged(redis: Any, stream: str) -> bool:
    keys = [f"{stream}:{number}" for number in range(SHARDS)]
    return not any([await pending(redis, key, "g") for key in keys])


@pytest.mark.parametrize("how", ["loop", "run", "batches"])
async def test_a_job_handles_all_existing_messages_of_all_shards_and_ends(
    url: str, stream: str, redis: Any, how: str
) -> None:
    """It begins before any shard is owned."""
    await spread(url, stream, *range(300))
    await record_shards(redis, stream, SHARDS)
    seen: list[int] = []

    async def handle(given: Any) -> None:
        await asyncio.sleep(0)
        seen.extend(numbers(given if how == "batches" else [given]))

    async with asyncio.timeout(WITHIN):
        async with consumer_of(url, stream) as consumer:
            if how == "loop":
                async for message in consumer.until_caught_up():
                    await handle(message)
            else:
                batch = 30 if how == "batches" else None
                options: dict[str, Any] = {"batch": batch, "until_caught_up": True}
                await consumer.run(handle, concurrency=4, **options)
            assert sorted(seen) == list(range(300))
            assert await is_acknowledged(redis, stream)


async def test_a_job_without_anything_to_do_ends_at_once(url: str, stream: str) -> None:
    async with consumer_of(url, stream) as consumer:
        start = time.monotonic()
        assert [m async for m in consumer.until_caught_up()] == []
        assert time.monotonic() - start < 5
    await send(url, stream, 1)
    for expected in ([1], []):
        async with consumer_of(url, stream) as consumer, asyncio.timeout(WITHIN):
            got = [message async for message in consumer.until_caught_up()]
            assert numbers(got) == expected


async def test_a_job_waits_for_shards_of_other_members_also_if_it_owns_none(
    url: str, stream: str, redis: Any
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Message[bytes]) -> None:
        started.set()
        await go_on.wait()

    async with open_group(url, stream, redis, 1) as group:
        await group.join("busy", slow)
        await started.wait()
        async with consumer_of(url, stream) as consumer:
            ends = asyncio.create_task(consumer.run(group.handle, until_caught_up=True))
            done, _ = await asyncio.wait({ends}, timeout=2.5)
            assert not done
            go_on.set()
            async with asyncio.timeout(WITHIN):
                await ends
            assert group.ended == [0]
            assert await pending(redis, f"{stream}:0", "g") == 0


async def test_several_members_share_a_job_and_each_ends_when_all_is_done(
    url: str, stream: str, redis: Any
) -> None:
    await spread(url, stream, *range(300))
    await record_shards(redis, stream, SHARDS)
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        await asyncio.sleep(0.002)
        seen.append(int(message.payload))

    async def job() -> None:
        async with consumer_of(url, stream) as consumer:
            await consumer.run(handle, ordering="shard", until_caught_up=True)
            assert sorted(seen) == list(range(300))
            assert await is_acknowledged(redis, stream)

    async with asyncio.timeout(2 * WITHIN):
        await asyncio.gather(*(job() for _ in range(4)))
    assert sorted(seen) == list(range(300))


async def test_a_job_handles_what_a_dead_owner_has_left(
    url: str, stream: str, redis: Any
) -> None:
    """Its shards are unowned until its lease has ended."""
    members = Members(redis, stream, 2)
    await members.open({0: "dead", 1: "dead"})
    await members.read(0, 2)
    await redis.xadd(members.shard(1), {"msg": b"y"})
    for number in range(2):
        await members.take(number, "dead", lease=1500, serial=2)
    async with asyncio.timeout(3 * WITHIN):
        async with consumer_of(url, stream, ownership=Owned(lease=2)) as consumer:
            got = [m.payload async for m in consumer.until_caught_up()]
    assert sorted(got) == [b"x", b"x", b"y"]


async def test_a_job_that_waits_for_another_member_ends_on_closing(
    url: str, stream: str, redis: Any
) -> None:
    entered = asyncio.Event()

    async def never(_: Message[bytes]) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with open_group(url, stream, redis, 2) as group:
        await group.join("busy", never, close_timeout=0.2)
        await entered.wait()
        consumer = consumer_of(url, stream, close_timeout=0.2)
        await consumer.start()
        ends = asyncio.create_task(consumer.run(group.handle, until_caught_up=True))
        done, _ = await asyncio.wait({ends}, timeout=1.5)
        assert not done
        await consumer.aclose()
        async with asyncio.timeout(WITHIN):
            await ends
