"""Calls from another event loop or thread: they are refused before they do anything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock import EARLIEST, Consumer, Message, Producer, Router, UsageError, replay
from penstock.admin import Admin
from support.waiting import eventually, numbers, pending, read, send


async def in_another_loop(call: Callable[[], Awaitable[object]]) -> object:
    """Make a call in an event loop of another thread, and raise what it raises."""

    async def work() -> object:
        async with asyncio.timeout(5):
            return await call()

    return await asyncio.to_thread(asyncio.run, work())


def as_async(call: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def work() -> object:
        return call()

    return work


async def loop_over(messages: Any) -> None:
    async for _ in messages:
        break


SENDS: dict[str, Callable[[Producer, str], Awaitable[object]]] = {
    "send": lambda it, stream: it.send(stream, b"x"),
    "enqueue": lambda it, stream: it.enqueue(stream, b"x"),
    "enqueue_nowait": lambda it, s: as_async(lambda: it.enqueue_nowait(s, b"x"))(),
    "send_many": lambda it, stream: wait_for_all(it.send_many(stream, [b"x"])),
    "loop over send_many": lambda it, s: loop_over(it.send_many(s, [b"x"])),
    "outlet": lambda it, stream: it.to(stream).send(b"x"),
    "flush": lambda it, _: it.flush(),
    "aclose": lambda it, _: it.aclose(),
    "leaving": lambda it, _: it.__aexit__(None, None, None),
}


async def wait_for_all(outcomes: Any) -> object:
    return await outcomes


@pytest.mark.parametrize("name", SENDS)
async def test_a_producer_of_another_loop_sends_nothing(
    url: str, stream: str, redis: Any, name: str
) -> None:
    async with Producer(url) as producer:
        with pytest.raises(UsageError, match="another event loop"):
            await in_another_loop(lambda: SENDS[name](producer, stream))
        assert await redis.xlen(stream) == 0
        # The producer still works.
        await producer.send(stream, b"1")
        assert await redis.xlen(stream) == 1


CALLS: dict[str, Callable[[Consumer[bytes], str], Awaitable[object]]] = {
    "next": lambda it, _: it.next(),
    "next with a timeout": lambda it, _: it.next(timeout=0),
    "take": lambda it, _: it.take(5, timeout=0),
    "loop": lambda it, _: loop_over(it),
    "batches": lambda it, _: loop_over(it.batches(2)),
    "run": lambda it, _: it.run(lambda _: None),
    "pause": lambda it, _: as_async(it.pause)(),
    "resume": lambda it, _: as_async(it.resume)(),
    "seek": lambda it, _: it.seek(EARLIEST),
    "assign": lambda it, stream: it.assign(f"{stream}-2"),
    "unassign": lambda it, stream: it.unassign(stream),
    "lag": lambda it, _: it.lag(),
    "commit": lambda it, _: it.commit(),
    "aclose": lambda it, _: it.aclose(),
    "leaving": lambda it, _: it.__aexit__(None, None, None),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("ownership", ["shared", "owned"])
async def test_a_consumer_of_another_loop_delivers_nothing_and_still_works(
    url: str, stream: str, redis: Any, name: str, *, full: bool, ownership: Any
) -> None:
    if full:
        await send(url, stream, *range(5))
    async with Consumer(stream, url=url, group="g", ownership=ownership) as consumer:

        async def arrived() -> bool:
            return consumer.statistics().queued == 5 * full

        await eventually(arrived)
        with pytest.raises(UsageError, match="another event loop"):
            await in_another_loop(lambda: CALLS[name](consumer, stream))
        assert consumer.statistics().queued == 5 * full
        if full or ownership == "shared":  # an owned shard may be on its way
            assert [shard.stream for shard in consumer.shards] == [stream]
        if not full:
            await send(url, stream, *range(5))
        assert numbers(await read(consumer, 5)) == [*range(5)]
    assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("name", ["pause", "resume", "enqueue_nowait"])
async def test_sync_calls_from_a_thread_without_a_loop_are_refused(
    url: str, stream: str, redis: Any, name: str
) -> None:
    async with (
        Consumer(stream, url=url, group="g") as consumer,
        Producer(url) as producer,
    ):
        calls: dict[str, Callable[[], object]] = {
            "pause": consumer.pause,
            "resume": consumer.resume,
            "enqueue_nowait": lambda: producer.enqueue_nowait(stream, b"x"),
        }
        with pytest.raises(UsageError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(calls[name])
    assert await redis.xlen(stream) == 0


async def test_statistics_and_shards_may_be_read_from_any_thread(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        await read(consumer, 1)
        counts = await asyncio.to_thread(consumer.statistics)
        assert counts.received == 1
        assert await asyncio.to_thread(lambda: consumer.shards)


async def test_calls_may_be_prepared_in_another_thread(
    url: str, stream: str, redis: Any
) -> None:
    """With `run_coroutine_threadsafe`, the caller creates the coroutine."""
    await send(url, stream, *range(6))
    loop = asyncio.get_running_loop()
    async with Consumer(stream, url=url, group="g") as consumer:
        await read(consumer, 6)

        def work() -> object:
            asyncio.run_coroutine_threadsafe(consumer.commit(), loop).result(9)
            return asyncio.run_coroutine_threadsafe(consumer.lag(), loop).result(9)

        assert await asyncio.to_thread(work)
        assert await pending(redis, stream, "g") == 1


async def test_a_producer_can_be_called_from_a_thread_through_its_loop(
    url: str, stream: str, redis: Any
) -> None:
    loop = asyncio.get_running_loop()
    async with Producer(url) as producer:

        def work() -> None:
            sending = producer.send(stream, b"x")
            asyncio.run_coroutine_threadsafe(sending, loop).result(9)

        await asyncio.to_thread(work)
    assert await redis.xlen(stream) == 1


async def test_an_admin_of_another_loop_is_refused(url: str, stream: str) -> None:
    await send(url, stream, 1)
    async with Admin(url) as admin:
        with pytest.raises(UsageError, match="another event loop"):
            await in_another_loop(lambda: admin.delete_stream(stream))
        assert await admin.delete_stream(stream)


async def test_a_replay_of_another_loop_is_refused(url: str, stream: str) -> None:
    await send(url, stream, *range(10))
    async with replay(stream, url=url, page=2) as messages:
        assert (await anext(aiter(messages))).payload == b"0"

        async def rest() -> list[Any]:
            return [message async for message in messages]

        with pytest.raises(UsageError, match="another event loop"):
            await in_another_loop(rest)


async def test_a_router_of_another_loop_refuses_all_calls_except_for_stop(
    url: str, stream: str
) -> None:
    router = Router(url)

    @router.handler(stream, group="g")
    async def handle(_: bytes) -> None: ...

    await router.start()
    with pytest.raises(UsageError, match="another event loop"):
        await in_another_loop(router.aclose)
    assert router.ready
    await asyncio.to_thread(router.stop)
    await router.aclose()


async def test_a_transaction_in_another_loop_applies_nothing(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        [message] = await read(consumer, 1)
        tx = message.transaction()

        async def apply() -> None:
            async with tx:
                tx.command("SET", f"{stream}:done", "1")

        with pytest.raises(UsageError, match="another event loop"):
            await in_another_loop(apply)
        assert not await redis.exists(f"{stream}:done")


async def test_each_thread_can_have_its_own_consumer(url: str, stream: str) -> None:
    """As the error message recommends."""
    seen: list[int] = []

    async def work() -> None:
        async with Consumer(stream, url=url, group="g") as consumer:
            while (message := await consumer.next(timeout=1)) is not None:
                seen.append(int(message.payload))

    await send(url, stream, *range(50))
    threads = [threading.Thread(target=asyncio.run, args=[work()]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(seen) == [*range(50)]


@asynccontextmanager
async def opened(consumer: Consumer[bytes]) -> AsyncIterator[Message[bytes] | None]:
    async with consumer:
        yield await consumer.next(timeout=0)


def test_one_consumer_serves_one_loop_after_the_other(url: str, stream: str) -> None:
    consumer = Consumer(stream, url=url, group="g")

    async def use() -> None:
        async with opened(consumer):
            pass

    for _ in range(3):
        asyncio.run(use())


def test_sync_calls_between_two_runs_of_the_loop_are_accepted(
    url: str, stream: str
) -> None:
    consumer, producer = Consumer(stream, url=url, group="g"), Producer(url)
    with asyncio.Runner() as runner:
        runner.run(consumer.start())
        runner.run(producer.start())
        consumer.pause()
        consumer.resume()
        future = producer.enqueue_nowait(stream, b"7")
        runner.run(producer.flush())
        assert future.result().stream == stream
        [message] = runner.run(read(consumer, 1))
        message.ack()
        assert message.payload == b"7"
        runner.run(consumer.aclose())
        runner.run(producer.aclose())
