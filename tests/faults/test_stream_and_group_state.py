"""Changes of streams and groups by other clients while they are read."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    LOAD_BALANCED,
    RESUMABLE,
    ROLLING,
    Claim,
    Consumer,
    Message,
    Mode,
    Producer,
)
from support.events import Events
from support.failing import running
from support.server import server
from support.waiting import eventually, leave_pending, numbers, pending, read, send

MODES = [RESUMABLE, LOAD_BALANCED]


class Gate:
    """A handler that holds messages until it is opened, and counts them."""

    def __init__(self) -> None:
        self.started: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.twice: list[int] = []
        self.open = asyncio.Event()

    async def __call__(self, message: Message[bytes]) -> None:
        number = int(message.payload)
        if self.started[number] > self.done[number]:
            self.twice.append(number)
        self.started[number] += 1
        await self.open.wait()
        self.done[number] += 1

    async def have(self, *wanted: int) -> bool:
        return set(wanted) <= set(self.done)

    async def holds(self, count: int) -> bool:
        return len(self.started) >= count


@pytest.mark.parametrize("mode", MODES)
async def test_messages_in_flight_or_unread_when_the_group_was_deleted_are_handled(
    url: str, stream: str, redis: Any, mode: Mode, events: Events
) -> None:
    gate = Gate()
    async with running(
        Consumer(stream, url=url, mode=mode, group="g", on_event=events),
        gate,
        concurrency=50,
    ):
        await send(url, stream, *range(550))
        await eventually(lambda: gate.holds(50))
        await redis.xgroup_destroy(stream, "g")
        await send(url, stream, 550)
        gate.open.set()
        await eventually(lambda: gate.have(*range(551)))
        await eventually(lambda: nothing_is_pending(redis, stream))
    assert events.named("group_recreated")
    assert not gate.twice
    # Messages that were held then may be redelivered, and no others.
    assert sum(gate.done.values()) <= 551 + 60


async def is_reported(events: Events, name: str) -> bool:
    return bool(events.named(name))


async def nothing_is_pending(redis: Any, stream: str) -> bool:
    return not await pending(redis, stream, "g")


async def test_messages_sent_after_each_of_several_flushes_are_handled(
    tmp_path: Path, stream: str, events: Events
) -> None:
    seen: Counter[int] = Counter()

    async def handle(message: Message[bytes]) -> None:
        seen[int(message.payload)] += 1

    async def have(*wanted: int) -> bool:
        return set(wanted) <= set(seen)

    async with server(tmp_path) as own, own.client() as redis:
        consumer = Consumer(stream, url=own.url, group="g", on_event=events)
        async with running(consumer, handle), Producer(own.url) as producer:
            for turn in range(5):
                for number in range(100):
                    await producer.enqueue(stream, b"%d" % (turn * 1000 + number))
                await redis.flushall()
                after = [turn * 1000 + number for number in range(500, 600)]
                for number in after:
                    await producer.send(stream, b"%d" % number)
                await eventually(lambda after=after: have(*after), within=3)  # type: ignore[misc]
            await consumer.commit()
            assert await pending(redis, stream, "g") == 0
    assert events.named("group_recreated")
    assert len(events) < 100


async def test_of_trimmed_messages_only_those_that_are_held_are_handled(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """Trimmed are held messages, unread ones, and those of a dead consumer."""
    gate = Gate()
    await send(url, stream, *range(100))
    await leave_pending(redis, stream, "dead", 100)
    await send(url, stream, *range(100, 200))
    # Deleted entries are found before their lease has ended.
    claim = Claim(idle=60, interval=0.1)
    consumer = Consumer(stream, url=url, group="g", claim=claim, on_event=events)
    async with running(consumer, gate, concurrency=20):
        await eventually(lambda: gate.holds(20))
        held = set(gate.started)
        await redis.xtrim(stream, maxlen=0, approximate=False)
        gate.open.set()
        await send(url, stream, 1000)
        await eventually(lambda: gate.have(1000, *held))
        # Messages that waited had been read with their fields.
        assert set(gate.done) <= {*range(100, 200), 1000}
        await eventually(lambda: nothing_is_pending(redis, stream))
        await eventually(lambda: found_deleted(consumer, 100))


async def found_deleted(consumer: Consumer[Any], count: int) -> bool:
    """Return whether so many deleted entries were found pending; check for no more."""
    assert consumer.statistics().ghosts <= count
    return consumer.statistics().ghosts == count


async def test_messages_deleted_while_they_are_handled_are_finished_as_usual(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    gate = Gate()
    async with running(
        Consumer(stream, url=url, group="g", on_event=events), gate, concurrency=8
    ) as consumer:
        await send(url, stream, *range(8))
        await eventually(lambda: gate.holds(8))
        ids = [id_ for id_, _ in await redis.xrange(stream)]
        await redis.xdel(stream, *ids)
        gate.open.set()
        await eventually(lambda: gate.have(*range(8)))
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0
    assert not events


@pytest.mark.parametrize("mode", MODES)
async def test_messages_redelivered_while_they_are_handled_wait_for_that(
    url: str, stream: str, redis: Any, mode: Mode, events: Events
) -> None:
    """XGROUP SETID 0 under load."""
    gate = Gate()
    async with running(
        Consumer(stream, url=url, mode=mode, group="g", on_event=events),
        gate,
        concurrency=10,
    ):
        await send(url, stream, *range(200))
        await eventually(lambda: gate.holds(10))
        await redis.xgroup_setid(stream, "g", "0")
        await send(url, stream, 200)
        await asyncio.sleep(0.05)
        gate.open.set()
        await eventually(lambda: gate.have(*range(201)))
        await eventually(lambda: nothing_is_pending(redis, stream))
    assert not gate.twice
    assert not await redis.exists(f"{stream}.dead")
    assert len(events.named("set_back")) <= 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_group_that_is_set_to_the_end_continues_there(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    gate = Gate()
    async with running(
        Consumer(stream, url=url, mode=mode, group="g"), gate, concurrency=4
    ) as consumer:
        await send(url, stream, *range(100))
        await eventually(lambda: gate.holds(4))
        await redis.xgroup_setid(stream, "g", "$")
        gate.open.set()
        await send(url, stream, 100)
        await eventually(lambda: gate.have(100))
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("by", ["delconsumer", "xack"])
async def test_messages_that_other_clients_take_away_are_finished_and_reported(
    url: str, stream: str, redis: Any, by: str, events: Events
) -> None:
    gate = Gate()
    consumer = Consumer(
        stream, url=url, group="g", name="me", auto_commit=ROLLING, on_event=events
    )

    async def handle(message: Message[bytes]) -> None:
        await gate(message)
        message.ack()

    async with running(consumer, handle, concurrency=5):
        await send(url, stream, *range(5))
        await eventually(lambda: gate.holds(5))
        if by == "xack":
            await redis.xack(stream, "g", *[i for i, _ in await redis.xrange(stream)])
        else:
            await redis.xgroup_delconsumer(stream, "g", "me")
        gate.open.set()
        await eventually(lambda: gate.have(*range(5)))
        await consumer.commit()
        await send(url, stream, 5)
        await eventually(lambda: gate.have(5))
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0
    assert gate.done == dict.fromkeys(range(6), 1)
    [event] = events.named("commit_mismatch")
    assert (event.facts["sent"], event.facts["acknowledged"]) == (5, 0)


@pytest.mark.parametrize("mode", MODES)
async def test_a_stream_that_is_renamed_away_and_back_is_read_on(
    url: str, stream: str, redis: Any, mode: Mode, events: Events
) -> None:
    """RENAME to another key and back."""
    async with Consumer(
        stream, url=url, mode=mode, group="g", on_event=events
    ) as consumer:
        await send(url, stream, *range(10))
        assert numbers(await read(consumer, 10)) == [*range(10)]
        await consumer.commit()
        await redis.rename(stream, f"{stream}.away")
        await eventually(lambda: is_reported(events, "group_recreated"))
        await send(url, stream, 10)
        assert numbers(await read(consumer, 1)) == [10]
        await redis.rename(f"{stream}.away", stream)
        await send(url, stream, 11)
        assert numbers(await read(consumer, 1, within=3)) == [11]


async def test_swapping_databases_and_back_loses_no_message(
    tmp_path: Path, stream: str, events: Events
) -> None:
    async with server(tmp_path) as own, own.client() as redis:
        async with Consumer(stream, url=own.url, group="g", on_event=events) as one:
            await send(own.url, stream, *range(10))
            assert numbers(await read(one, 10)) == [*range(10)]
            # All messages are handled; held ones would be lost with their stream.
            assert await one.next(timeout=0.05) is None
            await one.commit()
            await redis.swapdb(0, 1)
            await eventually(lambda: is_reported(events, "group_recreated"))
            await redis.swapdb(0, 1)
            await send(own.url, stream, *range(10, 20))
            assert numbers(await read(one, 10, within=4)) == [*range(10, 20)]
