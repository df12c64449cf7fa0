"""Pydantic payloads: sent, received and checked wherever a payload type is taken."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest
from pydantic import BaseModel, Field

from penstock import (
    EARLIEST,
    ConfigurationError,
    Consumer,
    DecodeError,
    Message,
    Outgoing,
    Producer,
    Receipt,
    Retry,
    Router,
    admin,
    json_codec,
    msgpack_codec,
    replay,
)
from support.events import Events
from support.waiting import eventually, pending

SECRET = "hunter2"


class Line(BaseModel):
    sku: str


class Order(BaseModel):
    id: int
    note: str | None = None
    lines: list[Line] = []


class Refund(BaseModel):
    of: int = Field(alias="order")


@dataclasses.dataclass
class Basket:
    orders: list[Order]


class Plain:
    pass


ORDER = Order(id=7, lines=[Line(sku="a")])


@pytest.mark.parametrize("create", [json_codec, msgpack_codec])
async def test_a_model_is_received_as_it_was_sent(
    url: str, stream: str, *, create: Any
) -> None:
    codec = create(Order | Refund | Basket)
    payloads = [ORDER, Refund(order=7), Basket([ORDER])]
    async with Producer(url, codec=codec) as producer:
        await producer.to(stream, codec=codec).send(payloads[0])
        await producer.send(stream, payloads[1])
        await producer.send_many(stream, [Outgoing(payloads[2], key="k")])
    async with Consumer(stream, url=url, codec=codec, start=EARLIEST) as consumer:
        messages = [await consumer.next() for _ in payloads]
    assert [message.payload for message in messages] == payloads
    assert messages[0].headers["content-type"] == codec.content_type


async def test_a_producer_without_a_type_sends_models_and_what_holds_them(
    url: str, stream: str
) -> None:
    payloads: list[Any] = [ORDER, [ORDER], {"a": ORDER}, Basket([ORDER])]
    async with Producer(url) as producer:
        assert len(await producer.send_many(stream, payloads)) == len(payloads)
    kind: Any = Order | list[Order] | Basket | dict[str, Order]
    found = [message.payload async for message in replay(stream, payload=kind, url=url)]
    assert found == payloads


async def test_handlers_of_a_router_take_models(url: str, stream: str) -> None:
    router = Router()
    seen: list[object] = []

    @router.handler(stream, group="g", event="order")
    async def order(order: Order) -> None:
        seen.append(order)

    @router.handler(stream, group="g", event="refund", codec=msgpack_codec(Refund))
    async def refund(message: Message[Refund]) -> None:
        seen.append(message.payload)

    @router.handler(stream, group="g")
    async def other(body: Order | Basket | None) -> None:
        seen.append(body)

    @router.handler(f"{stream}.2", group="g", batch=10)
    async def batch(orders: list[Order]) -> None:
        seen.extend(orders)

    async with Producer(url) as producer:
        await producer.send(stream, ORDER, headers={"type": "order"})
        await producer.to(stream, codec=msgpack_codec(Refund)).send(
            Refund(order=7), headers={"type": "refund"}
        )
        await producer.send(stream, Basket([ORDER]))
        await producer.send(stream, None)
        await producer.send(f"{stream}.2", ORDER)

    async def all_seen() -> bool:
        return len(seen) == 5

    async with router.running(url):
        await eventually(all_seen)
    for payload in (ORDER, Refund(order=7), Basket([ORDER]), None):
        assert payload in seen
    assert seen.count(ORDER) == 2


async def test_a_transaction_sends_a_model(url: str, stream: str, redis: Any) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, ORDER)
    async with Consumer(stream, url=url, group="g", payload=Order) as consumer:
        message = await consumer.next()
        async with message.transaction() as tx:
            tx.send(f"{stream}.out", message.payload)
            tx.send(f"{stream}.out", ORDER, codec=msgpack_codec(Order))
            tx.command("RPUSH", f"{stream}.ids", message.id)
    assert await redis.lrange(f"{stream}.ids", 0, -1) == [bytes(message.id)]
    out = f"{stream}.out"
    async with Consumer(out, url=url, payload=Order, start=EARLIEST) as consumer:
        assert (await consumer.next()).payload == ORDER
    [_, packed] = [m async for m in replay(out, codec=msgpack_codec(Order), url=url)]
    assert packed.payload == ORDER


async def test_a_message_that_is_not_of_the_model_is_a_dead_letter_and_not_quoted(
    url: str,
    stream: str,
    redis: Any,
    events: Events,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = {"id": SECRET, "lines": [{"sku": SECRET}]}
    async with Producer(url) as producer:
        await producer.send(stream, bad)
        await producer.to(stream, payload=Order).send(ORDER)
    group: dict[str, Any] = {"url": url, "payload": Order}
    async with Consumer(stream, group="g", on_event=events, **group) as consumer:
        assert (await consumer.next()).payload == ORDER
    async with Consumer(stream, group="logged", **group) as consumer:
        assert (await consumer.next()).payload == ORDER
    [dead_letter, _] = await admin.dead.list(stream, url=url)
    assert dead_letter.reason == "pydantic: int_parsing - at `$.id`"
    assert await pending(redis, stream, "g") == 0
    assert len(events.named("gave_up")) == 1
    assert SECRET not in f"{events}{caplog.text}{dead_letter.reason}"
    async for message in replay(stream, payload=Order, url=url):
        with pytest.raises(DecodeError, match="int_parsing") as caught:
            _ = message.payload
        assert caught.value.__context__ is None
        break


async def test_a_redriven_dead_letter_is_a_model_again(url: str, stream: str) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, ORDER, key="k")
    group: dict[str, Any] = {"url": url, "group": "g", "payload": Order}
    async with Consumer(stream, retry=Retry(max_attempts=1), **group) as consumer:
        (await consumer.next()).reject()
    assert await admin.dead.redrive(stream, url=url) == 1
    async with Consumer(stream, **group) as consumer:
        assert (await consumer.next()).payload == ORDER


async def test_a_message_that_could_not_be_read_is_not_sent(
    url: str, stream: str, redis: Any
) -> None:
    wrong = Order.model_construct(id=SECRET)
    async with Producer(url) as producer:
        outlet = producer.to(stream, payload=Order)
        with pytest.raises(ConfigurationError) as caught:
            await outlet.send(wrong)
        refused, sent = await outlet.send_many([wrong, ORDER])
    assert SECRET not in f"{caught.value}{refused}"
    assert isinstance(refused, ConfigurationError)
    assert isinstance(sent, Receipt)
    assert await redis.xlen(stream) == 1


async def test_no_number_is_sent_that_its_consumers_could_not_read(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        for payload in (float("nan"), [1.5, float("inf")], {"a": {"b": float("nan")}}):
            with pytest.raises(ConfigurationError, match="NaN or an infinity"):
                await producer.send(stream, payload)
        await producer.to(stream, payload=list[float | None]).send([1.5, None])
        packed = producer.to(f"{stream}.2", codec=msgpack_codec(list[float]))
        await packed.send([float("inf")])
    assert await redis.xlen(stream) == 1
    codec = msgpack_codec(list[float])
    [message] = [m async for m in replay(f"{stream}.2", codec=codec, url=url)]
    assert message.payload == [float("inf")]


async def take_plain(plain: Plain) -> None: ...
async def take_message(message: Message[list[Plain]]) -> None: ...
async def take_many(orders: list[Plain]) -> None: ...


def test_a_type_that_cannot_be_decoded_is_refused_wherever_it_is_named() -> None:
    uses = [
        lambda: Consumer("a", payload=Plain),
        lambda: Consumer("a", payload=list[Plain] | None),
        lambda: Consumer("a", payload=complex),
        lambda: Producer().to("a", payload=Plain),
        lambda: replay("a", payload=Plain),
        lambda: json_codec(Plain),
        lambda: msgpack_codec(Plain),
        lambda: Router().handler("a")(take_plain),
        lambda: Router().handler("a")(take_message),
        lambda: Router().handler("a", batch=10)(take_many),
        lambda: Router().handler("a", payload=Plain)(take_plain),
    ]
    for use in uses:
        with pytest.raises(ConfigurationError, match="codec="):
            use()  # type: ignore[no-untyped-call]


async def test_a_handler_that_is_no_async_function_takes_a_model(
    url: str, stream: str
) -> None:
    router, seen = Router(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @router.handler(stream, group="g")
    def order(order: Order) -> None:
        if order == ORDER:
            loop.call_soon_threadsafe(seen.set)

    async with Producer(url) as producer:
        await producer.send(stream, ORDER)
    async with router.running(url):
        async with asyncio.timeout(20):
            await seen.wait()
