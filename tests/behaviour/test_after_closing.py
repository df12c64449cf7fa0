"""Calls after closing a consumer or producer, and the time that closing takes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    Claim,
    ClosedError,
    Consumer,
    Message,
    Mode,
    Producer,
    Router,
    SendFailed,
    SendUnknown,
)
from support.events import Events
from support.server import Server, server
from support.waiting import deliveries, eventually, options, pending, read, send


async def loop_over(messages: Any) -> None:
    async for _ in messages:
        break


async def call(plain: Callable[[], object]) -> object:
    return plain()


CALLS: dict[str, Callable[[Consumer[bytes], str], Awaitable[object]]] = {
    "next": lambda it, _: it.next(),
    "next with a timeout": lambda it, _: it.next(timeout=0),
    "take": lambda it, _: it.take(5),
    "loop": lambda it, _: loop_over(it),
    "batches": lambda it, _: loop_over(it.batches(2)),
    "run": lambda it, _: it.run(lambda _: None),
    "pause": lambda it, _: call(it.pause),
    "resume": lambda it, _: call(it.resume),
    "seek": lambda it, _: it.seek(EARLIEST),
    "assign": lambda it, stream: it.assign(f"{stream}-2"),
    "unassign": lambda it, stream: it.unassign(stream),
    "lag": lambda it, _: it.lag(),
    "commit": lambda it, _: it.commit(),
    "statistics": lambda it, _: call(it.statistics),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", Mode)
async def test_every_call_after_closing_raises_closed_error(
    url: str, stream: str, mode: Mode, name: str
) -> None:
    await send(url, stream, *range(5))
    async with Consumer(stream, url=url, **options(mode)) as consumer:
        await consumer.aclose()

        async def use() -> None:
            # The call itself may raise, before it is awaited.
            await CALLS[name](consumer, stream)

        async with asyncio.timeout(5):
            with pytest.raises(ClosedError, match="consumer is not open"):
                await use()
    with pytest.raises(ClosedError):
        await use()


@pytest.mark.parametrize(
    "name", [name for name in CALLS if name not in {"lag", "commit", "statistics"}]
)
async def test_nothing_is_received_once_closing_has_begun(
    url: str, stream: str, name: str
) -> None:
    await send(url, stream, *range(5))
    started, go = asyncio.Event(), asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        started.set()
        await go.wait()

    async with Consumer(stream, url=url, group="g") as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await started.wait()
        closing = asyncio.create_task(consumer.aclose())
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            with pytest.raises(ClosedError):
                await CALLS[name](consumer, stream)
        go.set()
        await closing
        await run


async def test_a_handler_that_ends_during_closing_may_commit_and_read_statistics(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    started, go = asyncio.Event(), asyncio.Event()
    done: list[object] = []

    async def handle(message: Message[bytes]) -> None:
        started.set()
        await go.wait()
        message.ack()
        await consumer.commit()
        done.append(await pending(redis, stream, "g"))
        done.append(consumer.statistics().acknowledged)
        done.append(list((await consumer.lag()).values()))

    async with Consumer(stream, url=url, group="g") as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await started.wait()
        closing = asyncio.create_task(consumer.aclose())
        await asyncio.sleep(0)
        go.set()
        await closing
        await run
    assert done == [0, 1, [0]]


async def test_loops_and_runs_end_normally_when_the_consumer_closes(
    url: str, stream: str
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:

        async def iterate(messages: Any) -> str:
            async for _ in messages:
                pass
            return "ended"

        loops = [
            asyncio.create_task(iterate(consumer)),
            asyncio.create_task(iterate(consumer.batches(3))),
        ]
        run = asyncio.create_task(consumer.run(lambda _: None))
        await asyncio.sleep(0.01)
        await consumer.aclose()
        assert await asyncio.gather(*loops) == ["ended", "ended"]
        await run


async def test_a_consumer_can_be_opened_again_in_the_block_of_its_first_opening(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        await consumer.aclose()
        await consumer.start()
        assert (await read(consumer, 1))[0].payload == b"1"
    with pytest.raises(ClosedError):
        consumer.statistics()


async def test_every_call_of_a_closed_producer_raises_closed_error(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        outlet = producer.to(stream)
        await producer.aclose()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: producer.send(stream, b"x"),
            lambda: producer.enqueue(stream, b"x"),
            lambda: call(lambda: producer.enqueue_nowait(stream, b"x")),
            producer.flush,
            lambda: all_of(producer.send_many(stream, [b"x"])),
            lambda: outlet.send(b"x"),
        ]
        for each in calls:
            with pytest.raises(ClosedError, match="producer is not open"):
                await each()


async def all_of(outcomes: Any) -> object:
    return await outcomes


async def freeze(own: Server) -> None:
    own.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(("timeout", "most"), [(0, 0.45), (2, 2.4)])
@pytest.mark.parametrize("work", ["nothing", "outcomes", "queue", "handler", "retry"])
async def test_closing_on_a_frozen_server_takes_no_longer_than_close_timeout(
    tmp_path: Path, events: Events, work: str, timeout: float, most: float
) -> None:
    async with server(tmp_path) as own:
        await send(own.url, "s", *range(20))
        started = asyncio.Event()

        async def handle(_: Message[bytes]) -> None:
            started.set()
            await asyncio.Event().wait()

        consumer = Consumer(
            "s",
            url=own.url,
            group="g",
            close_timeout=timeout,
            on_event=events,
        )
        await consumer.start()
        run: asyncio.Task[None] | None = None
        if work == "outcomes":
            await consumer.take(10)
        elif work == "handler":
            run = asyncio.create_task(consumer.run(handle))
            await started.wait()
        elif work == "queue":
            await eventually(lambda: call(lambda: consumer.statistics().queued))
        elif work == "retry":
            for message in await consumer.take(3):
                message.nack(30)
        await freeze(own)
        start = time.monotonic()
        await consumer.aclose()
        took = time.monotonic() - start
        if run is not None:
            await run
        assert took < most
        await check_nothing_is_open(own)


async def check_nothing_is_open(own: Server) -> None:
    """Check that connections to a frozen server were closed on our side."""
    own.send_signal(signal.SIGCONT)
    async with own.client() as client:

        async def alone() -> bool:
            return len(await client.client_list()) == 1

        await eventually(alone)


@pytest.mark.parametrize(("timeout", "most"), [(0, 0.9), (1, 1.9)])
async def test_a_producer_on_a_frozen_server_closes_within_close_timeout(
    tmp_path: Path, timeout: float, most: float
) -> None:
    async with server(tmp_path) as own:
        producer = Producer(own.url, close_timeout=timeout, max_in_flight=1)
        await producer.start()
        await producer.send("s", b"x")
        await freeze(own)
        large = b"x" * 4_000_000  # more than the socket's buffers hold
        tickets = [await producer.enqueue("s", large) for _ in range(4)]
        start = time.monotonic()
        await producer.aclose()
        assert time.monotonic() - start < most
        for ticket in tickets:
            assert isinstance(ticket.exception(), SendFailed | SendUnknown)
        await check_nothing_is_open(own)


async def test_a_router_on_a_frozen_server_closes_within_close_timeout(
    tmp_path: Path,
) -> None:
    async with server(tmp_path) as own:
        router = Router(own.url, close_timeout=1)
        for number in range(3):

            @router.handler(f"s{number}", group="g")
            async def handle(_: bytes) -> None: ...

        await router.start()
        await freeze(own)
        start = time.monotonic()
        await router.aclose()
        assert time.monotonic() - start < 1.5


async def test_queued_entries_are_released_even_with_a_close_timeout_of_0(
    url: str, stream: str, redis: Any
) -> None:
    """Closing has a minimum time, and a server that answers needs less than that."""
    await send(url, stream, *range(100))
    consumer = Consumer(
        stream, url=url, group="g", close_timeout=0, claim=Claim(idle=30)
    )
    async with consumer:
        for message in await read(consumer, 10):
            message.ack()
        assert consumer.statistics().queued
    counts = await deliveries(redis, stream, "g")
    [group] = await redis.xinfo_groups(stream)
    assert group["entries-read"] - group["pending"] == 10
    reply = await redis.xautoclaim(stream, "g", "other", 30_000, count=1000)
    assert len(reply[1]) == len(counts) > 0


async def test_handlers_are_cancelled_early_enough_to_send_outcomes_in_close_timeout(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(10))
    running = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        if message.payload == b"9":
            running.set()
            await asyncio.Event().wait()

    async with Consumer(
        stream, url=url, group="g", close_timeout=1, on_event=events
    ) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await running.wait()
        start = time.monotonic()
        await consumer.aclose()
        assert 0.7 < time.monotonic() - start < 1.0
        await run
    assert await pending(redis, stream, "g") == 1
    reply = await redis.xautoclaim(stream, "g", "other", 60_000)
    assert len(reply[1]) == 1
    assert not events.named("close_incomplete")
