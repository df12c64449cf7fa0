"""Never run: mypy checks that static types flow through the public API."""

from __future__ import annotations

from asyncio import Future
from typing import assert_type

import msgspec

from penstock import Consumer, Fields, Message, Producer, Receipt, json_codec


class Order(msgspec.Struct):
    id: int


async def consuming() -> None:
    async with Consumer("orders", group="g") as raw:
        assert_type(raw, Consumer[bytes])
        async for message in raw:
            assert_type(message, Message[bytes])
            assert_type(message.payload, bytes)

    async with Consumer("orders", group="g", payload=Order) as orders:
        assert_type(orders, Consumer[Order])
        async for order in orders:
            assert_type(order, Message[Order])
            assert_type(order.payload, Order)
        assert_type(await orders.next(), Message[Order])
        assert_type(await orders.next(timeout=None), Message[Order])
        assert_type(await orders.next(timeout=1.0), Message[Order] | None)

    assert_type(Consumer("orders", codec=json_codec(Order)), Consumer[Order])
    assert_type(Consumer("orders", payload=Fields), Consumer[Fields])
    assert_type(Consumer("orders", payload=str), Consumer[str])


async def handle(message: Message[Order]) -> None:
    assert_type(message.payload.id, int)


async def running(consumer: Consumer[Order], other: Consumer[bytes]) -> None:
    await consumer.run(handle, concurrency=4, ordering="key")
    await other.run(handle)  # type: ignore[arg-type]


async def sending(producer: Producer) -> None:
    assert_type(await producer.send("orders", Order(1)), Receipt)
    assert_type(await producer.enqueue("orders", b""), Future[Receipt])
    assert_type(producer.enqueue_nowait("orders", b""), Future[Receipt])
