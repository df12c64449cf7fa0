"""Exits: `run` raises one plain SystemExit or the like, however many handlers do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from penstock import Consumer, Message, Retry, Router
from support.events import Events
from support.failing import handled, running
from support.waiting import eventually, pending, read, send

EXITS = [SystemExit, KeyboardInterrupt, GeneratorExit]


@pytest.mark.parametrize("kinds", [[each] for each in EXITS] + [EXITS])
async def test_exits_of_several_handlers_raise_one_plain_exception(
    url: str, stream: str, redis: Any, kinds: list[type[BaseException]]
) -> None:
    all_started = asyncio.Barrier(3)

    async def handle(message: Message[bytes]) -> None:
        await all_started.wait()
        raise kinds[int(message.payload) % len(kinds)](7)

    await send(url, stream, *range(3))
    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(tuple(kinds)) as caught:
            await consumer.run(handle, concurrency=3)
    assert caught.value.args == (7,)
    assert await pending(redis, stream, "g") == 3


async def test_exits_of_several_handlers_in_threads_raise_one_exception(
    url: str, stream: str, redis: Any
) -> None:
    all_started = threading.Barrier(3)

    def handle(_: Message[bytes]) -> None:
        all_started.wait(5)
        raise SystemExit(7)

    await send(url, stream, *range(3))
    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(SystemExit) as caught:
            await consumer.run(handle, concurrency=3)
    assert caught.value.code == 7
    assert await pending(redis, stream, "g") == 3


async def test_exits_in_several_consumers_of_a_router_raise_one_exception(
    url: str, stream: str, redis: Any
) -> None:
    all_started, router = asyncio.Barrier(4), Router(url)

    async def handle(_: Message[bytes]) -> None:
        await all_started.wait()
        raise SystemExit(7)

    for name in (stream, f"{stream}-b"):
        router.handler(name, group="g", concurrency=2)(handle)
        await send(url, name, 1, 2)
    with pytest.raises(SystemExit) as caught:
        await router.run()
    assert caught.value.code == 7
    assert await pending(redis, stream, "g") == 2


PROGRAM = """
import asyncio, sys
from penstock import Consumer

async def main():
    there = asyncio.Barrier(3)

    async def handle(message):
        await there.wait()
        raise SystemExit(7)

    async with Consumer(sys.argv[2], url=sys.argv[1], group="g") as consumer:
        await consumer.run(handle, concurrency=3)

asyncio.run(main())
"""


async def test_the_process_exits_with_the_status_of_its_handler(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(3))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, url, stream), stderr=subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 7
    assert b"Traceback" not in errors


# -- codecs ----------------------------------------------------------------------------


class Raises:
    """A codec that raises for the payload `1`."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def encode(self, payload: bytes) -> bytes:
        return payload

    def decode(self, data: bytes) -> bytes:
        if data == b"1":
            raise self.error
        return data


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [asyncio.CancelledError, Odd])
@pytest.mark.parametrize("batch", [None, 3])
async def test_a_codec_that_raises_a_base_exception_dead_letters_the_message(
    url: str, stream: str, redis: Any, error: type[BaseException], batch: int | None
) -> None:
    seen: list[bytes] = []

    async def handle(given: Any) -> None:
        seen.extend(each.payload for each in (given if batch else [given]))

    await send(url, stream, *range(4))
    consumer = Consumer(stream, url=url, group="g", codec=Raises(error))
    async with running(consumer, handle, batch=batch):
        await eventually(lambda: handled(redis, stream, 4))
        await send(url, stream, 5)
        await eventually(lambda: handled(redis, stream, 5))
    assert seen == [b"0", b"2", b"3", b"5"]
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_next_take_and_loops_skip_a_message_whose_codec_is_cancelled(
    url: str, stream: str, redis: Any
) -> None:
    codec = Raises(asyncio.CancelledError)
    async with Consumer(stream, url=url, group="g", codec=codec) as consumer:
        await send(url, stream, 1, 2)
        [message] = await read(consumer, 1)
        assert message.payload == b"2"
        await send(url, stream, 1, 3)
        assert [m.payload for m in await consumer.take(2, timeout=0.5)] == [b"3"]
        await send(url, stream, 1, 4)
        async for message in consumer:
            assert message.payload == b"4"
            break
        await send(url, stream, 1, 5)
        async for messages in consumer.batches(2, linger=0.1):
            assert [m.payload for m in messages] == [b"5"]
            break
    assert await redis.xlen(f"{stream}.dead") == 4


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("error", EXITS)
async def test_an_exit_in_a_codec_ends_run_like_an_exit_in_a_handler(
    url: str, stream: str, redis: Any, error: type[BaseException], batch: int | None
) -> None:
    async def handle(_: Any) -> None: ...

    await send(url, stream, 0, 1, 2)
    codec = Raises(error)
    async with Consumer(stream, url=url, group="g", codec=codec) as consumer:
        with pytest.raises(error):
            await consumer.run(handle, batch=batch)
        assert consumer.statistics().in_hand == consumer.statistics().queued
        await consumer.commit()
    left = await pending(redis, stream, "g")
    assert left == (2 if batch is None else 3)


@pytest.mark.parametrize("call", ["next", "take", "loop", "batches"])
async def test_an_exit_in_a_codec_is_raised_to_the_caller_of_next_take_and_loops(
    url: str, stream: str, redis: Any, call: str
) -> None:
    await send(url, stream, 1, 2)
    codec = Raises(SystemExit)
    async with Consumer(
        stream, url=url, group="g", codec=codec, retry=Retry()
    ) as consumer:
        with pytest.raises(SystemExit):
            if call == "next":
                await consumer.next()
            elif call == "take":
                await consumer.take(2)
            elif call == "loop":
                await anext(aiter(consumer))
            else:
                await anext(consumer.batches(2))
        statistics = consumer.statistics()
        assert statistics.in_hand == statistics.queued
    assert await pending(redis, stream, "g") == 2


async def test_an_exit_is_not_reported_as_a_failed_handler(
    url: str, stream: str, events: Events
) -> None:
    async def handle(_: Message[bytes]) -> None:
        raise SystemExit

    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        with pytest.raises(SystemExit):
            await consumer.run(handle)
    assert not events.named("handler_failed")
