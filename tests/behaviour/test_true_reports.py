"""Accuracy: events, return values and dead letters say what happened, nothing else."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from redis import Redis

from penstock import Claim, Consumer, MaxLen, Message, Producer, Retry, admin
from support.events import Events
from support.failing import running
from support.proxy import proxy
from support.waiting import eventually, leave_pending, pending, read, send

ONCE = Retry(max_attempts=1)


async def deleted_ids(redis: Any, stream: str, *numbers: int) -> list[bytes]:
    ids = [id_ for id_, _ in await redis.xrange(stream)]
    return [ids[number] for number in numbers]


@pytest.mark.parametrize("others", [0, 2])
async def test_deletions_are_not_a_mismatch_but_acknowledgements_of_others_are(
    url: str, stream: str, redis: Any, events: Events, others: int
) -> None:
    """Renewals and claims remove deleted entries from the pending list."""
    if others and (await redis.info("server"))["redis_version"].startswith("6."):
        pytest.skip("deleted entries stay pending there, and could be the missing ones")
    gate = asyncio.Event()
    started: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        started.append(int(message.payload))
        await gate.wait()

    async def held(count: int) -> bool:
        return len(started) == count

    async def is_pending(count: int) -> bool:
        return await pending(redis, stream, "g") <= count

    await send(url, stream, *range(8))
    consumer = Consumer(stream, url=url, group="g", claim=Claim(6), on_event=events)
    async with running(consumer, handle, concurrency=20):
        await eventually(lambda: held(8))
        gone = await deleted_ids(redis, stream, 0, 1, 2, 3)
        acked = await deleted_ids(redis, stream, 4, 5)
        await redis.xdel(stream, *gone)
        # Any search finds that they were deleted, however short they have been idle.
        await redis.xautoclaim(stream, "g", "other", min_idle_time=60_000)
        if others:
            await redis.xack(stream, "g", *acked)
        gate.set()
        await eventually(lambda: is_pending(0))
        await consumer.commit()
    mismatches = events.named("commit_mismatch")
    assert len(mismatches) == bool(others)
    assert not events.named("stream_recreated")


async def test_thousands_of_deleted_entries_are_reported_together(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(2000))
    await leave_pending(redis, stream, "me", 1000)
    await redis.xreadgroup("g", "dead", {stream: ">"}, count=1000)
    await redis.xtrim(stream, maxlen=0, approximate=False)
    claim = Claim(idle=1, interval=0.1)
    consumer = Consumer(
        stream, url=url, group="g", name="me", claim=claim, on_event=events
    )

    async def all_are_gone() -> bool:
        return await pending(redis, stream, "g") == 0

    async with consumer:
        await eventually(all_are_gone)
        await consumer.commit()
    reported = events.named("deleted_while_pending")
    assert sum(int(str(event.facts["messages"])) for event in reported) == 2000
    assert len(reported) <= 4
    assert all(len(event.facts["ids"]) <= 10 for event in reported)


async def test_settling_a_lost_message_returns_false(url: str, stream: str) -> None:
    await send(url, stream, 1)
    other = Redis.from_url(url)
    consumer = Consumer(
        stream, url=url, group="g", claim=Claim(idle=0.6), auto_commit="rolling"
    )
    async with consumer:
        [message] = await read(consumer, 1)
        time.sleep(0.9)  # noqa: ASYNC251 - as a bad handler does
        assert other.xautoclaim(stream, "g", "other", min_idle_time=600)[1]
        other.close()

        async def noticed() -> object:
            return message.lost

        await eventually(noticed)
        assert message.ack() is False
        assert message.nack() is False
        assert message.reject() is False


@pytest.mark.parametrize("how", ["async", "thread"])
async def test_settling_a_message_returns_true(
    url: str, stream: str, redis: Any, how: str
) -> None:
    returned: list[object] = []

    def outcome(message: Message[bytes]) -> None:
        match int(message.payload):
            case 0:
                returned.extend([message.ack(), message.ack()])
            case 1:
                returned.extend([message.nack(), message.nack()])
            case 2:
                returned.extend([message.reject(), message.reject()])

    async def handle(message: Message[bytes]) -> None:
        outcome(message)

    consumer = Consumer(stream, url=url, group="g", auto_commit="rolling", retry=ONCE)
    await send(url, stream, 0, 1, 2)

    async def done() -> bool:
        return len(returned) == 6 and await pending(redis, stream, "g") == 0

    async with running(consumer, handle if how == "async" else outcome):
        await eventually(done)
    assert returned == [True] * 6


async def test_a_dead_letter_whose_reply_was_lost_counts_as_one(
    url: str, stream: str, redis: Any
) -> None:
    async def refuse(message: Message[bytes]) -> None:
        message.reject()

    async def is_written() -> bool:
        return bool(await redis.xlen(f"{stream}.dead") == 1)

    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g")
        async with running(consumer, refuse):
            between.cut_on = b"EVAL"
            between.cut_next_reply = True
            await send(url, stream, 1)
            await eventually(is_written)

            async def counted() -> bool:
                found = consumer.statistics()
                return found.dead_lettered + found.lost == 1

            await eventually(counted)
            assert between.cuts == 1
            assert consumer.statistics().dead_lettered == 1
            assert consumer.statistics().lost == 0
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_the_dead_letter_of_a_message_that_no_handler_got_has_no_attempt(
    url: str, stream: str, redis: Any
) -> None:
    async def never(_: Message[int]) -> None:
        raise AssertionError

    async def is_written() -> bool:
        return bool(await redis.xlen(f"{stream}.dead") == 1)

    async with running(Consumer(stream, url=url, group="g", payload=int), never):
        await redis.xadd(stream, {"msg": "no number"})
        await eventually(is_written)
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert (dead_letter.attempts, dead_letter.error) == (0, "DecodeError")


async def test_entries_that_are_trimmed_before_they_are_read_are_counted(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    if not await counts_trimmed(redis, f"{stream}.probe"):
        pytest.skip("this server does not count entries that were trimmed unread")
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        await asyncio.sleep(0.02)

    async def all_is_done() -> bool:
        return bool(seen) and seen[-1] == 4999 and not await pending(redis, stream, "g")

    async def reported() -> int:
        found = events.named("trimmed_unread")
        return sum(int(str(event.facts["messages"])) for event in found)

    async def is_reported() -> bool:
        return await reported() + len(seen) == 5001

    consumer = Consumer(stream, url=url, group="g", on_event=events)
    async with (
        running(consumer, handle),
        Producer(url, retention=MaxLen(100, exact=True)) as producer,
    ):
        for number in range(5000):
            await producer.enqueue(stream, b"%d" % number)
        await producer.flush()
        await eventually(all_is_done)
        await send(url, stream, 4999)
        await eventually(is_reported, within=6)
    assert len(seen) < 1000
    assert len(events.named("trimmed_unread")) < 10


async def counts_trimmed(redis: Any, stream: str) -> bool:
    """Return whether the server counts entries that a group did not get."""
    for number in (1, 2, 3):
        await redis.xadd(stream, {"msg": number}, id=f"{number}-0")
    await leave_pending(redis, stream, "m", 1)
    await redis.xtrim(stream, maxlen=1, approximate=False)
    await redis.xreadgroup("g", "m", {stream: ">"}, count=1)
    [group] = await redis.xinfo_groups(stream)
    return bool(group.get("entries-read") == 3)


async def test_messages_that_two_consumers_share_are_not_taken_for_trimmed(
    url: str, stream: str, events: Events
) -> None:
    handled: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        handled.append(int(message.payload))
        await asyncio.sleep(0.001)

    async def have(count: int) -> bool:
        return len(handled) >= count

    async with running(Consumer(stream, url=url, group="g", on_event=events), handle):
        for turn in range(8):
            other = Consumer(stream, url=url, group="g", on_event=events)
            async with running(other, handle):
                await send(url, stream, *range(100))
                await eventually(partial(have, 100 * turn + 50))
        await eventually(partial(have, 800))
        await send(url, stream, 1)
        await eventually(partial(have, 801))
    assert not events.named("trimmed_unread")
