"""Never run: mypy checks that static types flow through the public API."""

from __future__ import annotations

from asyncio import Future
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, assert_type

import msgspec

from penstock import (
    ACKED,
    KEEP_ALL,
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
    Replay,
    Router,
    admin,
    after,
    json_codec,
    msgpack_codec,
    replay,
)
from penstock.admin import Admin, DeadLetter, GroupStanding, Trimmed
from penstock.middleware import Call, Middleware, wrap


class Order(msgspec.Struct):
    id: int


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: int


Pet: TypeAlias = Cat | Dog


class Hexadecimal:
    """A codec by its shape alone."""

    content_type = "text/x-hex"

    def encode(self, payload: int, /) -> bytes:
        return b"%x" % payload

    def decode(self, data: bytes, /) -> int:
        return int(data, 16)


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
        assert_type(await orders.take(10), list[Message[Order]])
        async for batch in orders.batches(10):
            assert_type(batch, list[Message[Order]])

    assert_type(Consumer("orders", codec=json_codec(Order)), Consumer[Order])
    assert_type(Consumer("orders", payload=Fields), Consumer[Fields])
    assert_type(Consumer("orders", payload=str), Consumer[str])
    assert_type(Consumer("orders", payload=dict[str, int]), Consumer[dict[str, int]])
    assert_type(Consumer("orders", codec=msgpack_codec(Order)), Consumer[Order])
    assert_type(Consumer("orders", codec=Hexadecimal()), Consumer[int])
    Consumer("orders", codec=Order)  # type: ignore[call-overload]
    Consumer("orders", payload=Order, codec=Hexadecimal())  # type: ignore[call-overload]
    Consumer("orders", payload=Order(1))  # type: ignore[call-overload]


async def unions() -> None:
    # The type of a union can't be taken from an argument, so it is named.
    pets: Consumer[Pet] = Consumer("pets", payload=Cat | Dog)
    async for message in pets:
        assert_type(message.payload, Cat | Dog)
    by_codec: Consumer[Pet] = Consumer("pets", codec=msgpack_codec(Pet))
    await by_codec.run(pet)
    await by_codec.run(handle)  # type: ignore[arg-type]
    outlet: Outlet[Pet] = Producer().to("pets", payload=Pet)
    await outlet.send(Dog(3))
    await outlet.send(Order(1))  # type: ignore[arg-type]


async def handle(message: Message[Order]) -> None:
    assert_type(message.payload.id, int)


async def pet(message: Message[Pet]) -> None:
    assert_type(message.payload, Cat | Dog)


async def handle_all(messages: list[Message[Order]]) -> None:
    assert_type(messages[0].payload, Order)


async def handle_fields(message: Message[Fields]) -> None:
    assert_type(message.payload.get(b"temp"), bytes | None)


def in_a_thread(message: Message[Order]) -> None: ...


async def running(consumer: Consumer[Order], other: Consumer[bytes]) -> None:
    await consumer.run(handle, concurrency=4, ordering="key")
    await other.run(handle)  # type: ignore[arg-type]
    await consumer.run(in_a_thread)
    await consumer.run(handle_all, batch=100)
    await consumer.run(handle_all)  # type: ignore[arg-type]
    await consumer.run(handle, batch=100)  # type: ignore[arg-type]
    await other.run(in_a_thread)  # type: ignore[arg-type]
    await other.run(handle_all, batch=100)  # type: ignore[arg-type]
    await Consumer("orders", payload=Fields).run(handle_fields)
    await consumer.run(handle_fields)  # type: ignore[arg-type]


router = Router()


@router.handler("orders", group="billing", concurrency=8)
async def bill(order: Order) -> str:
    return str(order.id)


@router.handler("orders", group="billing", colour="red")  # type: ignore[call-arg]
async def paint(order: Order) -> None: ...


async def timed(message: Message[Order], call: Call[Message[Order]]) -> object:
    return await call(message)


@router.handler("pets", group="vet", codec=msgpack_codec(Pet))
async def cure(patient: Pet) -> int:
    return 1


@router.handler("pets", group="walk", max_message_bytes=1000)
async def walk(message: Message[Dog]) -> None:
    assert_type(message.payload.tricks, int)


async def routing() -> None:
    assert_type(await cure(Dog(3)), int)
    await walk(Order(1))  # type: ignore[arg-type]
    assert_type(await bill(Order(1)), str)
    middleware: Middleware[Message[Order]] = timed
    await Consumer("orders", payload=Order).run(wrap(handle, [middleware]))
    async with Router(middleware=[timed]).running():
        assert_type(router.consumers[0].group, str | None)


async def replaying(codec: Codec[Order]) -> None:
    async for message in replay("orders"):
        assert_type(message, Message[bytes])
    async for order in replay("orders", "5-1", datetime.now(UTC), payload=Order):
        assert_type(order.payload, Order)
    async with replay("orders", after("5-1"), codec=codec, reverse=True) as history:
        assert_type(history, Replay[Order])
        assert_type(await anext(history), Message[Order])
    assert_type(replay("orders", payload=Fields), Replay[Fields])
    replay("orders", payload=Order, codec=codec)  # type: ignore[call-overload]
    replay("orders", colour="red")  # type: ignore[call-overload]


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
    numbers = producer.to("numbers", codec=Hexadecimal())
    assert_type(numbers, Outlet[int])
    await numbers.send("ff")  # type: ignore[arg-type]
    assert_type(Producer(codec=codec, max_message_bytes=1000), Producer)
    Producer(codec=Order)  # type: ignore[arg-type]


async def operating() -> None:
    [trimmed] = await admin.trim("orders", ACKED, ignore_idle=timedelta(days=1))
    assert_type(trimmed, Trimmed)
    assert_type(trimmed.held_by, GroupStanding | None)
    await admin.trim("orders", MaxLen(5), dry_run=True)
    await admin.trim("orders", KEEP_ALL)  # type: ignore[arg-type]
    assert_type(await admin.dead.list("orders"), list[DeadLetter])
    assert_type(await admin.dead.redrive("orders", ids=["1-1"]), int)
    async with Admin("redis://localhost") as operator:
        assert_type(await operator.dead.read("orders", "1-1"), DeadLetter | None)
        async for letter in operator.dead.each("orders", where=lambda one: one.error):
            assert_type(letter.payload, bytes | None)
