"""`take`, `pause` and `resume`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import (
    AccessError,
    ClosedError,
    Commit,
    ConfigurationError,
    Consumer,
    Message,
    Prefetch,
)
from support.server import with_login
from support.waiting import eventually, numbers, pending, read, send

# -- take ------------------------------------------------------------------------------


async def test_take_returns_as_many_messages_as_requested_once_they_have_arrived(
    url: str, stream: str
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        taking = asyncio.create_task(consumer.take(10, timeout=10))
        await send(url, stream, *range(7))
        await asyncio.sleep(0.05)
        assert not taking.done()
        start = time.monotonic()
        await send(url, stream, *range(7, 25))
        assert numbers(await taking) == list(range(10))
        assert time.monotonic() - start < 1
        assert numbers(await consumer.take(100, timeout=0.2)) == list(range(10, 25))


async def test_take_returns_fewer_messages_when_its_timeout_is_over(
    url: str, stream: str
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g") as consumer:
        start = time.monotonic()
        assert numbers(await consumer.take(5, timeout=0.2)) == [1, 2]
        assert 0.15 < time.monotonic() - start < 1
        assert await consumer.take(5, timeout=0) == []


async def test_take_of_more_messages_than_the_queue_holds_does_not_wait_for_them(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(20))
    few = Prefetch(max_messages=4)
    async with Consumer(stream, url=url, group="g", prefetch=few) as consumer:
        start = time.monotonic()
        seen: list[int] = []
        while len(seen) < 20:
            seen += numbers(await consumer.take(10, timeout=30))
        assert seen == list(range(20))
        assert time.monotonic() - start < 5


async def test_take_acknowledges_the_messages_of_the_last_take(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    now = Commit(interval=0)
    async with Consumer(stream, url=url, group="g", commit=now) as consumer:
        assert len(await consumer.take(4, timeout=5)) == 4
        assert await pending(redis, stream, "g") >= 4
        await consumer.take(2, timeout=5)
        await eventually(lambda: are_pending(redis, stream, 2))
    assert await pending(redis, stream, "g") == 0


async def are_pending(redis: Any, stream: str, count: int) -> bool:
    return await pending(redis, stream, "g") == count


async def test_a_cancelled_take_takes_no_message(url: str, stream: str) -> None:
    await send(url, stream, *range(3))
    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await consumer.take(10, timeout=5)
        assert numbers(await read(consumer, 3)) == [0, 1, 2]


async def test_take_ends_with_the_consumer_and_refuses_invalid_arguments(
    url: str, stream: str
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(ConfigurationError, match="max"):
            await consumer.take(0)
        with pytest.raises(ConfigurationError, match="timeout"):
            await consumer.take(timeout=-1)
        taking = asyncio.create_task(consumer.take(5, timeout=30))
        await asyncio.sleep(0)
        await consumer.aclose()
        with pytest.raises(ClosedError):
            await taking


# -- pause and resume ------------------------------------------------------------------


async def test_while_paused_no_message_is_handed_out_and_none_is_lost(
    url: str, stream: str
) -> None:
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) == 10:
            consumer.pause()
        if len(seen) == 40:
            await consumer.aclose()

    await send(url, stream, *range(40))
    async with Consumer(stream, url=url, group="g") as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await eventually(lambda: has_seen(seen, 10))
        assert await consumer.next(timeout=0.1) is None
        assert await consumer.take(5, timeout=0.1) == []
        assert len(seen) == 10
        consumer.resume()
        await run
    assert seen == list(range(40))


async def has_seen(seen: list[int], count: int) -> bool:
    return len(seen) >= count


async def test_what_waits_while_paused_is_handed_out_although_reading_has_failed(
    url: str, stream: str, redis: Any
) -> None:
    """The error is raised after that."""
    user = f"u-{stream}"
    await redis.acl_setuser(
        user, enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"]
    )
    await send(url, stream, *range(3))
    login = with_login(url, user, "pw")
    try:
        async with Consumer(stream, url=login, group="g") as consumer:
            await eventually(lambda: has_queued(consumer, 3))
            consumer.pause()
            await redis.acl_setuser(user, commands=["-xreadgroup"])
            await eventually(lambda: has_failed(consumer))
            assert await consumer.next(timeout=0.1) is None
            consumer.resume()
            assert numbers(await read(consumer, 3)) == [0, 1, 2]
            with pytest.raises(AccessError):
                await consumer.next(timeout=5)
    finally:
        await redis.acl_deluser(user)


async def has_queued(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().queued == count


async def has_failed(consumer: Consumer[bytes]) -> bool:
    return consumer._open.gate.error is not None


async def test_a_paused_consumer_closes_like_any_other(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(5))
    async with Consumer(stream, url=url, group="g") as consumer:
        consumer.pause()
        assert await consumer.next(timeout=0.1) is None
    counts = await redis.xpending_range(stream, "g", "-", "+", 10)
    assert [line["times_delivered"] for line in counts] == [0] * 5
