"""Never run: mypy checks that static types flow through the public API."""

from __future__ import annotations

from asyncio import Future
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import msgspec

from penstock import (
    Codec,
    Consumer,
    Fields,
    MaxAge,
    MaxLen,
    Message,
    Outcome,
    Outgoing,
    Outlet,
    Producer,
    Receipt,
    Router,
    admin,
    json_codec,
)
from penstock.admin import Admin, DeadLetter
from penstock.middleware import Call, Middleware, wrap


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


router = Router()


@router.handler("orders", group="billing", concurrency=8)
async def bill(order: Order) -> str:
    return str(order.id)


@router.handler("orders", group="billing", colour="red")  # type: ignore[call-arg]
async def paint(order: Order) -> None: ...


async def timed(message: Message[Order], call: Call[Message[Order]]) -> object:
    return await call(message)


async def routing() -> None:
    assert_type(await bill(Order(1)), str)
    middleware: Middleware[Message[Order]] = timed
    await Consumer("orders", payload=Order).run(wrap(handle, [middleware]))
    async with Router(middleware=[timed]).running():
        assert_type(router.consumers[0].group, str | None)


async def sending(producer: Producer) -> None:
    assert_type(await producer.send("orders", Order(1)), Receipt)
    assert_type(await producer.enqueue("orders", b""), Future[Receipt])
    assert_type(producer.enqueue_nowait("orders", b""), Future[Receipt])
    assert_type(await producer.send_many("orders", [b"a", Order(1)]), list[Outcome])
    day = timedelta(days=1)
    await producer.send("orders", b"", timeout=day, retention=MaxAge(day), id="5-1")
    await producer.enqueue("orders", b"", timestamp=datetime.now(UTC))
    await producer.send("orders", b"", retention=5)  # type: ignore[arg-type]
    await producer.send("orders", b"", colour="red")  # type: ignore[call-arg]
    await producer.send_many("orders", [], timeout=1, retention=MaxLen(5))
    await producer.send_many("orders", [], id="5-1")  # type: ignore[call-arg]
    async for outcome in producer.send_many("orders", iter([Outgoing(b"a", key="k")])):
        assert_type(outcome, Outcome)


async def sending_to(
    producer: Producer, many: list[Order], codec: Codec[Order]
) -> None:
    orders = producer.to("orders", payload=Order, key=lambda order: str(order.id))
    assert_type(orders, Outlet[Order])
    assert_type(producer.to("orders", codec=codec), Outlet[Order])
    assert_type(producer.to("orders"), Outlet[Any])
    assert_type(await orders.send(Order(1)), Receipt)
    assert_type(await orders.enqueue(Order(1), key="k"), Future[Receipt])
    assert_type(orders.enqueue_nowait(Order(1)), Future[Receipt])
    assert_type(await orders.send_many(many), list[Outcome])
    await orders.send_many([Outgoing(Order(1), key="k"), Order(2)])
    await orders.send(b"bytes")  # type: ignore[arg-type]
    await orders.enqueue({"id": 1})  # type: ignore[arg-type]
    await orders.send_many([b"bytes"])  # type: ignore[list-item]
    producer.to("orders", payload=Order, key=lambda order: order.name)  # type: ignore[attr-defined]
    producer.to("orders", payload=Order, codec=codec)  # type: ignore[call-overload]


async def operating() -> None:
    assert_type(await admin.dead.list("orders"), list[DeadLetter])
    assert_type(await admin.dead.redrive("orders", ids=["1-1"]), int)
    async with Admin("redis://localhost") as operator:
        assert_type(await operator.dead.read("orders", "1-1"), DeadLetter | None)
        async for letter in operator.dead.each("orders", where=lambda one: one.error):
            assert_type(letter.payload, bytes | None)
