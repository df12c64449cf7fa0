"""Shard records: a stream's record says how many shards it has, to both sides."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import (
    DISCOVER,
    LOAD_BALANCED,
    CommandError,
    ConfigurationError,
    Consumer,
    KeyHash,
    Producer,
    RoundRobin,
    SendFailed,
    ShardsDiffer,
    StreamMissing,
    admin,
)
from penstock._core.messages import shard_record
from penstock._tasks import shard_checks
from penstock.admin import Admin
from support.events import Events
from support.server import with_login
from support.waiting import (
    calls,
    eventually,
    numbers,
    options,
    read,
    record_shards,
    send,
    spread,
)


async def recorded(url: str, stream: str) -> tuple[int | None, str]:
    """Return the number of shards and the sharder by a stream's record."""
    async with Admin(url) as operator:
        record = await operator.shards(stream)
    assert record is not None
    return record.number, record.sharder


def by_length(_: str, __: str | None, payload: bytes) -> int:
    return len(payload)


# -- producers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"shards": 4}, (4, "KeyHash")),
        ({"sharder": RoundRobin(3)}, (3, "RoundRobin")),
        ({"shards": KeyHash(2)}, (2, "KeyHash")),
        ({"shards": 9, "sharder": by_length}, (9, "by_length")),
        ({"sharder": by_length}, (None, "by_length")),
    ],
)
async def test_the_first_producer_records_how_it_spreads_a_stream(
    url: str, stream: str, how: Any, expected: tuple[int | None, str]
) -> None:
    async with Producer(url, **how) as producer:
        await producer.send(stream, b"x")
    assert await recorded(url, stream) == expected


async def test_a_producer_of_one_key_records_nothing(url: str, stream: str) -> None:
    await send(url, stream, 1)
    async with Admin(url) as operator:
        assert await operator.shards(stream) is None


@pytest.mark.parametrize(
    "how", [{"shards": 8}, {"shards": 2}, {"sharder": RoundRobin(4)}]
)
async def test_a_producer_that_differs_is_refused_and_nothing_is_sent(
    url: str, stream: str, redis: Any, how: Any
) -> None:
    async with Producer(url, shards=4) as first:
        await first.send(stream, b"0", key="k")
    other = f"{stream}-other"
    async with Producer(url, **how) as producer:
        with pytest.raises(ShardsDiffer, match="recorded with 4 shards") as caught:
            await producer.send(stream, b"1", key="k")
        outcomes = await producer.send_many(stream, [b"2", b"3"])
        assert [type(outcome) for outcome in outcomes] == [ShardsDiffer] * 2
        # Other streams are sent to as before.
        assert (await producer.send(other, b"4")).stream == other
        # It is sent once the record agrees.
        number, name = shard_of(how)
        key = shard_record.key(stream)
        await redis.set(key, shard_record.dump(number, name, 0.0))
        assert (await producer.send(stream, b"5", key="k")).stream == stream
    assert (caught.value.stream, caught.value.recorded_number) == (stream, 4)
    assert (caught.value.recorded_sharder, caught.value.number) == ("KeyHash", number)
    assert await everything(redis, stream) == [b"0", b"5"]


def shard_of(how: dict[str, Any]) -> tuple[int, str]:
    if "sharder" in how:
        return how["sharder"].shards, type(how["sharder"]).__name__
    return how["shards"], "KeyHash"


async def everything(redis: Any, stream: str) -> list[bytes]:
    keys = [stream, *(f"{stream}:{number}" for number in range(16))]
    found = [fields[b"msg"] for key in keys for _, fields in await redis.xrange(key)]
    return sorted(found)


async def test_messages_that_waited_for_space_are_refused_too(
    url: str, stream: str, redis: Any
) -> None:
    await record_shards(redis, stream, 4)
    async with Producer(url, shards=2, max_messages=3) as producer:
        outcomes = await asyncio.gather(
            *(producer.send(stream, b"%d" % n) for n in range(10)),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [ShardsDiffer] * 10
    assert await everything(redis, stream) == []


async def test_a_record_without_a_sharder_accepts_any(
    url: str, stream: str, redis: Any
) -> None:
    await record_shards(redis, stream, 4)
    for sharder in (RoundRobin(4), KeyHash(4)):
        async with Producer(url, sharder=sharder) as producer:
            assert (await producer.send(stream, b"x")).stream == stream


async def test_a_number_beyond_the_shards_is_refused(url: str, stream: str) -> None:
    async with Producer(url, shards=3, sharder=by_length) as producer:
        with pytest.raises(ConfigurationError, match="not a shard of"):
            await producer.send(stream, b"xxx")
        assert (await producer.send(stream, b"xx")).shard == 2
    async with Producer(url, sharder=by_length) as producer:
        with pytest.raises(ConfigurationError, match="not a shard of"):
            await producer.send(f"{stream}-other", b"x" * 16_384)


@pytest.mark.parametrize("number", [0, -1, 16_385, 1.5, True, "4"])
def test_an_impossible_number_of_shards_is_refused(number: Any) -> None:
    with pytest.raises(ConfigurationError, match="from 1 to 16,384"):
        Producer("redis://localhost", shards=number)


async def test_a_record_that_is_lost_is_written_again_while_messages_are_sent(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_checks, "_INTERVAL", 0.05)
    async with Producer(url, shards=2) as producer:
        await producer.send(stream, b"x")
        await redis.delete(shard_record.key(stream))

        async def restored() -> bool:
            await producer.send(stream, b"x")
            return bool(await redis.exists(shard_record.key(stream)))

        await eventually(restored)
    assert await recorded(url, stream) == (2, "KeyHash")


async def test_a_record_that_grows_is_reported_by_producers_that_run(
    url: str, stream: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_checks, "_INTERVAL", 0.05)
    async with Producer(url, shards=2, on_event=events) as producer:
        await producer.send(stream, b"x")
        await admin.set_shards(stream, 4, url=url)

        async def reported() -> bool:
            await producer.send(stream, b"x")
            return bool(events.named("shards_differ"))

        await eventually(reported)
        await producer.send(stream, b"x")
    [event] = events.named("shards_differ")
    assert event.facts["stream"] == stream
    assert "recorded with 4 shards" in str(event.facts["reason"])


async def test_a_producer_of_one_key_reports_that_its_stream_has_shards(
    url: str, stream: str, events: Events, redis: Any
) -> None:
    await record_shards(redis, stream, 4)
    async with Producer(url, on_event=events) as producer:
        await producer.send(stream, b"x")
        await producer.send(stream, b"y")
    assert len(events.named("shards_differ")) == 1
    assert await redis.xlen(stream) == 2


@pytest.mark.parametrize("record", ["text", "wrong type", "other user"])
async def test_where_the_record_can_t_be_read_messages_are_sent_and_that_is_reported(
    url: str, stream: str, redis: Any, events: Events, record: str
) -> None:
    key, user = shard_record.key(stream), f"u-{stream}"
    login = url
    if record == "text":
        await redis.set(key, "4")
    elif record == "wrong type":
        await redis.lpush(key, "4")
    else:
        allowed = [stream, f"{stream}:*"]
        await redis.acl_setuser(
            user, enabled=True, passwords=["+x"], keys=allowed, categories=["+@all"]
        )
        login = with_login(url, user, "x")
    try:
        async with Producer(login, shards=2, on_event=events) as producer:
            for _ in range(3):
                await producer.send(stream, b"x")
    finally:
        await redis.acl_deluser(user)
    assert len(events.named("shards_unchecked")) == 1
    assert len(await everything(redis, stream)) == 3


async def test_a_transaction_records_the_shards_of_the_streams_that_it_spreads(
    url: str, stream: str, redis: Any
) -> None:
    out, other = f"{stream}-out", f"{stream}-other"
    await record_shards(redis, other, 3)
    await send(url, stream, 0, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        message = await consumer.next()
        async with message.transaction() as tx:
            tx.send(out, b"x", shards=2)
        assert tx.applied
        message = await consumer.next()
        with pytest.raises(ShardsDiffer, match="recorded with 3 shards"):
            async with message.transaction() as tx:
                tx.send(out, b"y", shards=2)
                tx.send(other, b"y", shards=2)
        async with message.transaction() as tx:
            tx.send(other, b"z", shards=3)
    assert await recorded(url, out) == (2, "KeyHash")
    assert await everything(redis, out) == [b"x"]
    assert await everything(redis, other) == [b"z"]


# -- consumers -------------------------------------------------------------------------


async def test_a_consumer_reads_all_recorded_shards_though_they_are_empty(
    url: str, stream: str, redis: Any
) -> None:
    await record_shards(redis, stream, 5)
    async with Consumer(stream, url=url, **options(LOAD_BALANCED)) as consumer:
        assert [shard.number for shard in consumer.shards] == [*range(5)]
        await spread(url, stream, *range(10), shards=5)
        assert sorted(numbers(await read(consumer, 10))) == [*range(10)]


async def test_a_growing_number_of_shards_is_followed_within_seconds(
    url: str, stream: str, events: Events
) -> None:
    await spread(url, stream, 0, 1, shards=2)
    async with Consumer(
        stream, url=url, on_event=events, **options(LOAD_BALANCED)
    ) as consumer:
        assert sorted(numbers(await read(consumer, 2))) == [0, 1]
        record = await admin.set_shards(stream, 4, url=url)
        assert (record.number, record.sharder) == (4, "RoundRobin")

        async def followed() -> bool:
            return len(consumer.shards) == 4

        assert await eventually(followed) < 5
    assert len(events.named("shard_found")) == 2


async def test_an_open_record_lets_consumers_look_for_the_shards(
    url: str, stream: str
) -> None:
    given = options(LOAD_BALANCED)
    async with Consumer(stream, url=url, **given) as early:
        async with Producer(url, sharder=by_length) as producer:
            await producer.send(stream, b"1")
            await producer.send(stream, b"200")
            assert sorted(numbers(await read(early, 2))) == [1, 200]
            await producer.send(stream, b"1234567")
            assert numbers(await read(early, 1)) == [1234567]
    async with Consumer(stream, url=url, **given) as late:
        assert {shard.number for shard in late.shards} >= {1, 3, 7}


@pytest.mark.parametrize("record", ["text", "wrong type"])
async def test_a_key_that_is_no_record_is_reported_and_the_own_key_is_read(
    url: str, stream: str, redis: Any, events: Events, record: str
) -> None:
    key = shard_record.key(stream)
    await (redis.set(key, "{}") if record == "text" else redis.lpush(key, "4"))
    await send(url, stream, 7)
    async with Consumer(
        stream, url=url, on_event=events, **options(LOAD_BALANCED)
    ) as consumer:
        assert numbers(await read(consumer, 1)) == [7]
        assert await consumer.next(timeout=2.5) is None  # it has looked again
        assert len(events.named("shards_unreadable")) == 1
        await redis.delete(key)
        await spread(url, stream, 8, 9, shards=2)
        assert sorted(numbers(await read(consumer, 2))) == [8, 9]


async def test_a_record_that_is_lost_takes_no_shard_from_a_consumer(
    url: str, stream: str, redis: Any
) -> None:
    await spread(url, stream, 0, 1, shards=2)
    async with Consumer(stream, url=url, **options(LOAD_BALANCED)) as consumer:
        await read(consumer, 2)
        await redis.delete(shard_record.key(stream))
        assert await consumer.next(timeout=2.5) is None  # it has looked again
        await redis.xadd(f"{stream}:1", {"msg": 5})
        assert numbers(await read(consumer, 1)) == [5]


async def test_a_running_consumer_writes_a_lost_record_again(
    url: str, stream: str, redis: Any
) -> None:
    await spread(url, stream, 0, 1, shards=2)
    record = await redis.get(shard_record.key(stream))
    async with Consumer(stream, url=url, **options(LOAD_BALANCED)) as consumer:
        await read(consumer, 2)
        await redis.delete(shard_record.key(stream))

        async def is_back() -> bool:
            return bool(await redis.get(shard_record.key(stream)) == record)

        await eventually(is_back)
    assert await recorded(url, stream) == (2, "RoundRobin")


async def test_looking_costs_one_cheap_command_for_all_streams(
    url: str, stream: str, redis: Any
) -> None:
    """64 streams cost an MGET every two seconds, and not one EXISTS."""
    streams = [f"{stream}-{number}" for number in range(64)]
    async with Consumer(*streams, url=url, group="g") as consumer:
        assert await consumer.next(timeout=0.1) is None
        before = [await calls(redis, name) for name in ("mget", "get", "exists")]
        assert await consumer.next(timeout=4.5) is None
        after = [await calls(redis, name) for name in ("mget", "get", "exists")]
    assert 1 <= after[0] - before[0] <= 3
    assert after[1:] == before[1:]


async def test_without_permission_for_mget_each_record_is_read_by_itself(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    streams = [f"{stream}-{number}" for number in range(3)]
    user = f"u-{stream}"
    await redis.acl_setuser(
        user,
        enabled=True,
        passwords=["+x"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-mget"],
    )
    login = with_login(url, user, "x")
    try:
        async with Consumer(*streams, url=login, group="g", on_event=events) as one:
            assert await one.next(timeout=2.5) is None  # it has looked again
            await spread(url, streams[1], 0, 1, shards=2)
            assert sorted(numbers(await read(one, 2))) == [0, 1]
    finally:
        await redis.acl_deluser(user)
    assert not events.named("looking_refused")


# -- operators -------------------------------------------------------------------------


async def test_the_number_of_shards_can_only_grow(url: str, stream: str) -> None:
    async with Admin(url) as operator:
        assert (await operator.set_shards(stream, 3)).sharder == "KeyHash"
        assert (await operator.set_shards(stream, 3, sharder="")).sharder == ""
        grown = await operator.set_shards(stream, 5, sharder=RoundRobin(5))
        assert (grown.number, grown.sharder) == (5, "RoundRobin")
        with pytest.raises(ConfigurationError, match="can only grow"):
            await operator.set_shards(stream, 4)
        for wrong in (0, 16_385, 2.0):
            with pytest.raises(ConfigurationError, match="from 1 to 16,384"):
                await operator.set_shards(stream, wrong)  # type: ignore[arg-type]
        found = await operator.shards(stream)
        assert found == grown


async def test_two_operators_at_once_never_shrink_a_stream(
    url: str, stream: str
) -> None:
    outcomes = await asyncio.gather(
        *(admin.set_shards(stream, n, url=url) for n in range(1, 20)),
        return_exceptions=True,
    )
    assert all(
        not isinstance(outcome, BaseException) or "can only grow" in str(outcome)
        for outcome in outcomes
    )
    assert await recorded(url, stream) == (19, "KeyHash")


async def test_an_operator_is_told_of_a_key_that_is_no_record(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(shard_record.key(stream), "four")
    async with Admin(url) as operator:
        with pytest.raises(CommandError, match="no record of shards"):
            await operator.shards(stream)
        with pytest.raises(CommandError, match="no record of shards"):
            await operator.set_shards(stream, 4)


async def test_deleting_a_stream_deletes_its_shards_and_its_record(
    url: str, stream: str, redis: Any
) -> None:
    await spread(url, stream, *range(6))
    await send(url, stream, 6)
    neighbour = f"{stream}:7"
    await send(url, neighbour, 1)
    async with Admin(url) as operator:
        assert await operator.delete_stream(stream)
        assert not await operator.delete_stream(stream)
    keys = [stream, *(f"{stream}:{n}" for n in range(3)), shard_record.key(stream)]
    assert await redis.exists(*keys) == 0
    assert await redis.exists(neighbour) == 1


async def test_an_operator_can_search_for_shards_without_a_record(
    url: str, stream: str, redis: Any
) -> None:
    for number in range(3):
        await redis.xadd(f"{stream}:{number}", {"msg": "1"})
        await redis.xgroup_create(f"{stream}:{number}", "g", "0")
    async with Admin(url) as operator:
        with pytest.raises(StreamMissing):
            await operator.group_state(stream, "g")
    async with Admin(url, shards=DISCOVER) as operator:
        assert (await operator.group_state(stream, "g")).lag == 3
        assert await operator.delete_stream(stream)
    assert await redis.exists(*(f"{stream}:{n}" for n in range(3))) == 0


async def test_a_send_is_refused_as_before_where_the_server_is_full(
    url: str, stream: str, redis: Any
) -> None:
    """The record can't be written then, which must not hold up the message."""
    await redis.config_set("maxmemory", 1)
    try:
        async with Producer(url, shards=2) as producer:
            async with asyncio.timeout(5):
                with pytest.raises(SendFailed) as caught:
                    await producer.send(stream, b"x")
    finally:
        await redis.config_set("maxmemory", 0)
    assert caught.value.code == "OOM"


async def test_all_streams_are_listed_with_their_shards_as_one(
    url: str, stream: str, redis: Any
) -> None:
    await spread(url, stream, *range(6))
    names = ["one", "tenant:1", "tenant:01", "gone:7", "é:x", ":3", f"a:{10**40}"]
    for name in names:
        await send(url, f"{stream}-{name}", 1)
    await record_shards(redis, f"{stream}-tenant", 1)
    await redis.set(f"{stream}-text", "no stream")
    await redis.xadd(f"{stream}-raw".encode() + b"\xff", {"a": "b"})
    for number in range(2500):
        await redis.set(f"{stream}-filler-{number}", "")
    found = await admin.streams(url=url)
    mine = [name for name in found if name.startswith(stream)]
    assert mine == sorted([stream, *(f"{stream}-{name}" for name in names)])
    async with Admin(url, shards=DISCOVER) as operator:
        searched = set(await operator.streams())
    assert f"{stream}-tenant" in searched
    assert f"{stream}-tenant:1" not in searched
    assert f"{stream}-a:{10**40}" in searched
