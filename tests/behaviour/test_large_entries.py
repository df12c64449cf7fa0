"""What is read at once is bounded in bytes, and large entries stop nothing."""

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
SMALL_ROOM = Prefetch(max_bytes=4 * MB)
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])


def numbered(url: str, protocol: int) -> str:
    return f"{url}{'&' if '?' in url else '?'}protocol={protocol}"


async def left_behind(
    redis: Any, stream: str, count: int, size: int, *, name: str = "dead"
) -> None:
    """Have a consumer be given messages, and say no more."""
    await redis.xgroup_create(stream, "g", "0", mkstream=True)
    for _ in range(count):
        await redis.xadd(stream, {"msg": bytes(size)})
        await redis.xreadgroup("g", name, {stream: ">"})


# -- takeovers -------------------------------------------------------------------------


@PROTOCOLS
async def test_an_entry_of_33_mb_that_a_dead_consumer_left_is_taken_over(
    url: str, stream: str, redis: Any, events: Events, protocol: int
) -> None:
    """The server closes a connection that has subscribed at 32 MB of output."""
    await left_behind(redis, stream, 3, LARGE)
    sizes: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        sizes.append(len(message.payload))

    consumer = Consumer(
        stream,
        url=numbered(url, protocol),
        group="g",
        claim=SHORT,
        on_event=events,
    )
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 3))
    assert sizes == [LARGE] * 3
    assert not events.named("connection_lost")


@pytest.mark.parametrize("way", ["next", "take", "loop", "batches"])
async def test_it_is_handed_out_in_every_way(
    url: str, stream: str, redis: Any, way: str
) -> None:
    await left_behind(redis, stream, 1, LARGE)
    async with Consumer(stream, url=url, group="g", claim=SHORT) as consumer:
        async with asyncio.timeout(10):
            [message] = [each async for each in first(consumer, way)]
        assert len(message.payload) == LARGE


async def first(consumer: Consumer[bytes], way: str) -> AsyncIterator[Message[bytes]]:
    match way:
        case "next":
            yield await consumer.next()
        case "take":
            for message in await consumer.take(1):
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


async def test_a_user_who_may_not_unblock_has_it_a_little_later(
    url: str, stream: str, redis: Any
) -> None:
    await left_behind(redis, stream, 1, LARGE)
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


async def test_of_what_was_taken_over_and_does_not_fit_others_have_the_rest(
    url: str, stream: str, redis: Any
) -> None:
    """One consumer has room for four; the lease would not end before the test does."""
    await left_behind(redis, stream, 12, MB)
    lease = Claim(idle=20, interval=0.1)
    full = asyncio.Event()
    ids: list[str] = []
    # The lease of the dead one has ended.
    listed = await redis.xpending_range(stream, "g", "-", "+", 12)
    names = [line["message_id"] for line in listed]
    await redis.xclaim(stream, "g", "dead", 0, names, idle=20_000, justid=True)

    async def handle(message: Message[bytes]) -> None:
        ids.append(str(message.id))
        await full.wait()

    async def had(count: int) -> bool:
        return len(ids) >= count

    one, two, three = (
        Consumer(stream, url=url, group="g", claim=lease, prefetch=SMALL_ROOM)
        for _ in range(3)
    )
    async with (
        running(one, handle, concurrency=100),
        running(two, handle, concurrency=100),
        running(three, handle, concurrency=100),
    ):
        try:
            await eventually(lambda: had(3))
            for consumer in (one, two, three):
                assert consumer.statistics().in_hand <= 4
        finally:
            full.set()
        await eventually(lambda: handled(redis, stream, 12))
    assert len(set(ids)) == 12


# -- the first reads -------------------------------------------------------------------


async def most_in_hand(consumer: Consumer[bytes], redis: Any, stream: str) -> int:
    """Have a hundred workers hold what they get; gives how much that is in the end."""
    held, let_go = 0, asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        nonlocal held
        held += 1
        await let_go.wait()

    async with running(consumer, handle, concurrency=100):
        await eventually(lambda: is_quiet(redis))
        most = consumer.statistics().in_hand
        let_go.set()
    assert held > 0
    return most


async def is_quiet(redis: Any, seconds: float = 0.3) -> bool:
    """Whether the server sent next to nothing for a while."""
    before = (await redis.info("stats"))["total_net_output_bytes"]
    await asyncio.sleep(seconds)
    after = (await redis.info("stats"))["total_net_output_bytes"]
    return bool(after - before < MB / 2)


@PROTOCOLS
@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE, LOAD_BALANCED])
async def test_a_hundred_workers_do_not_read_a_hundred_mb_into_a_room_of_four(
    url: str, stream: str, redis: Any, mode: Mode, protocol: int
) -> None:
    async with Producer(url) as producer:
        for _ in range(50):
            await producer.send(stream, bytes(MB))
    consumer = Consumer(
        stream, url=numbered(url, protocol), **options(mode), prefetch=SMALL_ROOM
    )
    assert await most_in_hand(consumer, redis, stream) <= 4


async def test_of_several_shards_each_first_read_brings_one(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, sharder=RoundRobin(3)) as producer:
        for _ in range(60):
            await producer.send(stream, bytes(MB))
    consumer = Consumer(stream, url=url, group="g", start=EARLIEST, prefetch=SMALL_ROOM)
    # Each read may go over the room by one a shard.
    assert await most_in_hand(consumer, redis, stream) <= 4 + 2


async def test_what_was_pending_for_us_is_read_again_as_it_fits(
    url: str, stream: str, redis: Any
) -> None:
    await left_behind(redis, stream, 50, MB, name="me")
    consumer = Consumer(stream, url=url, group="g", name="me", prefetch=SMALL_ROOM)
    assert await most_in_hand(consumer, redis, stream) <= 4


async def test_all_of_it_is_handled(url: str, stream: str, redis: Any) -> None:
    await left_behind(redis, stream, 30, MB, name="me")
    async with Producer(url) as producer:
        for _ in range(30):
            await producer.send(stream, bytes(MB))

    async def handle(_: Message[bytes]) -> None:
        await asyncio.sleep(0)

    consumer = Consumer(stream, url=url, group="g", name="me", prefetch=SMALL_ROOM)
    async with running(consumer, handle, concurrency=100):
        await eventually(lambda: handled(redis, stream, 60))
    assert await pending(redis, stream, "g") == 0
