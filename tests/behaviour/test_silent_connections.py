"""Only the command connection falls silent, and nothing is read in vain."""

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
    """A handler that counts how often it has had which message."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()

    async def __call__(self, message: Message[bytes]) -> None:
        self.times[str(message.id)] += 1

    async def more_than(self, count: int) -> bool:
        return len(self.times) > count

    @property
    def again(self) -> int:
        return sum(count > 1 for count in self.times.values())


async def test_what_it_has_is_acknowledged_on_another_connection_in_time(
    url: str, stream: str, events: Events
) -> None:
    """It is silent for good; the other consumer takes over what nobody renews."""
    seen = Handled()
    async with proxy(url) as way:
        one = Consumer(
            stream, url=way.url, group="g", start=EARLIEST, claim=CLAIM, on_event=events
        )
        two = Consumer(stream, url=url, group="g", start=EARLIEST, claim=CLAIM)
        async with (
            sending(url, stream),
            running(one, seen, concurrency=10),
            running(two, seen, concurrency=10),
        ):
            await eventually(lambda: seen.more_than(50))
            way.silent = lambda number: number == COMMANDS
            before = one.statistics().acknowledged
            await asyncio.sleep(3 * LEASE)
            assert one.statistics().acknowledged > before + 50
        assert len(events.named("connection_lost")) == 1
        assert not events.named("reading_suspended")
    assert seen.again <= 10


@pytest.mark.parametrize("mode", [LOAD_BALANCED, RESUMABLE])
async def test_if_no_other_answers_either_it_reads_no_more_until_one_does(
    url: str, stream: str, events: Events, mode: Mode
) -> None:
    seen = Handled()
    async with proxy(url) as way:
        consumer = Consumer(
            stream, url=way.url, **options(mode), claim=CLAIM, on_event=events
        )
        async with sending(url, stream), running(consumer, seen, concurrency=10):
            await eventually(lambda: seen.more_than(50))
            way.silent = lambda number: number != READS

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
            way.silent = lambda _: False
            way.cut()
            await eventually(lambda: seen.more_than(started + 100))
        assert len(events.named("reading_resumed")) == 1
        assert len(events.named("reading_suspended")) == 1


async def test_it_reads_on_when_the_same_connection_answers_again(
    url: str, stream: str, events: Events
) -> None:
    seen = Handled()
    async with proxy(url) as way:
        # Slow replies are nothing unusual here, so it keeps its connection.
        way.delay = 0.4
        consumer = Consumer(
            stream,
            url=way.url,
            group="g",
            start=EARLIEST,
            claim=Claim(idle=3.0, interval=0.2),
            on_event=events,
        )
        async with sending(url, stream), running(consumer, seen, concurrency=10):
            await eventually(lambda: seen.more_than(50))
            way.delay = 0.0
            way.hold = lambda number: number == COMMANDS

            async def suspended() -> bool:
                return bool(events.named("reading_suspended"))

            await eventually(suspended)
            started = len(seen.times)
            way.hold = lambda _: False
            await eventually(lambda: seen.more_than(started + 50))
        assert len(events.named("reading_resumed")) == 1
        assert not events.named("connection_lost")


async def test_who_has_no_leases_reads_on(
    url: str, stream: str, events: Events
) -> None:
    one, two = Handled(), Handled()
    async with proxy(url) as way, proxy(url) as other:
        realtime = Consumer(stream, url=way.url, mode=REALTIME, on_event=events)
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
            way.silent = other.silent = lambda number: number == COMMANDS
            await asyncio.sleep(LEASE)
            count = max(len(one.times), len(two.times))
            await eventually(lambda: one.more_than(count + 50))
            await eventually(lambda: two.more_than(count + 50))
    assert not events.named("reading_suspended")


async def test_a_frozen_server_is_not_knocked_at_more_often(
    tmp_path: Path, stream: str
) -> None:
    seen = Handled()
    async with server(tmp_path) as own, proxy(own.url) as way:
        consumer = Consumer(stream, url=way.url, group="g", start=EARLIEST, claim=CLAIM)
        async with running(consumer, seen, concurrency=10):
            async with sending(own.url, stream):
                await eventually(lambda: seen.more_than(50))
            before, start = way.accepted, time.monotonic()
            own.send_signal(signal.SIGSTOP)
            await asyncio.sleep(4)
            own.send_signal(signal.SIGCONT)
            seconds = time.monotonic() - start
            assert way.accepted - before <= 5 * seconds
            async with sending(own.url, stream):
                count = len(seen.times)
                await eventually(lambda: seen.more_than(count + 50))


async def test_a_slow_request_is_not_taken_for_silence(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """A dead letter that takes longer to write than a reply may take to come."""

    async def handle(message: Message[bytes]) -> None:
        if len(message.payload) > 1:
            await _slow(way)
            message.reject("too large")

    async with proxy(url) as way:
        consumer = Consumer(
            stream,
            url=way.url,
            group="g",
            start=EARLIEST,
            claim=Claim(idle=LEASE, interval=5),
            on_event=events,
        )
        async with Producer(url) as producer:
            await producer.send(stream, bytes(20_000_000))
        async with running(consumer, handle):

            async def buried() -> bool:
                return bool(await redis.xlen(f"{stream}.dead"))

            took = await eventually(buried, within=30)
            way.delay = 0.0
    assert took > 2 * LEASE / 3
    assert not events.named("connection_lost")


async def _slow(way: Proxy) -> None:
    way.delay = 0.02
