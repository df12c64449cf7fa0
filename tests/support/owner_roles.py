"""Scenarios of a consumer that owns shards; see `roles`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from penstock import DISCOVER, Consumer, Message, Owned, Retry
from penstock._core.ownership.keys import owner_key
from support.failing import Boom, running
from support.roles import Context
from support.waiting import eventually, numbers, read, record_shards

LEASE = 2.0


def owner(context: Context, **options: Any) -> Consumer[bytes]:
    """Create a consumer that owns shards, with the login of the role."""
    given: dict[str, Any] = {"ownership": Owned(lease=LEASE), "close_timeout": 5}
    return context.consumer(**{**given, **options})


async def adds(context: Context, *values: int, shards: int = 2) -> None:
    """Add entries to the shards in turn, of a stream that has a record of them."""
    await record_shards(context.redis, context.stream, shards)
    for value in values:
        await context.add(value, key=f"{context.stream}:{value % shards}")


async def none_pending(context: Context, *keys: str) -> bool:
    for key in keys or (f"{context.stream}:0", f"{context.stream}:1"):
        summary = await context.redis.xpending(key, "g")
        if summary["pending"]:
            return False
    return True


async def owns_shards(context: Context) -> None:
    """Own two shards, handle what they have, wait, and free them."""
    await adds(context, 0, 1)
    async with owner(context) as consumer:
        assert sorted(numbers(await read(consumer, 2))) == [0, 1]
        assert await consumer.next(timeout=0.05) is None
        start = time.monotonic()
    context.seconds = time.monotonic() - start
    assert await none_pending(context)
    for number in range(2):
        key = owner_key(f"{context.stream}:{number}".encode(), "g")
        assert not await context.redis.hexists(key, "owner")


async def owns_one_key(context: Context) -> None:
    """Own a stream that has no shards, and keep it for longer than a lease."""
    await context.add(0)
    async with owner(context) as consumer:
        assert numbers(await read(consumer, 1)) == [0]
        assert await consumer.next(timeout=LEASE * 1.2) is None
        await context.add(1)
        assert numbers(await read(consumer, 1)) == [1]
    assert await none_pending(context, context.stream)


async def takes_what_is_pending(context: Context) -> None:
    """Handle the entries that a former owner has left."""
    await adds(context, 0, 2)
    key = f"{context.stream}:0"
    await context.redis.xgroup_create(key, "g", "0")
    await context.redis.xreadgroup("g", "dead#1", {key: ">"}, count=1)
    async with owner(context) as consumer:
        assert numbers(await read(consumer, 2)) == [0, 2]
    assert await none_pending(context)


async def hands_over(context: Context) -> None:
    """Hand a shard over to a consumer that joins, and back when it leaves."""
    await adds(context, 0, 1)
    async with owner(context) as one:
        assert sorted(numbers(await read(one, 2))) == [0, 1]
        assert await one.next(timeout=0.05) is None
        start = time.monotonic()
        two = owner(context)
        await two.start()
        await eventually(lambda: _owns(one, 1), within=15)
        await eventually(lambda: _owns(two, 1), within=15)
        context.seconds = time.monotonic() - start
        await two.aclose()
        await eventually(lambda: _owns(one, 2), within=15)


async def _owns(consumer: Consumer[bytes], number: int) -> bool:
    return consumer.statistics().owned == number


async def owns_after_cuts(context: Context) -> None:
    await adds(context, 0, 1)
    async with owner(context) as consumer:
        await read(consumer, 2)
        await context.cut()
        await adds(context, 2, 3)
        assert {2, 3} <= set(numbers(await read(consumer, 2)))
        await context.redis.xgroup_destroy(f"{context.stream}:0", "g")
        await adds(context, 4)
        while numbers(await read(consumer, 1)) != [4]:
            pass  # what the new group delivers again
    assert context.reported("group_recreated")


async def retries(context: Context) -> None:
    attempts: list[int] = []

    async def fail(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        await asyncio.sleep(0)
        if message.attempt < 3:
            raise Boom

    await adds(context, 0)
    retry = Retry(max_attempts=3, backoff=[0.01])
    async with running(owner(context, retry=retry), fail):
        await eventually(lambda: _handled(attempts, 3))
    assert attempts == [1, 2, 3]
    assert await none_pending(context)


async def _handled(attempts: list[int], count: int) -> bool:
    return len(attempts) >= count


async def writes_dead_letters(context: Context) -> None:
    await adds(context, 0)
    async with owner(context, retry=Retry(max_attempts=1)) as consumer:
        (await read(consumer, 1))[0].reject("no")
        await consumer.commit()
    assert await context.redis.xlen(f"{context.stream}.dead") == 1
    assert await none_pending(context)


async def reports_its_lag(context: Context) -> None:
    await adds(context, 0, 1)
    async with owner(context) as consumer:
        await read(consumer, 2)
        assert set((await consumer.lag()).values()) == {0}


async def catches_up(context: Context) -> None:
    await adds(context, 0, 1)
    async with owner(context) as consumer:
        got = [message async for message in consumer.until_caught_up()]
        assert sorted(numbers(got)) == [0, 1]


async def releases(context: Context) -> None:
    """Close while messages wait; the next owner has them at once."""
    await adds(context, *range(6))
    async with owner(context) as one:
        await read(one, 1)
    async with owner(context) as two:
        assert len(await read(two, 5)) == 5


async def searches_for_shards(context: Context) -> None:
    """Look for shards by name."""
    await context.add(0, key=f"{context.stream}:0")
    async with owner(context, shards=DISCOVER) as consumer:
        assert numbers(await read(consumer, 1)) == [0]


async def removes_former_consumers(context: Context) -> None:
    """Take a shard, and remove the consumer under whose name it was read before."""
    await adds(context, 0)
    for _ in range(2):
        async with owner(context) as consumer:
            await eventually(lambda: _owns(consumer, 2))
            await consumer.next(timeout=0.05)
    found = await context.redis.xinfo_consumers(f"{context.stream}:0", "g")
    # The present one is listed once it has read an entry; before that on some servers.
    assert not any(one["name"].endswith(b"#1") for one in found)


async def restores_a_record(context: Context) -> None:
    """Write a record again that the server has lost."""
    await adds(context)
    async with owner(context) as consumer:
        await context.redis.delete(f"{{{context.stream}}}.shards")
        assert await consumer.next(timeout=2.6) is None
