"""Sending with a producer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from penstock import (
    BufferFull,
    ClosedError,
    ConfigurationError,
    Producer,
    SendFailed,
    SendUnknown,
)
from support.events import Events
from support.proxy import proxy
from support.waiting import eventually


class Order(msgspec.Struct):
    id: int
    note: str


async def test_a_receipt_names_the_place_of_the_message(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        receipt = await producer.send(stream, b"paid")
    [(id_, fields)] = await redis.xrange(stream)
    assert receipt.stream == stream
    assert receipt.shard == 0
    assert str(receipt.id) == id_.decode()
    assert abs(receipt.timestamp - datetime.now(UTC)) < timedelta(minutes=5)
    assert fields == {b"msg": b"paid"}


async def test_key_and_headers_are_fields_of_the_entry(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, "text", key="k-1", headers={"from": "wéb"})
    [(_, fields)] = await redis.xrange(stream)
    assert fields == {b"msg": b"text", b"key": b"k-1", b"from": "wéb".encode()}


async def test_other_payloads_are_sent_as_json(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, Order(7, "ok"))
        await producer.send(stream, {"a": [1, 2]})
        await producer.send(stream, bytearray(b"raw"))
    bodies = [fields[b"msg"] for _, fields in await redis.xrange(stream)]
    assert bodies == [b'{"id":7,"note":"ok"}', b'{"a":[1,2]}', b"raw"]


async def test_the_order_is_that_of_the_calls(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, max_messages=50, max_batch=7) as producer:
        futures = [await producer.enqueue(stream, b"%d" % n) for n in range(1000)]
        receipts = await asyncio.gather(*futures)
    bodies = [int(fields[b"msg"]) for _, fields in await redis.xrange(stream)]
    assert bodies == list(range(1000))
    assert [receipt.id for receipt in receipts] == sorted(r.id for r in receipts)


async def test_senders_that_wait_for_buffer_space_keep_their_order(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, max_messages=3) as producer:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(producer.send(stream, b"%d" % number))
    bodies = [int(fields[b"msg"]) for _, fields in await redis.xrange(stream)]
    assert bodies == list(range(100))


async def test_queued_messages_are_sent_together(
    url: str, stream: str, redis: Any
) -> None:
    """A hundred senders to five streams share a handful of writes."""
    async with Producer(url) as producer:
        await producer.send(stream, b"warm")
        before = (await redis.info("stats"))["total_reads_processed"]
        sends = (producer.send(f"{stream}-{n % 5}", b"x") for n in range(100))
        await asyncio.gather(*sends)
        after = (await redis.info("stats"))["total_reads_processed"]
    assert after - before <= 5


async def test_several_writes_are_in_flight(url: str, stream: str) -> None:
    """Further batches are sent although the replies are delayed."""
    async with proxy(url) as between:
        async with Producer(
            between.url, max_batch=10, max_in_flight=4, close_timeout=0.1
        ) as producer:
            await producer.send(stream, b"warm")
            before = between.sends
            between.drop_replies = True
            futures = [await producer.enqueue(stream, b"x") for _ in range(100)]
            await eventually(lambda: awaitable(between.sends - before >= 40))
            assert not any(future.done() for future in futures)
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [SendUnknown] * 40 + [SendFailed] * 60


async def awaitable(value: object) -> object:
    return value


async def test_a_refused_message_fails_alone(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.set(f"{stream}-string", "no stream")
    async with Producer(url, on_event=events) as producer:
        good = [await producer.enqueue(stream, b"a") for _ in range(5)]
        bad = await producer.enqueue(f"{stream}-string", b"b")
        good += [await producer.enqueue(stream, b"c") for _ in range(5)]
        await producer.flush()
    assert all(future.result().stream == stream for future in good)
    with pytest.raises(SendFailed, match="WRONGTYPE") as caught:
        await bad
    assert caught.value.code == "WRONGTYPE"
    assert await redis.xlen(stream) == 10
    [event] = events.named("send_failed")
    assert event.facts["messages"] == 1


async def test_a_failure_that_is_not_awaited_is_an_event_and_no_warning(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.set(stream, "no stream")
    async with Producer(url, on_event=events) as producer:
        await producer.enqueue(stream, b"x")
    assert events.named("send_failed")


async def test_flush_waits_for_all_queued_messages(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        for _ in range(2000):
            producer.enqueue_nowait(stream, b"x")
        await producer.flush()
        assert await redis.xlen(stream) == 2000


async def test_queued_messages_are_sent_when_the_block_is_left_by_an_exception(
    url: str, stream: str, redis: Any
) -> None:
    with pytest.raises(LookupError):
        async with Producer(url) as producer:
            for _ in range(500):
                producer.enqueue_nowait(stream, b"x")
            raise LookupError
    assert await redis.xlen(stream) == 500


async def test_queued_messages_are_sent_when_the_block_is_cancelled(
    url: str, stream: str, redis: Any
) -> None:
    queued = asyncio.Event()

    async def sender() -> None:
        async with Producer(url) as producer:
            for _ in range(500):
                producer.enqueue_nowait(stream, b"x")
            queued.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(sender())
    await queued.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await redis.xlen(stream) == 500


async def test_the_buffer_is_bounded_in_messages(url: str, stream: str) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_messages=10, close_timeout=0.1
        ) as producer:
            between.drop_replies = True
            futures = [producer.enqueue_nowait(stream, b"x") for _ in range(10)]
            with pytest.raises(BufferFull) as caught:
                producer.enqueue_nowait(stream, b"x")
            assert caught.value.messages == 10
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await producer.enqueue(stream, b"x")
        await asyncio.gather(*futures, return_exceptions=True)


async def test_the_buffer_is_bounded_in_bytes(url: str, stream: str) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_bytes=10_000, close_timeout=0.1
        ) as producer:
            between.drop_replies = True
            producer.enqueue_nowait(stream, b"x" * 9000)
            with pytest.raises(BufferFull) as caught:
                producer.enqueue_nowait(stream, b"x" * 1000)
            assert caught.value.size > 9000


async def test_a_message_larger_than_the_buffer_is_sent_alone(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, max_bytes=1000) as producer:
        await producer.send(stream, b"x" * 100_000)
    assert await redis.xlen(stream) == 1


async def test_a_message_whose_reply_was_lost_is_unknown_and_never_sent_again(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """redis-py's own retry would have added the entry up to eleven times."""
    async with proxy(url) as between:
        async with Producer(between.url, on_event=events) as producer:
            await producer.send(stream, b"first")
            between.cut_on = b"XADD"
            between.cut_next_reply = True
            with pytest.raises(SendUnknown) as caught:
                await producer.send(stream, b"second")
            await producer.send(stream, b"third")
    assert caught.value.stream == stream
    bodies = [fields[b"msg"] for _, fields in await redis.xrange(stream)]
    assert bodies == [b"first", b"second", b"third"]
    [event] = events.named("send_unknown")
    assert event.facts["messages"] == 1


async def test_messages_that_were_only_queued_are_sent_in_order_after_an_outage(
    url: str, stream: str, redis: Any
) -> None:
    async with proxy(url) as between, Producer(between.url) as producer:
        await producer.send(stream, b"0")
        await between.stop()
        while True:
            # The first ones may be written to the connection that is just being cut.
            try:
                async with asyncio.timeout(0.1):
                    await producer.send(stream, b"probe")
            except SendUnknown:
                continue
            except TimeoutError:
                break
        futures = [await producer.enqueue(stream, b"%d" % n) for n in range(1, 200)]
        await between.start()
        await asyncio.gather(*futures)
    bodies = [fields[b"msg"] for _, fields in await redis.xrange(stream)]
    assert [int(body) for body in bodies if body != b"probe"] == list(range(200))


async def test_cancelling_a_send_ends_the_waiting_and_nothing_else(
    url: str, stream: str, redis: Any
) -> None:
    """A thousand sends, cancelled at any moment: once or not at all, none mixed up."""
    kept: dict[int, str] = {}

    async def send(producer: Producer, number: int) -> None:
        receipt = await producer.send(stream, b"%d" % number)
        kept[number] = str(receipt.id)

    async with Producer(url) as producer:
        tasks = []
        for number in range(1000):
            tasks.append(asyncio.create_task(send(producer, number)))
            if number % 3 == 0:
                await asyncio.sleep(0)
            if number % 2:
                tasks[number - number % 7].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await producer.send(stream, b"1000")
    entries = [(i.decode(), int(f[b"msg"])) for i, f in await redis.xrange(stream)]
    bodies = [number for _, number in entries]
    assert len(bodies) == len(set(bodies))
    ids = {number: id_ for id_, number in entries}
    assert len(kept) > 100
    assert all(ids[number] == id_ for number, id_ in kept.items())


async def test_invalid_messages_are_refused_before_anything_is_sent(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        for kwargs in (
            {"headers": {"msg": "x"}},
            {"headers": {"key": "x"}},
            {"headers": {"a": 1}},
            {"headers": {"\ud800": "x"}},
            {"key": b"bytes"},
            {"payload": object()},
            {"stream": ""},
            {"stream": "\ud800"},
        ):
            message = {"stream": stream, "payload": b"x", **kwargs}
            with pytest.raises(ConfigurationError):
                await producer.send(**message)  # type: ignore[arg-type]
    assert not await redis.exists(stream)


async def test_a_closed_producer_refuses_to_send(url: str, stream: str) -> None:
    producer = Producer(url)
    with pytest.raises(ClosedError, match="async with"):
        await producer.send(stream, b"x")
    async with producer:
        pass
    with pytest.raises(ClosedError):
        producer.enqueue_nowait(stream, b"x")
    with pytest.raises(ClosedError):
        await producer.flush()


async def test_a_producer_can_be_opened_again(
    url: str, stream: str, redis: Any
) -> None:
    producer = Producer(url)
    for _ in range(3):
        async with producer:
            await producer.send(stream, b"x")
    assert await redis.xlen(stream) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"max_messages": 0},
        {"max_bytes": -1},
        {"max_batch": 0},
        {"max_message_bytes": 0},
        {"max_in_flight": 0},
        {"linger": -1},
        {"send_timeout": 0},
        {"linger": "1"},
        {"close_timeout": -1},
        {"open_timeout": float("nan")},
        {"max_messages": True},
    ],
)
def test_invalid_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Producer("redis://localhost", **options)  # type: ignore[arg-type]
