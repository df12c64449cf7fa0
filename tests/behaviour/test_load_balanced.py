"""LOAD_BALANCED: the consumers of a group share the messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from penstock import (
    EARLIEST,
    LATEST,
    Consumer,
    EntryId,
    Fields,
    Message,
    Producer,
    Start,
    StreamMissing,
    json_codec,
)
from support.events import Events
from support.waiting import numbers, pending, read


class Order(msgspec.Struct):
    id: int


async def send(url: str, stream: str, *values: int) -> list[EntryId]:
    async with Producer(url) as producer:
        futures = [await producer.enqueue(stream, b"%d" % n) for n in values]
        return [receipt.id for receipt in await asyncio.gather(*futures)]


async def test_two_consumers_share_messages_and_handle_none_twice(
    url: str, stream: str, redis: Any
) -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}

    async def consume(name: str) -> None:
        async with Consumer(stream, url=url, group="g", name=name) as consumer:
            async for message in consumer:
                seen[name].append(int(message.payload))
                await asyncio.sleep(0)
                if sum(map(len, seen.values())) == 3000:
                    done.set()

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(consume(name)) for name in seen]
        await send(url, stream, *range(3000))
        async with asyncio.timeout(20):
            await done.wait()
        for task in tasks:
            task.cancel()
    assert sorted(seen["a"] + seen["b"]) == list(range(3000))
    assert seen["a"]
    assert seen["b"]


async def test_a_new_group_starts_with_the_backlog(url: str, stream: str) -> None:
    await send(url, stream, 1, 2, 3)
    async with Consumer(stream, url=url, group="g") as consumer:
        assert numbers(await read(consumer, 3)) == [1, 2, 3]


async def test_latest_delivers_only_what_is_sent_after_opening(
    url: str, stream: str
) -> None:
    await send(url, stream, 1, 2, 3)
    async with Consumer(stream, url=url, group="g", start=LATEST) as consumer:
        await send(url, stream, 4, 5)
        assert numbers(await read(consumer, 2)) == [4, 5]
        assert await consumer.next(timeout=0.05) is None


@pytest.mark.parametrize("start", [EARLIEST, LATEST])
async def test_a_consumer_that_opens_before_the_first_message_misses_nothing(
    url: str, stream: str, start: Start
) -> None:
    async with Consumer(stream, url=url, group="g", start=start) as consumer:
        await send(url, stream, *range(100))
        assert numbers(await read(consumer, 100)) == list(range(100))


async def test_a_start_is_inclusive_by_id_by_text_and_by_time(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        early = await producer.send(stream, b"1")
        while datetime.now(UTC) <= early.timestamp + timedelta(milliseconds=5):
            await asyncio.sleep(0.001)
        middle = await producer.send(stream, b"2")
        await producer.send(stream, b"3")
    starts: dict[str, EntryId | str | datetime] = {
        "id": middle.id,
        "text": str(middle.id),
        "time": middle.timestamp,
        "before": middle.timestamp - timedelta(milliseconds=2),
    }
    for name, start in starts.items():
        async with Consumer(stream, url=url, group=name, start=start) as consumer:
            assert numbers(await read(consumer, 2)) == [2, 3], name


async def test_an_existing_group_continues_at_its_position_whatever_start_is(
    url: str, stream: str
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g") as consumer:
        await read(consumer, 2)
    await send(url, stream, 3)
    async with Consumer(stream, url=url, group="g", start=EARLIEST) as consumer:
        assert numbers(await read(consumer, 1)) == [3]


async def test_without_mkstream_opening_on_a_missing_stream_raises(
    url: str, stream: str, redis: Any
) -> None:
    consumer = Consumer(stream, url=url, group="g", mkstream=False)
    with pytest.raises(StreamMissing, match=stream):
        async with consumer:
            pytest.fail("must not open")
    assert not await redis.exists(stream)
    await send(url, stream, 0)
    async with consumer:
        assert numbers(await read(consumer, 1)) == [0]


async def test_one_consumer_receives_messages_of_several_streams(
    url: str, stream: str
) -> None:
    names = [f"{stream}:{n}" for n in range(5)]
    async with Consumer(*names, url=url, group="g") as consumer:
        for name in names:
            await send(url, name, 1, 2)
        messages = await read(consumer, 10)
    assert Counter(message.stream for message in messages) == dict.fromkeys(names, 2)


async def test_several_loops_on_one_consumer_share_its_messages(
    url: str, stream: str
) -> None:
    seen: list[int] = []

    async def loop(consumer: Consumer[bytes]) -> None:
        async for message in consumer:
            seen.append(int(message.payload))
            if len(seen) == 500:
                await consumer.aclose()
            await asyncio.sleep(0)

    await send(url, stream, *range(500))
    async with (
        asyncio.timeout(20),
        Consumer(stream, url=url, group="g") as consumer,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(4):
            group.create_task(loop(consumer))
    assert sorted(seen) == list(range(500))


async def test_next_returns_none_when_its_timeout_is_over(
    url: str, stream: str
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        assert await consumer.next(timeout=0.02) is None
        assert await consumer.next(timeout=timedelta(milliseconds=1)) is None
        assert await consumer.next(timeout=0) is None
        await send(url, stream, 1)
        message = await consumer.next(timeout=5)
        assert message is not None
        assert message.payload == b"1"


async def test_next_with_a_timeout_of_0_returns_a_prefetched_message(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        async with asyncio.timeout(5):
            while (message := await consumer.next(timeout=0)) is None:
                pass
        assert message.payload == b"1"


async def test_a_cancelled_next_loses_no_message(
    url: str, stream: str, redis: Any
) -> None:
    """Cancelled at any moment around an arrival, hundreds of times."""
    got: list[int] = []
    async with (
        Producer(url) as producer,
        Consumer(stream, url=url, group="g") as consumer,
    ):
        for number in range(300):
            task = asyncio.create_task(consumer.next())
            await producer.send(stream, b"%d" % number)
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                got.append(int((await task).payload))
        while len(got) < 300:
            message = await consumer.next(timeout=5)
            assert message is not None, f"{len(got)} of 300"
            got.append(int(message.payload))
    assert sorted(got) == list(range(300))
    assert await pending(redis, stream, "g") == 0


async def test_payloads_are_typed(url: str, stream: str) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, Order(5))
    async with Consumer(stream, url=url, group="a", payload=Order) as orders:
        assert (await orders.next()).payload == Order(5)
    async with Consumer(stream, url=url, group="b", payload=str) as texts:
        assert (await texts.next()).payload == '{"id":5}'
    async with Consumer(stream, url=url, group="c", codec=json_codec(Order)) as coded:
        assert (await coded.next()).payload.id == 5
    async with Consumer(stream, url=url, group="d", payload=Fields) as fields:
        assert (await fields.next()).payload == (
            (b"msg", b'{"id":5}'),
            (b"content-type", b"application/json"),
        )


async def test_an_undecodable_message_is_reported_with_a_reason_but_not_quoted(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.xadd(stream, {"msg": '{"id":"canary"}'})
    await redis.xadd(stream, {"other": "canary"})
    async with Consumer(
        stream, url=url, group="g", payload=Order, on_event=events
    ) as consumer:
        assert await consumer.next(timeout=0.2) is None
        assert consumer.statistics().undecodable == 2
    reasons = [str(event.facts["reason"]) for event in events.named("gave_up")]
    assert "Expected `int`" in reasons[0]
    assert "no field 'msg'" in reasons[1]
    assert "canary" not in "".join(map(str, events))


async def test_a_message_has_its_id_time_stream_key_headers_and_attempt(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        receipt = await producer.send(stream, b"x", key="k", headers={"a": "1"})
    async with Consumer(stream, url=url, group="g") as consumer:
        message: Message[bytes] = await consumer.next()
        assert message.id == receipt.id
        assert message.timestamp == receipt.timestamp
        assert (message.stream, message.shard, message.key) == (stream, 0, "k")
        assert message.headers == {"a": "1"}
        assert message.attempt == 1
        assert "x" not in repr(message).replace("0x", "")
