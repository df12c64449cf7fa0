"""Catching up: jobs that handle the existing messages and end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from penstock import (
    DELAYED,
    DISABLED,
    EARLIEST,
    IMMEDIATE,
    LOAD_BALANCED,
    PROCESSED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    AccessError,
    Claim,
    Commit,
    Consumer,
    Message,
    Prefetch,
    Retry,
)
from support.proxy import proxy
from support.server import with_login
from support.waiting import (
    calls,
    deliveries,
    eventually,
    is_blocked,
    leave_pending,
    numbers,
    options,
    pending,
    read,
    send,
    spread,
)

WITHIN = 10
# The connection that reads, among those of a consumer in the order of their opening.
READING = 2


@pytest.mark.parametrize("how", ["loop", "run", "batches"])
@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED, REALTIME])
async def test_a_job_handles_all_existing_messages_of_all_shards_and_ends(
    url: str, stream: str, redis: Any, mode: Any, how: str
) -> None:
    await spread(url, stream, *range(500))
    seen: list[int] = []

    async def handle(given: Any) -> None:
        await asyncio.sleep(0)
        seen.extend(numbers(given if how == "batches" else [given]))

    async with asyncio.timeout(WITHIN):
        async with Consumer(stream, url=url, **options(mode)) as consumer:
            if how == "loop":
                async for message in consumer.until_caught_up():
                    await handle(message)
            else:
                batch = 30 if how == "batches" else None
                await consumer.run(
                    handle, concurrency=4, batch=batch, until_caught_up=True
                )
            assert sorted(seen) == list(range(500))
            if mode is not REALTIME:
                for shard in range(3):
                    assert await pending(redis, f"{stream}:{shard}", "g") == 0
            # The consumer is still open.
            await spread(url, stream, 500)
            assert numbers(await read(consumer, 1)) == [500]


@pytest.mark.parametrize("how", ["empty", "missing", "done"])
@pytest.mark.parametrize("mode", [LOAD_BALANCED, REALTIME])
async def test_a_job_without_anything_to_do_ends_at_once(
    url: str, stream: str, redis: Any, how: str, mode: Any
) -> None:
    if how == "empty":
        await redis.xgroup_create(stream, "other", "0", mkstream=True)
    given = options(mode)
    async with Consumer(stream, url=url, **given) as consumer:
        if how == "done":
            await send(url, stream, 1)
            await consumer.next()
            await consumer.next(timeout=0)
            await consumer.commit()
        start = time.monotonic()
        assert [m async for m in consumer.until_caught_up()] == []
        assert time.monotonic() - start < 0.5


@pytest.mark.parametrize("policy", [ROLLING, DISABLED, DELAYED, IMMEDIATE, PROCESSED])
async def test_a_job_ends_with_every_commit_policy(
    url: str, stream: str, redis: Any, policy: Any
) -> None:
    await send(url, stream, *range(50))
    soon = Commit(delay=0.3)
    async with asyncio.timeout(WITHIN):
        async with Consumer(
            stream, url=url, group="g", auto_commit=policy, commit=soon
        ) as consumer:
            seen = []
            async for message in consumer.until_caught_up():
                seen.append(int(message.payload))
                if policy in {ROLLING, DISABLED}:
                    message.ack()
    assert seen == list(range(50))
    assert await pending(redis, stream, "g") == 0


async def test_without_acknowledgements_a_job_waits_for_a_reply_that_is_on_its_way(
    url: str, stream: str, redis: Any
) -> None:
    """The server says that the group has everything before the consumer has it."""

    async def is_delivered() -> bool:
        [group] = await redis.xinfo_groups(stream)
        return bool(group["last-delivered-id"] == last)

    async def is_asked() -> bool:
        return await calls(redis, "xinfo|groups") > asked

    async with proxy(url) as link:
        consumer = Consumer(stream, url=link.url, group="g", auto_commit=IMMEDIATE)
        async with asyncio.timeout(WITHIN), consumer:
            await send(url, stream, 0)
            assert numbers(await read(consumer, 1)) == [0]
            # Until then the connection is asked for other things, too.
            await eventually(lambda: is_blocked(redis))
            link.hold = lambda number: number == READING
            last = await redis.xadd(stream, {"msg": "1"})
            await eventually(is_delivered)
            asked = await calls(redis, "xinfo|groups")
            job = asyncio.create_task(caught_up(consumer))
            await eventually(is_asked)
            link.hold = lambda _: False
            assert await job == [1]


async def caught_up(consumer: Consumer[bytes]) -> list[int]:
    return numbers([message async for message in consumer.until_caught_up()])


async def test_a_job_waits_for_retries_and_dead_letters(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2, 3)
    tried: list[tuple[int, int]] = []

    async def handle(message: Message[bytes]) -> None:
        tried.append((int(message.payload), message.attempt))
        if message.payload == b"2" or message.attempt == 1:
            raise LookupError

    retry = Retry(max_attempts=3, backoff=[0.3])
    async with asyncio.timeout(WITHIN):
        async with Consumer(stream, url=url, group="g", retry=retry) as consumer:
            await consumer.run(handle, until_caught_up=True)
            assert await pending(redis, stream, "g") == 0
    assert sorted(tried) == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)]
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_a_job_waits_for_messages_of_other_consumers_and_asks_once_a_second(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(3))
    async with (
        Consumer(
            stream,
            url=url,
            group="g",
            auto_commit=ROLLING,
            prefetch=Prefetch(max_messages=1),
        ) as other,
        Consumer(stream, url=url, group="g") as consumer,
    ):
        theirs = await other.next()
        rest = asyncio.create_task(collect(consumer))
        await asyncio.sleep(0.5)
        before = await calls(redis, "xpending")
        await asyncio.sleep(2)
        assert not rest.done()
        asked = await calls(redis, "xpending") - before
        theirs.ack()
        async with asyncio.timeout(WITHIN):
            seen = await rest
        # Searches for released entries send XPENDING as well.
        assert asked <= 6
    assert len(seen) in {0, 1, 2}
    assert await pending(redis, stream, "g") <= 2


async def collect(consumer: Consumer[bytes]) -> list[int]:
    return [int(message.payload) async for message in consumer.until_caught_up()]


async def test_a_job_claims_the_messages_of_a_dead_consumer(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(4))
    await leave_pending(redis, stream, "dead", 2)
    short = Claim(idle=1, interval=0.3)
    async with asyncio.timeout(WITHIN):
        async with Consumer(stream, url=url, group="g", claim=short) as consumer:
            assert sorted(await collect(consumer)) == [0, 1, 2, 3]
    assert await pending(redis, stream, "g") == 0


async def test_several_consumers_share_a_job(url: str, stream: str) -> None:
    await send(url, stream, *range(300))
    seen: list[int] = []

    async def work() -> None:
        async with Consumer(stream, url=url, group="g") as consumer:
            async for message in consumer.until_caught_up():
                await asyncio.sleep(0.001)
                seen.append(int(message.payload))

    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*(work() for _ in range(3)))
    assert sorted(seen) == list(range(300))


@pytest.mark.parametrize("mode", [LOAD_BALANCED, REALTIME])
async def test_a_job_ends_although_new_messages_keep_arriving(
    url: str, stream: str, mode: Any
) -> None:
    await send(url, stream, *range(20))
    seen: list[int] = []

    async def keep_sending() -> None:
        number = 20
        while True:
            await send(url, stream, number)
            number += 1

    async with Consumer(stream, url=url, **options(mode)) as consumer:
        sending = asyncio.create_task(keep_sending())
        async with asyncio.timeout(WITHIN):
            async for message in consumer.until_caught_up():
                seen.append(int(message.payload))
        sending.cancel()
    assert seen[:20] == list(range(20))


@pytest.mark.parametrize("mode", [LOAD_BALANCED, REALTIME])
@pytest.mark.parametrize("what", ["last", "all", "stream"])
async def test_a_job_does_not_wait_for_messages_that_are_deleted_meanwhile(
    url: str, stream: str, redis: Any, mode: Any, what: str
) -> None:
    await send(url, stream, *range(5))
    ids = [id_ for id_, _ in await redis.xrange(stream)]
    async with Consumer(stream, url=url, **options(mode)) as consumer:
        consumer.pause()
        job = asyncio.create_task(collect(consumer))
        await asyncio.sleep(0.2)
        if what == "stream":
            await redis.delete(stream)
        else:
            await redis.xdel(stream, *(ids[-1:] if what == "last" else ids))
        consumer.resume()
        async with asyncio.timeout(WITHIN):
            await job


async def test_a_job_waits_while_paused_and_ends_on_closing(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(5))
    async with Consumer(stream, url=url, group="g") as consumer:
        consumer.pause()
        job = asyncio.create_task(collect(consumer))
        await asyncio.sleep(0.3)
        assert not job.done()
        await consumer.aclose()
        async with asyncio.timeout(WITHIN):
            assert await job == []


@pytest.mark.parametrize("how", ["run", "loop"])
async def test_a_job_that_asks_how_far_the_stream_goes_ends_on_closing(
    url: str, stream: str, how: str
) -> None:
    """The server does not answer any more, and the connections are given up."""
    await send(url, stream, 1)

    async def catch_up() -> None:
        if how == "run":
            await consumer.run(handle, until_caught_up=True)
        else:
            async for _ in consumer.until_caught_up():
                pass

    async def handle(message: Message[bytes]) -> None:
        pass

    async with (
        proxy(url) as between,
        Consumer(stream, url=between.url, group="g", close_timeout=0.3) as consumer,
    ):
        between.drop_replies = True
        job = asyncio.create_task(catch_up())
        await asyncio.sleep(0.1)
        assert not job.done()
        await consumer.aclose()
        await job


@pytest.mark.parametrize("ordering", ["key", "shard"])
async def test_a_job_can_have_an_ordering(url: str, stream: str, ordering: str) -> None:
    await spread(url, stream, *range(100))
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))

    async with asyncio.timeout(WITHIN):
        async with Consumer(stream, url=url, group="g") as consumer:
            await consumer.run(
                handle, concurrency=5, ordering=ordering, until_caught_up=True
            )
    assert sorted(seen) == list(range(100))


async def test_a_cancelled_job_leaves_nothing_behind_and_can_be_started_again(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(5))
    stuck = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        await stuck.wait()

    async with Consumer(stream, url=url, group="g") as consumer:
        with anyio.move_on_after(0.3):
            await consumer.run(handle, until_caught_up=True)
        await eventually(lambda: has_no_goal(consumer))
        assert await pending(redis, stream, "g") == 5
        async for _ in consumer.until_caught_up():
            break
        await eventually(lambda: has_no_goal(consumer))


async def has_no_goal(consumer: Consumer[bytes]) -> bool:
    return not consumer._open._goals


async def test_a_job_includes_the_pending_entries_of_a_restarted_consumer(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(3))
    await leave_pending(redis, stream, "me")
    assert len(await deliveries(redis, stream, "g")) == 3
    async with asyncio.timeout(WITHIN):
        async with Consumer(stream, url=url, group="g", name="me") as consumer:
            assert await collect(consumer) == [0, 1, 2]


@pytest.mark.parametrize("mode", [LOAD_BALANCED, REALTIME])
async def test_a_job_works_without_permission_for_scripts(
    url: str, stream: str, redis: Any, mode: Any
) -> None:
    async with user(url, redis, stream, "-@scripting") as login:
        async with Consumer(stream, url=login, **options(mode)) as consumer:
            assert await collect(consumer) == []
            await send(url, stream, *range(20))
            seen = await collect(consumer)
            assert seen == list(range(20))
            # The last one is deleted before it is read.
            await send(url, stream, 20)
            consumer.pause()
            job = asyncio.create_task(collect(consumer))
            await asyncio.sleep(0.1)
            await redis.xtrim(stream, maxlen=0)
            consumer.resume()
            async with asyncio.timeout(WITHIN):
                await job
        async with Consumer(f"{stream}-none", url=login, **options(mode)) as consumer:
            assert await collect(consumer) == []


async def test_a_job_raises_access_error_without_permission_for_xinfo(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with user(url, redis, stream, "-xinfo") as login:
        async with Consumer(stream, url=login, group="g") as consumer:
            with pytest.raises(AccessError, match="xinfo"):
                await collect(consumer)
            with pytest.raises(AccessError, match="xinfo"):
                await consumer.run(print, until_caught_up=True)
    async with user(url, redis, stream, "-xinfo|groups") as login:
        async with Consumer(stream, url=login, group="g") as consumer:
            with pytest.raises(AccessError, match="xinfo"):
                async for _ in consumer.until_caught_up():
                    pass
            with pytest.raises(AccessError, match="xinfo"):
                await consumer.run(print, until_caught_up=True)


@asynccontextmanager
async def user(url: str, redis: Any, name: str, *rules: str) -> AsyncIterator[str]:
    """Provide the URL of a user who may do everything except for some rules."""
    await redis.execute_command(
        *("ACL", "SETUSER", name, "on", "nopass", "~*", "&*", "+@all", *rules)
    )
    try:
        yield with_login(url, name, "x")
    finally:
        await redis.acl_deluser(name)


async def test_large_entries_are_not_transferred_to_find_the_end_of_a_stream(
    url: str, stream: str, redis: Any
) -> None:
    for _ in range(2):
        await redis.xadd(stream, {"msg": b"x" * 4_000_000})
    async with Consumer(stream, url=url, mode="realtime") as consumer:
        before = (await redis.info("stats"))["total_net_output_bytes"]
        assert await collect(consumer) == []
        after = (await redis.info("stats"))["total_net_output_bytes"]
    assert after - before < 1_000_000


# -- take and next ---------------------------------------------------------------------


async def test_take_waits_while_paused(url: str, stream: str) -> None:
    await send(url, stream, *range(5))
    async with Consumer(stream, url=url, group="g") as consumer:
        await eventually(lambda: are_queued(consumer, 5))
        consumer.pause()
        start = time.monotonic()
        assert await consumer.take(5, timeout=0.3) == []
        assert time.monotonic() - start >= 0.3
        taking = asyncio.create_task(consumer.take(5, timeout=10))
        await asyncio.sleep(0.1)
        assert not taking.done()
        consumer.resume()
        async with asyncio.timeout(5):
            assert numbers(await taking) == list(range(5))


async def are_queued(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().queued == count


async def test_a_timeout_of_0_returns_prefetched_messages(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(6))
    async with Consumer(stream, url=url, group="g", start=EARLIEST) as consumer:
        await eventually(lambda: are_queued(consumer, 6))
        message = await consumer.next(timeout=0)
        assert message is not None
        assert message.payload == b"0"
        assert numbers(await consumer.take(10, timeout=0)) == [1, 2, 3, 4, 5]
        assert await consumer.take(10, timeout=0) == []
        assert await consumer.next(timeout=0) is None
