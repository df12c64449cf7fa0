"""`replay` yields the messages of a stream: all of them, once, in order, and ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from math import inf
from typing import Any

import msgspec
import pytest

from connection.fakes import Request, answering, fake
from penstock import (
    EARLIEST,
    KEEP_ALL,
    LATEST,
    AccessError,
    CommandError,
    ConfigurationError,
    ConnectError,
    DecodeError,
    EntryId,
    Fields,
    Message,
    Producer,
    UsageError,
    after,
    json_codec,
    replay,
)
from penstock.replay import Replay
from support.events import Events
from support.proxy import proxy
from support.server import with_login
from support.waiting import eventually, record_shards, send, spread

# Invalid: without a time zone it does not name a moment.
NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001


class Order(msgspec.Struct):
    id: int


async def add(redis: Any, key: str, *ids: str) -> None:
    for id_ in ids:
        await redis.xadd(key, {"msg": id_}, id=id_)


async def ids(messages: AsyncIterator[Message[Any]] | Replay[Any]) -> list[str]:
    return [str(message.id) async for message in messages]


async def numbers(messages: Replay[bytes]) -> list[int]:
    return [int(message.payload) async for message in messages]


# -- messages -------------------------------------------------------------------------


async def test_all_messages_come_once_and_in_order(url: str, stream: str) -> None:
    await send(url, stream, *range(2500))
    assert await numbers(replay(stream, url=url)) == list(range(2500))
    assert await numbers(replay(stream, url=url, page=7)) == list(range(2500))


async def test_messages_have_the_same_attributes_as_consumed_ones(
    url: str, stream: str
) -> None:
    async with Producer(url, shards=1, retention=KEEP_ALL) as producer:
        sent = await producer.send(stream, b"a", key="k", headers={"h": "v"})
    [message] = [message async for message in replay(stream, url=url)]
    assert (message.payload, message.key, dict(message.headers)) == (
        b"a",
        "k",
        {"h": "v"},
    )
    assert (message.id, message.stream, message.shard) == (sent.id, stream, 0)
    assert message.timestamp == sent.timestamp


@pytest.mark.parametrize("page", [1, 5, 1000])
async def test_shards_are_merged_in_the_order_of_ids(
    url: str, stream: str, redis: Any, page: int
) -> None:
    await record_shards(redis, stream, 3)
    await add(redis, f"{stream}:0", "1-0", "4-0", "4-2", "9-0", "9-1")
    await add(redis, f"{stream}:1", "1-0", "2-0", "4-1", "9-0")
    await add(redis, f"{stream}:2", "1-0", "18446744073709551615-1")
    await add(redis, stream, "4-0")
    got = [(str(m.id), m.shard) async for m in replay(stream, url=url, page=page)]
    assert got == [
        ("1-0", 0),
        ("1-0", 1),
        ("1-0", 2),
        ("2-0", 1),
        ("4-0", 0),
        ("4-0", 0),
        ("4-1", 1),
        ("4-2", 0),
        ("9-0", 0),
        ("9-0", 1),
        ("9-1", 0),
        ("18446744073709551615-1", 2),
    ]
    back = replay(stream, url=url, page=page, reverse=True)
    assert [(str(m.id), m.shard) async for m in back] == got[::-1]
    one = replay(stream, url=url, shards=[1])
    assert await ids(one) == ["1-0", "2-0", "4-1", "9-0"]
    two = replay(stream, url=url, shards=2, start="9-0")
    assert await ids(two) == ["9-0", "9-0", "9-1"]


async def test_many_messages_of_several_shards_come_in_order(
    url: str, stream: str
) -> None:
    await spread(url, stream, *range(3000))
    got = [(m.id, m.shard) async for m in replay(stream, url=url, page=100)]
    assert len(got) == 3000
    assert got == sorted(got)


async def test_both_ends_are_included(url: str, stream: str, redis: Any) -> None:
    await add(redis, stream, "1000-0", "1000-5", "1001-0", "1002-0", "1002-7", "1003-0")

    async def between(start: Any = EARLIEST, end: Any = LATEST) -> list[str]:
        forth = await ids(replay(stream, start, end, url=url))
        back = await ids(replay(stream, start, end, url=url, reverse=True))
        assert back == forth[::-1]
        return forth

    one = datetime.fromtimestamp(1.001, UTC)
    two = datetime.fromtimestamp(1.002, UTC)
    assert await between("1000-5", "1002-0") == ["1000-5", "1001-0", "1002-0"]
    assert await between(after("1000-5"), EntryId(1001)) == ["1001-0"]
    assert await between(one, two) == ["1001-0", "1002-0", "1002-7"]
    assert await between(end=one) == ["1000-0", "1000-5", "1001-0"]
    assert len(await between("earliest", "latest")) == 6
    assert await between(start=two, end=datetime.now(UTC)) == [
        "1002-0",
        "1002-7",
        "1003-0",
    ]
    assert await between("5000-0") == []
    assert await between("1002-0", "1001-0") == []


async def test_a_replay_ends_even_if_more_is_sent_meanwhile(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(100))
    got = []
    async with Producer(url, retention=KEEP_ALL) as producer:
        async for message in replay(stream, url=url, page=10):
            got.append(int(message.payload))
            await producer.send(stream, b"-1")
    assert got == list(range(100))


async def test_messages_that_are_trimmed_meanwhile_are_left_out(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(200))
    got = []
    async for message in replay(stream, url=url, page=10):
        got.append(int(message.payload))
        if len(got) == 1:
            [*_, (low, _)] = await redis.xrange(stream, count=151)
            await redis.xtrim(stream, minid=low, approximate=False)
    # Two pages had been read or were in flight.
    assert got[-50:] == list(range(150, 200))
    assert got[:-50] == list(range(len(got) - 50))
    assert len(got) <= 70


async def test_a_stream_that_does_not_exist_is_like_an_empty_one(
    url: str, stream: str
) -> None:
    assert await ids(replay(stream, url=url)) == []
    assert await ids(replay(stream, url=url, shards=3, reverse=True)) == []


# -- types ----------------------------------------------------------------------------


async def test_payloads_are_decoded_and_an_undecodable_one_does_not_end_the_replay(
    url: str, stream: str, redis: Any
) -> None:
    await redis.xadd(stream, {"msg": '{"id": 1}'})
    await redis.xadd(stream, {"msg": '{"id": "SECRET"}'}, id="99999999999999-5")
    await redis.xadd(stream, {"other": "fields"})
    await redis.xadd(stream, {"msg": '{"id": 4}'})
    for messages in (
        replay(stream, url=url, payload=Order),
        replay(stream, url=url, codec=json_codec(Order)),
    ):
        good, bad = [], []
        async for message in messages:
            try:
                good.append(message.payload.id)
            except DecodeError as error:
                bad.append(error)
        assert good == [1, 4]
        assert [error.stream for error in bad] == [stream] * 2
        assert bad[0].id == "99999999999999-5"
        assert "SECRET" not in str(bad[0])
        assert "msg" in bad[1].reason
    whole = [m.payload async for m in replay(stream, url=url, payload=Fields)]
    assert whole[2] == Fields([(b"other", b"fields")])


async def test_replayed_messages_can_not_be_acknowledged(url: str, stream: str) -> None:
    await send(url, stream, 1)
    [message] = [message async for message in replay(stream, url=url)]
    for outcome in (message.ack, message.nack, message.reject):
        with pytest.raises(UsageError, match="replay has nothing to acknowledge"):
            outcome()
    assert (message.attempt, message.lost, message.lease_left()) == (1, False, inf)
    assert stream in repr(message)


# -- outages --------------------------------------------------------------------------


async def test_lost_connections_lose_and_repeat_no_message(
    url: str, stream: str, events: Events
) -> None:
    await spread(url, stream, *range(600), shards=2)
    wanted = [message.payload async for message in replay(stream, url=url)]
    got = []
    async with proxy(url) as between:
        async for message in replay(stream, url=between.url, page=40, on_event=events):
            got.append(message.payload)
            if len(got) in {1, 300}:
                between.cut()
            if len(got) in {100, 450}:
                between.cut_on, between.cut_next_reply = b"XRANGE", True
    assert between.cuts == 2
    assert got == wanted
    assert len(got) == 600
    assert len(events.named("reconnected")) >= 3


async def test_reads_that_are_refused_for_a_while_are_repeated(
    events: Events,
) -> None:
    asked = []

    def answer(request: Request) -> bytes:
        asked.append(request[0])
        match request[0]:
            case b"CLIENT":
                return b":7\r\n"
            case b"XREVRANGE":
                return b"*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$3\r\nmsg\r\n$1\r\na\r\n"
            case b"XRANGE" if asked.count(b"XRANGE") == 1:
                return b"-LOADING it loads\r\n"
        return b"*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$3\r\nmsg\r\n$1\r\na\r\n"

    async with fake(answering(answer)) as server:
        got = replay("s", url=server.url, shards=[0], on_event=events)
        assert await ids(got) == ["1-1"]
    [event] = events.named("read_refused")
    assert "LOADING" in str(event)


async def test_lasting_refusals_are_raised(url: str, stream: str, redis: Any) -> None:
    await send(url, stream, *range(100))
    user = ["on", ">pw", f"~{stream}", "-@all", "+@connection", "+xrevrange"]
    await redis.execute_command("ACL", "SETUSER", stream, *user, "+xrange")
    login = with_login(url, stream, "pw")
    try:
        # This user may not discover shards, so the key with the stream's name is read.
        assert len(await ids(replay(stream, url=login))) == 100
        await redis.execute_command("ACL", "SETUSER", stream, "-xrange")
        with pytest.raises(AccessError):
            await ids(replay(stream, url=login))
    finally:
        await redis.execute_command("ACL", "DELUSER", stream)
    await redis.set(f"{stream}:0", "text")
    with pytest.raises(CommandError, match=f"{stream}:0"):
        await ids(replay(stream, url=url, shards=[0]))
    with pytest.raises(ConnectError):
        await ids(replay(stream, url="redis://127.0.0.1:1"))


# -- ending early ---------------------------------------------------------------------


async def test_ending_early_leaves_nothing_behind(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(500))
    before = len(await redis.client_list())

    async def back_to_normal() -> bool:
        return len(await redis.client_list()) == before

    async with replay(stream, url=url, page=5) as messages:
        async for message in messages:
            assert message.payload == b"0"
            break
        # It continues where it stopped.
        assert (await anext(messages)).payload == b"1"
    await eventually(back_to_normal)
    with pytest.raises(StopAsyncIteration):
        await anext(messages)

    async for _ in replay(stream, url=url, page=5):
        break
    await eventually(back_to_normal)

    with pytest.raises(ZeroDivisionError):
        async with replay(stream, url=url) as messages:
            async for message in messages:
                int(message.payload) // 0
    await eventually(back_to_normal)

    reading = asyncio.ensure_future(forever(replay(stream, url=url, page=5)))
    await eventually(lambda: has_more_clients(redis, before))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    del reading
    await eventually(back_to_normal)
    # Never started.
    replay(stream, url=url)
    await replay(stream, url=url).aclose()
    gc.collect()
    assert len(asyncio.all_tasks()) == 1


async def forever(messages: Replay[bytes]) -> None:
    async for _ in messages:
        await asyncio.sleep(3600)


async def has_more_clients(redis: Any, before: int) -> bool:
    return len(await redis.client_list()) > before


# -- invalid arguments ----------------------------------------------------------------


def test_invalid_arguments_are_refused_at_once() -> None:
    wrong: list[dict[str, Any]] = [
        {"start": LATEST},
        {"end": EARLIEST},
        {"start": "x"},
        {"end": 5},
        {"start": NAIVE},
        {"page": 0},
        {"shards": []},
        {"payload": Order, "codec": json_codec(Order)},
        {"payload": object()},
    ]
    for options in wrong:
        with pytest.raises(ConfigurationError):
            replay("s", **options)
    with pytest.raises(ConfigurationError):
        replay("")


def test_the_repr_of_a_replay_names_the_stream() -> None:
    assert repr(replay("orders")) == "<Replay of 'orders'>"
