"""Large entries: each read is bounded in bytes, and no entry is too large for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Claim,
    Consumer,
    Message,
    Mode,
    Prefetch,
    Producer,
    RoundRobin,
)
from support.events import Events
from support.failing import handled, running
from support.server import with_login
from support.waiting import eventually, options, pending, read

MB = 1_000_000
LARGE = 33_600_000
SHORT = Claim(idle=0.5, interval=0.1)
SMALL_PREFETCH = Prefetch(max_bytes=4 * MB)
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])


def with_protocol(url: str, protocol: int) -> str:
    return f"{url}{'&' if '?' in url else '?'}protocol={protocol}"


async def leave_pending(
    redis: Any, stream: str, count: int, size: int, *, name: str = "dead"
) -> None:
    """Add messages and deliver them to a consumer that then does nothing."""
    await redis.xgroup_create(stream, "g", "0", mkstream=True)
    for _ in range(count):
        await redis.xadd(stream, {"msg": bytes(size)})
        await redis.xreadgroup("g", name, {stream: ">"})


# -- claims ----------------------------------------------------------------------------


@PROTOCOLS
async def test_an_entry_of_33_mb_of_a_dead_consumer_is_claimed(
    url: str, stream: str, redis: Any, events: Events, protocol: int
) -> None:
    """The server closes a connection that has subscribed at 32 MB of output."""
    await leave_pending(redis, stream, 3, LARGE)
    sizes: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        sizes.append(len(message.payload))

    consumer = Consumer(
        stream,
        url=with_protocol(url, protocol),
        group="g",
        claim=SHORT,
        on_event=events,
    )
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 3))
    assert sizes == [LARGE] * 3
    assert not events.named("connection_lost")


@pytest.mark.parametrize("way", ["next", "take", "loop", "batches"])
async def test_a_claimed_entry_of_33_mb_is_handed_out_by_every_call(
    url: str, stream: str, redis: Any, way: str
) -> None:
    await leave_pending(redis, stream, 1, LARGE)
    async with Consumer(stream, url=url, group="g", claim=SHORT) as consumer:
        async with asyncio.timeout(10):
            [message] = [each async for each in first(consumer, way)]
        assert len(message.payload) == LARGE


async def first(consumer: Consumer[bytes], way: str) -> AsyncIterator[Message[bytes]]:
    match way:
        case "next":
            yield await consumer.next()
        case "take":
            for message in await consumer.take(1, timeout=10):
                yield message
        case "loop":
            async for message in consumer:
                yield message
                break
        case _:
            async for batch in consumer.batches(1):
                for message in batch:
                    yield message
                break


async def test_without_permission_to_unblock_a_large_entry_is_delivered_later(
    url: str, stream: str, redis: Any
) -> None:
    await leave_pending(redis, stream, 1, LARGE)
    user = f"u-{stream}"
    rules = ("on", ">secret", "~*", "&*", "+@all", "-client|unblock")
    await redis.execute_command("ACL", "SETUSER", user, *rules)
    lease = Claim(idle=5, interval=0.1)
    login = with_login(url, user, "secret")
    try:
        async with Consumer(stream, url=login, group="g", claim=lease) as consumer:
            [message] = await read(consumer, 1, within=10)
        assert len(message.payload) == LARGE
    finally:
        await redis.acl_deluser(user)


async def test_claimed_entries_that_do_not_fit_are_handled_by_other_consumers(
    url: str, stream: str, redis: Any
) -> None:
    """Each consumer prefetches up to four; the lease is longer than the test."""
    await leave_pending(redis, stream, 12, MB)
    lease = Claim(idle=20, interval=0.1)
    full = asyncio.Event()
    ids: list[str] = []
    # The lease of the dead consumer has ended.
    listed = await redis.xpending_range(stream, "g", "-", "+", 12)
    names = [line["message_id"] for line in listed]
    await redis.xclaim(stream, "g", "dead", 0, names, idle=20_000, justid=True)

    async def handle(message: Message[bytes]) -> None:
        ids.append(str(message.id))
        await full.wait()

    async def has_received(count: int) -> bool:
        return len(ids) >= count

    one, two, three = (
        Consumer(stream, url=url, group="g", claim=lease, prefetch=SMALL_PREFETCH)
        for _ in range(3)
    )
    async with (
        running(one, handle, concurrency=100),
        running(two, handle, concurrency=100),
        running(three, handle, concurrency=100),
    ):
        try:
            await eventually(lambda: has_received(3))
            for consumer in (one, two, three):
                assert consumer.statistics().in_hand <= 4
        finally:
            full.set()
        await eventually(lambda: handled(redis, stream, 12))
    assert len(set(ids)) == 12


# -- the first reads -------------------------------------------------------------------


async def most_held(consumer: Consumer[bytes], redis: Any, stream: str) -> int:
    """Let a hundred workers hold their messages; return the number held in the end."""
    held, may_end = 0, asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        nonlocal held
        held += 1
        await may_end.wait()

    async with running(consumer, handle, concurrency=100):
        await eventually(lambda: is_quiet(redis))
        most = consumer.statistics().in_hand
        may_end.set()
    assert held > 0
    return most


async def is_quiet(redis: Any, seconds: float = 0.3) -> bool:
    """Return whether the server has sent almost nothing for a while."""
    before = (await redis.info("stats"))["total_net_output_bytes"]
    await asyncio.sleep(seconds)
    after = (await redis.info("stats"))["total_net_output_bytes"]
    return bool(after - before < MB / 2)


@PROTOCOLS
@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE, LOAD_BALANCED])
async def test_a_hundred_workers_do_not_prefetch_a_hundred_mb_where_four_are_allowed(
    url: str, stream: str, redis: Any, mode: Mode, protocol: int
) -> None:
    async with Producer(url) as producer:
        for _ in range(50):
            await producer.send(stream, bytes(MB))
    consumer = Consumer(
        stream,
        url=with_protocol(url, protocol),
        **options(mode),
        prefetch=SMALL_PREFETCH,
    )
    assert await most_held(consumer, redis, stream) <= 4


async def test_the_first_read_of_several_shards_returns_one_entry_per_shard(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, sharder=RoundRobin(3)) as producer:
        for _ in range(60):
            await producer.send(stream, bytes(MB))
    consumer = Consumer(
        stream, url=url, group="g", start=EARLIEST, prefetch=SMALL_PREFETCH
    )
    # Each read may exceed the bound by one entry per shard.
    assert await most_held(consumer, redis, stream) <= 4 + 2


async def test_own_pending_entries_are_read_again_only_as_they_fit(
    url: str, stream: str, redis: Any
) -> None:
    await leave_pending(redis, stream, 50, MB, name="me")
    consumer = Consumer(stream, url=url, group="g", name="me", prefetch=SMALL_PREFETCH)
    assert await most_held(consumer, redis, stream) <= 4


async def test_all_large_entries_are_handled(url: str, stream: str, redis: Any) -> None:
    await leave_pending(redis, stream, 30, MB, name="me")
    async with Producer(url) as producer:
        for _ in range(30):
            await producer.send(stream, bytes(MB))

    async def handle(_: Message[bytes]) -> None:
        await asyncio.sleep(0)

    consumer = Consumer(stream, url=url, group="g", name="me", prefetch=SMALL_PREFETCH)
    async with running(consumer, handle, concurrency=100):
        await eventually(lambda: handled(redis, stream, 60))
    assert await pending(redis, stream, "g") == 0
