"""Outlets, `producer.to(...)`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock import (
    ConfigurationError,
    Outgoing,
    Producer,
    Receipt,
    RoundRobin,
    msgpack_codec,
)


class Order(msgspec.Struct):
    id: int
    customer: str = "c"


async def test_an_outlet_sends_to_its_stream_in_all_ways(
    url: str, stream: str, redis: Any
) -> None:
    producer = Producer(url)
    orders = producer.to(stream, payload=Order)
    async with producer:
        receipt = await orders.send(Order(1), headers={"h": "v"})
        assert (await (await orders.enqueue(Order(2), key="k"))).stream == stream
        assert (await orders.enqueue_nowait(Order(3))).id > receipt.id
        [outcome] = await orders.send_many([Outgoing(Order(4), key="k")])
        assert isinstance(outcome, Receipt)
    typed = {b"content-type": b"application/json"}
    assert [fields for _, fields in await redis.xrange(stream)] == [
        {b"msg": b'{"id":1,"customer":"c"}', **typed, b"h": b"v"},
        {b"msg": b'{"id":2,"customer":"c"}', b"key": b"k", **typed},
        {b"msg": b'{"id":3,"customer":"c"}', **typed},
        {b"msg": b'{"id":4,"customer":"c"}', b"key": b"k", **typed},
    ]


async def test_an_outlet_may_have_its_own_codec(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        await producer.to(stream, codec=msgpack_codec(Order)).send(Order(1))
        await producer.to(stream).send(b"as the producer")
        await producer.to(stream, payload=str).send("text")
        with pytest.raises(ConfigurationError, match="bytes"):
            await producer.to(stream, payload=str).send(b"bytes")  # type: ignore[arg-type]
    [(_, packed), (_, raw), (_, text)] = await redis.xrange(stream)
    assert msgspec.msgpack.decode(packed[b"msg"], type=Order) == Order(1)
    assert raw[b"msg"] == b"as the producer"
    assert text[b"msg"] == b"text"


async def test_an_outlet_takes_the_key_from_the_payload(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        orders = producer.to(stream, payload=Order, key=lambda order: order.customer)
        await orders.send(Order(1, "ada"))
        await orders.send(Order(2, "bob"), key="chosen")
    keys = [fields[b"key"] for _, fields in await redis.xrange(stream)]
    assert keys == [b"ada", b"chosen"]


async def test_a_key_function_that_raises_fails_its_message_only(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        outlet = producer.to(stream, key=lambda payload: str(payload["id"]))
        first, second, third = await outlet.send_many([{"id": 1}, {}, {"id": 3}])
    assert isinstance(first, Receipt)
    assert isinstance(third, Receipt)
    assert isinstance(second, ConfigurationError)
    assert "KeyError" in str(second)
    assert await redis.xlen(stream) == 2


async def test_outlets_share_order_shards_and_buffer(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, sharder=RoundRobin(2), max_messages=3) as producer:
        one, two = producer.to(stream), producer.to(stream)
        for number in range(0, 100, 2):
            await one.enqueue(b"%d" % number)
            await two.enqueue(b"%d" % (number + 1))
    for number in (0, 1):
        entries = await redis.xrange(f"{stream}:{number}")
        assert [int(f[b"msg"]) for _, f in entries] == list(range(number, 100, 2))


async def test_an_outlet_outlives_closing(url: str, stream: str, redis: Any) -> None:
    producer = Producer(url)
    outlet = producer.to(stream)
    for _ in range(2):
        async with producer:
            await outlet.send(b"x")
    assert await redis.xlen(stream) == 2
    assert repr(outlet) == f"<Outlet to {stream!r}>"


@pytest.mark.parametrize(
    ("stream", "options"),
    [
        ("", {}),
        ("\ud800", {}),
        ("orders", {"payload": Order, "codec": msgpack_codec(Order)}),
        ("orders", {"payload": 5}),
    ],
)
def test_an_outlet_with_invalid_arguments_is_refused(
    stream: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        Producer("redis://localhost").to(stream, **options)
