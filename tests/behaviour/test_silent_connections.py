"""A silent command connection: it is replaced, or reading is suspended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    IMMEDIATE,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Claim,
    Consumer,
    Message,
    Mode,
    Producer,
)
from support.events import Events
from support.failing import running
from support.proxy import Proxy, proxy
from support.server import server
from support.waiting import eventually, options

LEASE = 2.0
CLAIM = Claim(idle=LEASE, interval=0.2)
# A consumer connects for commands first, and then to read.
COMMANDS, READS = 1, 2


@contextlib.asynccontextmanager
async def sending(url: str, stream: str) -> AsyncIterator[None]:
    """Send a hundred messages a second."""

    async def send() -> None:
        async with Producer(url) as producer:
            while True:
                await producer.send(stream, b"x")
                await asyncio.sleep(0.01)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class Handled:
    """A handler that counts how often it got each message."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()

    async def __call__(self, message: Message[bytes]) -> None:
        self.times[str(message.id)] += 1

    async def more_than(self, count: int) -> bool:
        return len(self.times) > count

    @property
    def repeated(self) -> int:
        return sum(count > 1 for count in self.times.values())


async def test_messages_are_acknowledged_in_time_on_another_connection(
    url: str, stream: str, events: Events
) -> None:
    """It stays silent; the other consumer claims entries whose lease is not renewed."""
    seen = Handled()
    async with proxy(url) as between:
        one = Consumer(
            stream,
            url=between.url,
            group="g",
            start=EARLIEST,
            claim=CLAIM,
            on_event=events,
        )
        two = Consumer(stream, url=url, group="g", start=EARLIEST, claim=CLAIM)
        async with (
            sending(url, stream),
            running(one, seen, concurrency=10),
            running(two, seen, concurrency=10),
        ):
            await eventually(lambda: seen.more_than(50))
            between.silent = lambda number: number == COMMANDS
            before = one.statistics().acknowledged
            await asyncio.sleep(3 * LEASE)
            assert one.statistics().acknowledged > before + 50
        assert len(events.named("connection_lost")) == 1
        assert not events.named("reading_suspended")
    assert seen.repeated <= 10


@pytest.mark.parametrize("mode", [LOAD_BALANCED, RESUMABLE])
async def test_if_no_other_connection_answers_reading_is_suspended_until_one_does(
    url: str, stream: str, events: Events, mode: Mode
) -> None:
    seen = Handled()
    async with proxy(url) as between:
        consumer = Consumer(
            stream, url=between.url, **options(mode), claim=CLAIM, on_event=events
        )
        async with sending(url, stream), running(consumer, seen, concurrency=10):
            await eventually(lambda: seen.more_than(50))
            between.silent = lambda number: number != READS

            async def suspended() -> bool:
                return bool(events.named("reading_suspended"))

            took = await eventually(suspended)
            assert took < LEASE + 1
            started = len(seen.times)
            await asyncio.sleep(LEASE)
            # One read may have been under way.
            assert len(seen.times) - started <= 50
            [event] = events.named("reading_suspended")
            assert 0 < float(str(event.facts["seconds"])) < LEASE
            between.silent = lambda _: False
            between.cut()
            await eventually(lambda: seen.more_than(started + 100))
        assert len(events.named("reading_resumed")) == 1
        assert len(events.named("reading_suspended")) == 1


async def test_reading_resumes_when_the_same_connection_answers_again(
    url: str, stream: str, events: Events
) -> None:
    seen = Handled()
    async with proxy(url) as between:
        # Slow replies are usual here, so the consumer keeps its connection.
        between.delay = 0.4
        consumer = Consumer(
            stream,
            url=between.url,
            group="g",
            start=EARLIEST,
            claim=Claim(idle=3.0, interval=0.2),
            on_event=events,
        )
        async with sending(url, stream), running(consumer, seen, concurrency=10):
            await eventually(lambda: seen.more_than(50))
            between.delay = 0.0
            between.hold = lambda number: number == COMMANDS

            async def suspended() -> bool:
                return bool(events.named("reading_suspended"))

            await eventually(suspended)
            started = len(seen.times)
            between.hold = lambda _: False
            await eventually(lambda: seen.more_than(started + 50))
        assert len(events.named("reading_resumed")) == 1
        assert not events.named("connection_lost")


async def test_consumers_without_leases_continue_reading(
    url: str, stream: str, events: Events
) -> None:
    one, two = Handled(), Handled()
    async with proxy(url) as between, proxy(url) as other:
        realtime = Consumer(stream, url=between.url, mode=REALTIME, on_event=events)
        immediate = Consumer(
            stream,
            url=other.url,
            group="g",
            auto_commit=IMMEDIATE,
            claim=CLAIM,
            on_event=events,
        )
        async with (
            running(realtime, one),
            running(immediate, two),
            sending(url, stream),
        ):
            await eventually(lambda: one.more_than(50))
            await eventually(lambda: two.more_than(50))
            between.silent = other.silent = lambda number: number == COMMANDS
            await asyncio.sleep(LEASE)
            count = max(len(one.times), len(two.times))
            await eventually(lambda: one.more_than(count + 50))
            await eventually(lambda: two.more_than(count + 50))
    assert not events.named("reading_suspended")


async def test_connections_to_a_frozen_server_are_not_tried_more_often(
    tmp_path: Path, stream: str
) -> None:
    seen = Handled()
    async with server(tmp_path) as own, proxy(own.url) as between:
        consumer = Consumer(
            stream, url=between.url, group="g", start=EARLIEST, claim=CLAIM
        )
        async with running(consumer, seen, concurrency=10):
            async with sending(own.url, stream):
                await eventually(lambda: seen.more_than(50))
            before, start = between.accepted, time.monotonic()
            own.send_signal(signal.SIGSTOP)
            await asyncio.sleep(4)
            own.send_signal(signal.SIGCONT)
            seconds = time.monotonic() - start
            assert between.accepted - before <= 5 * seconds
            async with sending(own.url, stream):
                count = len(seen.times)
                await eventually(lambda: seen.more_than(count + 50))


async def test_a_slow_request_is_not_taken_for_silence(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """Writing a dead letter takes longer than a reply may take."""

    async def handle(message: Message[bytes]) -> None:
        if len(message.payload) > 1:
            await _slow(between)
            message.reject("too large")

    async with proxy(url) as between:
        consumer = Consumer(
            stream,
            url=between.url,
            group="g",
            start=EARLIEST,
            claim=Claim(idle=LEASE, interval=5),
            on_event=events,
        )
        async with Producer(url) as producer:
            await producer.send(stream, bytes(20_000_000))
        async with running(consumer, handle):

            async def dead_lettered() -> bool:
                return bool(await redis.xlen(f"{stream}.dead"))

            took = await eventually(dead_lettered, within=30)
            between.delay = 0.0
    assert took > 2 * LEASE / 3
    assert not events.named("connection_lost")


async def _slow(between: Proxy) -> None:
    between.delay = 0.02
