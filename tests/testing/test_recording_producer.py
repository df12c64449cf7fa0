"""`testing.RecordingProducer`: accepted wherever a producer is, without a server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from penstock import (
    BufferFull,
    ClosedError,
    ConfigurationError,
    EntryId,
    MessageTooLarge,
    Outgoing,
    Producer,
    Receipt,
    SendFailed,
    SendUnknown,
)
from penstock.testing import RecordingProducer, Sent


class Order(msgspec.Struct):
    id: int


REFUSED = SendFailed("orders", "OOM", "out of memory")


async def place(producer: Producer, order: Order) -> Receipt:
    return await producer.send("orders", order, key="k", headers={"type": "t"})


async def test_what_was_sent_is_recorded_with_its_receipt() -> None:
    producer, order = RecordingProducer(), Order(7)
    receipt = await place(producer, order)
    [sent] = producer.sent
    assert sent == Sent("orders", Order(7), key="k", headers={"type": "t"})
    assert sent.payload is order
    assert sent.receipt is receipt
    assert (receipt.stream, receipt.shard) == ("orders", 0)
    assert abs(receipt.timestamp - datetime.now(UTC)).total_seconds() < 60


async def test_all_sending_calls_are_recorded_in_order() -> None:
    async with RecordingProducer() as producer:
        await (await producer.enqueue("orders", b"1"))
        await producer.enqueue_nowait("orders", b"2")
        await producer.send_many("orders", [b"3", Outgoing(b"4", key="k")])
        outlet = producer.to("orders", payload=Order, key=lambda order: str(order.id))
        await outlet.send(Order(5))
        outlet.enqueue_nowait(Order(6))
        await outlet.send_many([Order(7)])
        await producer.flush()
    payloads = [b"1", b"2", b"3", b"4", Order(5), Order(6), Order(7)]
    assert [sent.payload for sent in producer.sent] == payloads
    keys = [None, None, None, "k", "5", "6", "7"]
    assert [sent.key for sent in producer.sent] == keys
    ids = [sent.receipt.id for sent in producer.sent if sent.receipt]
    assert ids == sorted(set(ids))
    assert len(ids) == 7


async def test_ids_and_shards_are_those_of_a_producer() -> None:
    producer = RecordingProducer(shards=4)
    receipt = await producer.send("orders", b"x", key="customer-7", id="5-1")
    assert receipt.id == EntryId(5, 1)
    assert receipt.shard in range(4)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert (await producer.send("orders", b"x", timestamp=noon)).timestamp == noon


async def test_what_can_t_be_sent_is_refused() -> None:
    producer = RecordingProducer(max_message_bytes=10)
    with pytest.raises(ConfigurationError, match="stream name"):
        await producer.send("", b"x")
    with pytest.raises(ConfigurationError, match="can't be encoded"):
        await producer.send("orders", object())
    with pytest.raises(MessageTooLarge):
        await producer.send("orders", b"x" * 11)
    assert producer.sent == []


async def test_the_next_messages_fail_as_they_are_told_to() -> None:
    producer = RecordingProducer()
    producer.fail_next(REFUSED)
    producer.fail_next(SendUnknown("orders", "the connection was lost"))
    with pytest.raises(SendFailed):
        await place(producer, Order(1))
    future = await producer.enqueue("orders", b"x")
    with pytest.raises(SendUnknown):
        await future
    await place(producer, Order(3))
    assert [sent.payload for sent in producer.sent] == [Order(3)]


async def test_one_of_many_fails_alone() -> None:
    producer = RecordingProducer()
    producer.fail_next(REFUSED)
    first, second = await producer.send_many("orders", [b"1", b"2"])
    assert first is REFUSED
    assert isinstance(second, Receipt)


async def test_a_full_buffer_is_raised_by_the_call_itself() -> None:
    producer = RecordingProducer()
    producer.fail_next(BufferFull(1, 1))
    with pytest.raises(BufferFull):
        producer.enqueue_nowait("orders", b"x")
    producer.enqueue_nowait("orders", b"x")
    assert len(producer.sent) == 1


def test_only_exceptions_can_be_failures() -> None:
    with pytest.raises(ConfigurationError, match="not an exception"):
        RecordingProducer().fail_next("OOM")  # type: ignore[arg-type]


async def test_it_is_closed_like_any_producer_once_it_was_opened() -> None:
    async with RecordingProducer("redis://nowhere") as producer:
        await place(producer, Order(1))
    with pytest.raises(ClosedError):
        await place(producer, Order(2))
    await producer.start()
    await place(producer, Order(3))
    await producer.aclose()
    assert [sent.payload for sent in producer.sent] == [Order(1), Order(3)]


def test_it_serves_one_event_loop_after_the_other_if_it_is_not_opened() -> None:
    producer = RecordingProducer()
    for number in range(2):
        asyncio.run(place(producer, Order(number)))
    assert len(producer.sent) == 2
