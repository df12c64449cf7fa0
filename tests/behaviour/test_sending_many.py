"""`send_many`."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import pytest

from penstock import (
    ClosedError,
    ConfigurationError,
    Outgoing,
    Producer,
    Receipt,
    RoundRobin,
    SendFailed,
    SendUnknown,
    UsageError,
)
from support.proxy import proxy
from support.waiting import eventually


async def bodies(redis: Any, key: str) -> list[int]:
    """Return the decimal payloads of a stream."""
    return [int(fields[b"msg"]) for _, fields in await redis.xrange(key)]


async def test_receipts_are_in_the_order_of_the_messages(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, max_messages=100, max_batch=7) as producer:
        outcomes = await producer.send_many(stream, (b"%d" % n for n in range(1000)))
    entries = await redis.xrange(stream)
    assert [int(fields[b"msg"]) for _, fields in entries] == list(range(1000))
    receipts = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
    assert [bytes(r.id) for r in receipts] == [id_ for id_, _ in entries]


async def test_a_message_may_have_a_key_and_headers(
    url: str, stream: str, redis: Any
) -> None:
    messages = [b"a", Outgoing("b", key="k"), Outgoing(b"c", headers={"h": "v"})]
    async with Producer(url) as producer:
        await producer.send_many(stream, messages)
    assert [fields for _, fields in await redis.xrange(stream)] == [
        {b"msg": b"a"},
        {b"msg": b"b", b"key": b"k"},
        {b"msg": b"c", b"h": b"v"},
    ]


async def test_async_iterables_are_accepted(url: str, stream: str, redis: Any) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d" % number
            await asyncio.sleep(0)

    async with Producer(url) as producer:
        assert len(await producer.send_many(stream, source())) == 100
    assert await bodies(redis, stream) == list(range(100))


async def test_an_empty_list_has_no_outcomes(url: str, stream: str) -> None:
    async with Producer(url) as producer:
        assert await producer.send_many(stream, []) == []


async def test_a_failure_is_in_the_place_of_its_message(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(f"{stream}:1", "no stream")
    messages = [b"0", b"1", object(), Outgoing(b"0", headers={"msg": "x"}), b"0"]
    sharder = lambda _stream, _key, payload: int(payload)  # noqa: E731
    async with Producer(url, sharder=sharder) as producer:
        outcomes = await producer.send_many(stream, messages)
    assert [type(outcome) for outcome in outcomes] == [
        Receipt,
        SendFailed,
        ConfigurationError,
        ConfigurationError,
        Receipt,
    ]
    assert await bodies(redis, f"{stream}:0") == [0, 0]


async def test_a_codec_that_fails_fails_its_message_only(
    url: str, stream: str, redis: Any
) -> None:
    class Picky:
        def encode(self, payload: int, /) -> bytes:
            return b"%d" % (100 // payload)

        def decode(self, data: bytes, /) -> int:
            return int(data)

    async with Producer(url, codec=Picky()) as producer:
        outcomes = await producer.send_many(stream, [1, 0, 2])
    assert isinstance(outcomes[1], ConfigurationError)
    assert "ZeroDivisionError" in str(outcomes[1])
    assert await bodies(redis, stream) == [100, 50]


async def test_messages_in_flight_are_unknown_and_the_others_are_sent(
    url: str, stream: str, redis: Any
) -> None:
    async with proxy(url) as between:
        async with Producer(between.url, max_batch=10, max_in_flight=1) as producer:
            between.cut_on = b"XADD"
            between.cut_next_reply = True
            outcomes = await producer.send_many(stream, (b"%d" % n for n in range(50)))
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [SendUnknown] * 10 + [Receipt] * 40
    assert await bodies(redis, stream) == list(range(50))


async def test_an_endless_iterable_is_sent_in_bounded_memory(
    url: str, stream: str, redis: Any
) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for taken in itertools.count(1):
            yield b"%d" % taken

    async with Producer(url, max_messages=50) as producer:
        given = 0
        async for outcome in producer.send_many(stream, endless()):
            assert isinstance(outcome, Receipt)
            given += 1
            assert taken - given <= 51
            if given == 5000:
                break
    assert await bodies(redis, stream) == list(range(1, taken + 1))


async def test_no_more_messages_are_taken_than_the_buffer_has_space_for(
    url: str, stream: str
) -> None:
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for taken in range(1, 1000):  # noqa: B007 - used below
            yield b"x"

    async def full() -> bool:
        return taken >= 11

    async with proxy(url) as between:
        async with Producer(
            between.url, max_messages=10, close_timeout=0.1
        ) as producer:
            between.drop_replies = True
            task = asyncio.ensure_future(producer.send_many(stream, source()))
            await eventually(full)
            for _ in range(20):
                await asyncio.sleep(0)
            assert taken == 11
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_an_exception_of_the_iterable_is_raised_and_its_messages_before_are_sent(
    url: str, stream: str, redis: Any
) -> None:
    def source() -> Iterator[bytes]:
        yield b"1"
        yield b"2"
        raise LookupError

    async with Producer(url) as producer:
        with pytest.raises(LookupError):
            await producer.send_many(stream, source())
    assert await bodies(redis, stream) == [1, 2]


async def test_a_closed_producer_and_a_wrong_stream_fail_the_whole_call(
    url: str, stream: str
) -> None:
    producer = Producer(url)
    with pytest.raises(ClosedError):
        await producer.send_many(stream, [b"x"])
    async with producer:
        with pytest.raises(ConfigurationError, match="not a stream name"):
            await producer.send_many("", [b"x"])


async def test_closing_ends_a_call_that_waits_for_buffer_space(
    url: str, stream: str
) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_messages=2, close_timeout=0.05
        ) as producer:
            between.drop_replies = True
            task = asyncio.ensure_future(
                producer.send_many(stream, itertools.repeat(b"x"))
            )
            await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await task


@pytest.mark.parametrize("messages", [b"bytes", "text", {"a": 1}, 5, None])
def test_messages_must_be_an_iterable_of_messages(messages: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a list"):
        Producer("redis://localhost").send_many("orders", messages)


async def test_a_call_sends_its_messages_once(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        outcomes = producer.send_many(stream, [b"1"])
        await outcomes
        with pytest.raises(UsageError, match="already been sent"):
            await outcomes
    assert await bodies(redis, stream) == [1]


def test_a_call_that_is_never_awaited_causes_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="nothing was sent"):
        Producer("redis://localhost").send_many("orders", [b"1"])


def test_a_message_s_repr_shows_neither_payload_nor_key_nor_headers() -> None:
    message = Outgoing(b"secret", key="k", headers={"a": "secret"})
    assert repr(message) == "Outgoing(id=None, timestamp=None)"


def raising(name: str) -> Any:
    """Return a sharder, or a function for keys, that raises for one payload."""

    def choose(*args: Any) -> Any:
        if args[-1] == b"bad":
            raise ValueError("a secret")
        return 0 if name == "sharder" else "k"

    return choose


@pytest.mark.parametrize("name", ["sharder", "key"])
async def test_a_sharder_or_key_that_raises_fails_its_message_only(
    url: str, stream: str, name: str
) -> None:
    options = {"sharder": raising(name)} if name == "sharder" else {}
    key = raising(name) if name == "key" else None
    async with Producer(url, **options) as producer:
        outlet = producer.to(stream, payload=bytes, key=key)
        outcomes = await outlet.send_many([b"1", b"bad", b"2"])
        assert [type(one) for one in outcomes] == [Receipt, ConfigurationError, Receipt]
        assert "ValueError" in str(outcomes[1])
        assert "secret" not in str(outcomes[1])
        # Calls for one message raise the same.
        with pytest.raises(ConfigurationError, match="ValueError"):
            await outlet.send(b"bad")
        with pytest.raises(ConfigurationError, match="ValueError"):
            outlet.enqueue_nowait(b"bad")


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "no id"},
        {"id": 5},
        {"timestamp": "yesterday"},
        {"timestamp": -1},
        {"timestamp": 1.5},
        {"timestamp": datetime(2024, 1, 1)},  # noqa: DTZ001 - which is refused
        {"id": "1-1", "timestamp": 1},
        {"key": 5},
        {"headers": {"msg": "reserved"}},
        {"headers": {1: "x"}},
        {"headers": ["x"]},
        {"headers": 5},
    ],
    ids=str,
)
async def test_options_of_a_message_that_are_invalid_fail_that_message_only(
    url: str, stream: str, redis: Any, bad: dict[str, Any]
) -> None:
    async with Producer(url) as producer:
        messages = [b"1", Outgoing(b"2", **bad), b"3"]
        outcomes = await producer.send_many(stream, messages)
    assert [type(one) for one in outcomes] == [Receipt, ConfigurationError, Receipt]
    assert await bodies(redis, stream) == [1, 3]


@pytest.mark.parametrize("sharder", [None, RoundRobin(2)])
async def test_a_producer_of_many_streams_remembers_a_bounded_number_of_them(
    url: str, stream: str, sharder: RoundRobin | None
) -> None:
    async with Producer(url, sharder=sharder, max_batch=2000) as producer:
        for first in range(0, 12_000, 2000):
            names = [f"{stream}-{n}" for n in range(first, first + 2000)]
            sends = [await producer.enqueue(name, b"x") for name in names]
            await asyncio.gather(*sends)
        shards = producer._sender._shards
        assert 0 < len(shards.single) + len(shards._numbered) <= 4096


def test_turns_are_even_over_more_streams_than_are_remembered() -> None:
    sharder, counts = RoundRobin(3), Counter[int]()
    for _ in range(30):
        counts.update(sharder(f"{n}", None, b"") for n in range(5000))
    assert len(sharder._next) <= 4096
    assert all(abs(counts[n] - 50_000) < 5_000 for n in range(3))
