"""Typed payloads: types of msgspec are sent and received, and checked on reading."""

from __future__ import annotations

import dataclasses
import enum
import pickle
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest

from penstock import (
    DROP,
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    Codec,
    ConfigurationError,
    Consumer,
    Fields,
    Outgoing,
    PayloadError,
    Producer,
    Receipt,
    admin,
    json_codec,
    msgpack_codec,
)
from penstock.events import log_event
from support.events import Events
from support.waiting import options, pending, read

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


class Order(msgspec.Struct):
    id: int
    note: str = ""


class Item(msgspec.Struct):
    price: int


class Basket(msgspec.Struct):
    items: list[Item]


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: int


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Place(NamedTuple):
    x: int
    y: int


class Options(TypedDict):
    loud: bool


PAYLOADS: list[tuple[Any, Any]] = [
    (bytes, b"\x00\xff"),
    (str, "für dich"),
    (int, -(2**63)),
    (float, 1.5),
    (bool, True),
    (None, None),
    (list[int], [1, 2]),
    (dict[str, float], {"a": 0.5}),
    (set[int], {1, 2}),
    (tuple[int, str], (1, "a")),
    (Order, Order(7, "x")),
    (Point, Point(1, 2.5)),
    (Place, Place(1, 2)),
    (Options, {"loud": True}),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (datetime, datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
    (date, date(2026, 3, 1)),
    (timedelta, timedelta(seconds=90)),
    (Decimal, Decimal("12.30")),
    (UUID, UUID(int=7)),
    (Cat | Dog, Dog(3)),
    (Page[Order], Page([Order(1)])),
    (Any, {"a": [None, 1]}),
]


def name(value: Any) -> str:
    return type(value).__name__


@pytest.mark.parametrize(("kind", "payload"), PAYLOADS, ids=name)
async def test_a_payload_of_any_type_of_msgspec_is_received_as_it_was_sent(
    url: str, stream: str, *, kind: Any, payload: Any
) -> None:
    ways: list[dict[str, Any]] = [{"payload": kind}]
    if kind not in {bytes, str}:
        ways += [{"codec": json_codec(kind)}, {"codec": msgpack_codec(kind)}]
    for number, way in enumerate(ways):
        name = f"{stream}.{number}"
        async with Producer(url) as producer:
            await producer.to(name, **way).send(payload)
        async with Consumer(
            name, url=url, mode=REALTIME, start=EARLIEST, **way
        ) as consumer:
            got = (await consumer.next()).payload
        assert got == payload
        assert type(got) is type(payload)


async def test_bytes_and_text_are_sent_as_they_are_and_other_payloads_as_json(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        for payload in (b"\x00\xff", bytearray(b"a"), "für", Order(1), [1], None):
            await producer.send(stream, payload)
    typed = {b"content-type": b"application/json"}
    assert [fields for _, fields in await redis.xrange(stream)] == [
        {b"msg": b"\x00\xff"},
        {b"msg": b"a"},
        {b"msg": "für".encode()},
        {b"msg": b'{"id":1,"note":""}', **typed},
        {b"msg": b"[1]", **typed},
        {b"msg": b"null", **typed},
    ]


class Celsius:
    """A codec that has only the methods, neither a base class nor a content type."""

    def encode(self, payload: float, /) -> bytes:
        return f"{payload:.1f}".encode()

    def decode(self, data: bytes, /) -> float:
        return float(data)


async def test_any_object_with_the_methods_of_a_codec_is_one(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, codec=Celsius()) as producer:
        await producer.send(stream, 21.04)
    [(_, fields)] = await redis.xrange(stream)
    assert fields == {b"msg": b"21.0"}
    async with Consumer(stream, url=url, codec=Celsius(), start=EARLIEST) as consumer:
        assert (await consumer.next()).payload == 21.0


# -- content types -----------------------------------------------------------------


async def dead(url: str, stream: str) -> list[str]:
    """Return the reasons of a stream's dead letters."""
    return [
        dead_letter.reason for dead_letter in await admin.dead.list(stream, url=url)
    ]


async def test_messages_of_another_content_type_are_dead_lettered(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async with Producer(url, codec=msgpack_codec(int)) as producer:
        await producer.send(stream, 7, key="k", headers={"h": "v"})
    async with Producer(url) as producer:
        await producer.send(stream, 8)
    async with Consumer(
        stream, url=url, group="g", payload=int, on_event=events
    ) as consumer:
        # 7 as MessagePack is not valid JSON; but 8 as JSON would be 56 in MessagePack.
        assert (await consumer.next(timeout=5)).payload == 8  # type: ignore[union-attr]
    reason = (
        "its content type is application/vnd.msgpack, but the codec reads "
        "application/json"
    )
    assert await dead(url, stream) == [reason]
    [reported] = events.named("gave_up")
    assert reported.facts["reason"] == f"DecodeError: {reason}"
    assert await pending(redis, stream, "g") == 0


async def test_foreign_entries_without_a_content_type_are_read(
    url: str, stream: str, redis: Any
) -> None:
    await redis.xadd(stream, {"msg": b'{"id":1}'})
    await redis.xadd(stream, {"msg": b'{"id":2}', "key": "k"})
    await redis.xadd(stream, {"h": "v", "msg": b'{"id":3}'})
    # As other programs may write it.
    kind = "Application/JSON; charset=utf-8"
    await redis.xadd(stream, {"content-type": kind, "msg": b'{"id":4}'})
    async with Consumer(stream, url=url, payload=Order, start=EARLIEST) as consumer:
        assert [m.payload.id for m in await read(consumer, 4)] == [1, 2, 3, 4]


async def test_the_content_type_of_bytes_and_text_can_be_given_in_the_headers(
    url: str, stream: str
) -> None:
    xml = {"content-type": "text/xml"}
    async with Producer(url) as producer:
        await producer.send(stream, b"<a/>", headers=xml)
        await producer.send(stream, "<b/>", headers=xml)
        await producer.send(stream, [1], headers={"content-type": "application/json"})
        with pytest.raises(ConfigurationError, match="leave the header out"):
            await producer.send(stream, [1], headers=xml)
        many = producer.send_many(stream, [Outgoing([1], headers=xml), [2]])
        refused, sent = await many
        assert isinstance(refused, ConfigurationError)
        assert isinstance(sent, Receipt)
    async with Consumer(stream, url=url, start=EARLIEST) as consumer:
        messages = await read(consumer, 4)
    kinds = [message.headers["content-type"] for message in messages]
    assert kinds == ["text/xml", "text/xml", "application/json", "application/json"]
    # A received message can be forwarded unchanged.
    async with Producer(url) as producer:
        await producer.send(stream, messages[2].payload, headers=messages[2].headers)


async def test_a_redriven_dead_letter_keeps_its_content_type(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, Order(7), key="k", headers={"h": "v"})
    group: dict[str, Any] = {"url": url, "group": "g"}
    async with Consumer(stream, codec=msgpack_codec(Order), **group) as consumer:
        assert await consumer.take(1, timeout=0.3) == []
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert dict(dead_letter.headers) == {"content-type": "application/json", "h": "v"}
    [(_, before)] = await redis.xrange(stream)
    assert await admin.dead.redrive(stream, url=url) == 1
    [_, (_, after)] = await redis.xrange(stream)
    assert after == before
    async with Consumer(stream, payload=Order, **group) as consumer:
        message = await consumer.next()
        assert message.payload == Order(7)
        assert dict(message.headers) == dict(dead_letter.headers)


# -- payloads that can't be decoded ------------------------------------------------


class Picky:
    """A codec that raises a given error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def encode(self, payload: object, /) -> bytes:
        raise self.error

    def decode(self, data: bytes, /) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("reads", "body", "reason"),
    [
        (
            {"payload": Basket},
            b'{"items":[{"price":1},{"price":"hunter2"}]}',
            "Expected `int`, got `str` - at `$.items[1].price`",
        ),
        ({"payload": Colour}, b'"hunter2"', "Invalid enum value"),
        (
            {"codec": Picky(PayloadError("field 3 is missing"))},
            b"hunter2",
            "field 3 is missing",
        ),
        (
            {"codec": Picky(ValueError("hunter2"))},
            b"hunter2",
            "the codec raised ValueError",
        ),
    ],
    ids=name,
)
async def test_the_reason_names_the_place_of_the_error_and_quotes_nothing(
    url: str,
    stream: str,
    events: Events,
    caplog: pytest.LogCaptureFixture,
    *,
    reads: dict[str, Any],
    body: bytes,
    reason: str,
) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, body)
    for mode in (REALTIME, LOAD_BALANCED):
        for number, on_event in enumerate((events, log_event)):
            given = {**options(mode), **reads, "on_event": on_event}
            if mode is LOAD_BALANCED:
                given["group"] = f"g{number}"
            async with Consumer(stream, url=url, **given) as consumer:
                assert await consumer.take(1, timeout=0.2) == []
    assert await dead(url, stream) == [reason, reason]
    reported = [
        *map(repr, events),
        *map(str, events),
        caplog.text,
        *await dead(url, stream),
    ]
    assert "hunter2" not in "".join(reported)
    failures = [*events.named("undecodable"), *events.named("gave_up")]
    assert {event.facts["reason"] for event in failures} == {
        reason,
        f"DecodeError: {reason}",
    }


BOMBS = [
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"9" * 1_000_000,
    b"1e" + b"9" * 100_000,
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b"\xff\xfe",
    b"\x81" * 100_000,
    b"\x91" * 100_000,
    msgspec.msgpack.encode(list(range(100)))[:-1],
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"",
]


@pytest.mark.parametrize("create", [json_codec, msgpack_codec])
async def test_no_malicious_payload_takes_long_or_ends_the_process(
    url: str, stream: str, redis: Any, *, create: Any
) -> None:
    for bomb in BOMBS:
        await redis.xadd(stream, {"msg": bomb})
    await redis.xadd(stream, {"msg": create(int).encode(7)})
    start = time.process_time()
    async with Consumer(
        stream, url=url, group="g", codec=create(Any), dead_letters=DROP
    ) as consumer:
        last: Any = None
        while last != 7:
            last = (await consumer.next()).payload
        assert consumer.statistics().undecodable >= 8
    assert time.process_time() - start < 3.0


class Canary:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_an_extension_type_of_messagepack_is_decoded_as_bytes_with_a_number() -> None:
    """No object is created from it, whatever it means elsewhere."""
    codec = msgpack_codec(Any)
    for code in (0, 1, 42, 127, -2, -128):
        body = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, pickle.dumps(Path())))
        assert isinstance(codec.decode(body), msgspec.msgpack.Ext)
    with pytest.raises(msgspec.DecodeError):
        msgpack_codec(dict[str, int]).decode(body)


async def test_a_pickle_is_never_loaded(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    path = tmp_path / "canary"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        body = pickle.dumps(Canary(path), protocol)
        await redis.xadd(stream, {"msg": body, "key": body, "h": body})
    reads: list[dict[str, Any]] = [
        {"payload": bytes},
        {"payload": str},
        {"payload": Fields},
        {"payload": Any},
        {"codec": msgpack_codec(Any)},
    ]
    for way in reads:
        async with Consumer(
            stream, url=url, group=f"g{reads.index(way)}", **way
        ) as consumer:
            for message in await consumer.take(100, timeout=0.2):
                _ = message.payload, message.key, message.headers
    assert not path.exists()
    pickle.loads(body)  # noqa: S301 - to check that it would
    assert path.exists()


def test_a_codec_is_checked_when_its_consumer_or_producer_is_created() -> None:
    class Wrong(Celsius):
        content_type = "celsius"

    codec: Codec[float] = Wrong()
    for create in (
        lambda: Consumer("a", codec=codec),
        lambda: Producer(codec=codec),
        lambda: Producer().to("a", codec=codec),
    ):
        with pytest.raises(ConfigurationError, match="not a media type"):
            create()
