"""Shards: a consumer reads all shards of its streams, and those that appear later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import (
    DISCOVER,
    EARLIEST,
    LATEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    ClosedError,
    ConfigurationError,
    ConnectionLost,
    Consumer,
    Message,
    Prefetch,
    Producer,
    RoundRobin,
    Router,
    Shard,
    StreamMissing,
    admin,
)
from support.events import Events
from support.proxy import proxy
from support.server import with_login
from support.waiting import (
    eventually,
    numbers,
    options,
    pending,
    read,
    record_shards,
    send,
    spread,
)

MODES = [REALTIME, RESUMABLE, LOAD_BALANCED]


def keys(consumer: Consumer[Any]) -> set[bytes]:
    return {shard.key for shard in consumer.shards}


@pytest.mark.parametrize("mode", MODES)
async def test_one_consumer_reads_all_shards(url: str, stream: str, mode: Any) -> None:
    """SeaStreamer's `sharding`."""
    async with Producer(url, sharder=RoundRobin(3)) as producer:
        receipts = [await producer.send(stream, b"%d" % n) for n in range(10)]
        assert [receipt.shard for receipt in receipts] == [n % 3 for n in range(10)]
        assert len({receipt.id for receipt in receipts}) >= 1
        async with Consumer(stream, url=url, **options(mode)) as consumer:
            assert keys(consumer) == {f"{stream}:{n}".encode() for n in range(3)}
            first = await read(consumer, 10)
            assert sorted(numbers(first)) == list(range(10))
            assert {m.shard for m in first} == {0, 1, 2}
            assert {m.stream for m in first} == {stream}
            for n in range(10, 20):
                await producer.enqueue(stream, b"%d" % n)
            await producer.flush()
            assert sorted(numbers(await read(consumer, 10))) == list(range(10, 20))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", [EARLIEST, LATEST])
async def test_a_shard_that_appears_later_is_read_from_its_first_entry(
    url: str, stream: str, mode: Any, start: Any, events: Any
) -> None:
    given = {**options(mode), "start": start, "on_event": events}
    async with Consumer(stream, url=url, **given) as consumer:
        assert keys(consumer) == {stream.encode()}
        await spread(url, stream, *range(6))
        assert sorted(numbers(await read(consumer, 6))) == list(range(6))
        assert len(consumer.shards) == 4
        await admin.set_shards(stream, 8, url=url)
        await spread(url, stream, *range(6, 14), shards=8)
        assert sorted(numbers(await read(consumer, 8))) == list(range(6, 14))
    assert len(events.named("shard_found")) == 8


async def test_the_key_with_the_stream_s_name_is_read_beside_its_shards(
    url: str, stream: str
) -> None:
    """W13: shards do not hide the key."""
    await spread(url, stream, 0, 1, 2)
    await send(url, stream, 3)
    async with Consumer(stream, url=url, **options(REALTIME)) as consumer:
        assert sorted(numbers(await read(consumer, 4))) == [0, 1, 2, 3]
    await spread(url, f"{stream}-late", 0, 1, 2)
    late = f"{stream}-late"
    async with Consumer(late, url=url, **options(RESUMABLE)) as consumer:
        assert sorted(numbers(await read(consumer, 3))) == [0, 1, 2]
        await send(url, late, 3)
        assert numbers(await read(consumer, 1)) == [3]


async def test_a_search_finds_shards_that_have_gaps_and_are_far_apart(
    url: str, stream: str, redis: Any
) -> None:
    for number in (7, 900, 1500):
        await redis.xadd(f"{stream}:{number}", {"msg": number})
    given = options(LOAD_BALANCED)
    async with Consumer(stream, url=url, shards=DISCOVER, **given) as consumer:
        found = {shard.number for shard in consumer.shards}
        assert found == {7, 900, 1500}
        assert sorted(numbers(await read(consumer, 3))) == [7, 900, 1500]
        await redis.xadd(f"{stream}:2000", {"msg": 2000})
        assert numbers(await read(consumer, 1)) == [2000]


@pytest.mark.parametrize("mode", MODES)
async def test_keys_that_are_not_shards_do_no_harm_to_a_search(
    url: str, stream: str, redis: Any, mode: Any
) -> None:
    """W13: strings, hashes and streams whose keys look like shards, or nearly."""
    await redis.set(f"{stream}:lock", "me")
    await redis.set(f"{stream}:1", "a string")
    await redis.hset(f"{stream}:2", "a", "hash")
    await redis.xadd(f"{stream}:dead", {"msg": "x"})
    await redis.xadd(f"{stream}:01", {"msg": "x"})
    await redis.xadd(f"{stream}.dead", {"msg": "x"})
    await redis.xadd(f"{stream}0", {"msg": "x"})
    await redis.xadd(f"{stream}:0", {"msg": "5"})
    given = options(mode)
    async with Consumer(stream, url=url, shards=DISCOVER, **given) as consumer:
        assert keys(consumer) == {f"{stream}:0".encode()}
        assert numbers(await read(consumer, 1)) == [5]
        assert await consumer.next(timeout=1.2) is None  # it has searched again
        # A key that was not a shard becomes one.
        await redis.delete(f"{stream}:1")
        await redis.xadd(f"{stream}:1", {"msg": "6"})
        assert numbers(await read(consumer, 1)) == [6]


@pytest.mark.parametrize(
    "name",
    ["a:b", "a:0", "with space", "{tag}:x", "*?[a]", "ünïcödé ☃", "a\nb", "a\\b:", ":"],
)
@pytest.mark.parametrize("mode", [REALTIME, LOAD_BALANCED])
async def test_any_name_can_be_that_of_a_stream(
    url: str, stream: str, name: str, mode: Any
) -> None:
    name = f"{stream}{name}"
    await spread(url, name, *range(4), shards=2)
    await send(url, name, 4)
    async with Consumer(name, url=url, **options(mode)) as consumer:
        messages = await read(consumer, 5)
        assert sorted(numbers(messages)) == [0, 1, 2, 3, 4]
        assert {message.stream for message in messages} == {name}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shards", [[1], 2])
async def test_the_shards_to_read_can_be_chosen(
    url: str, stream: str, mode: Any, shards: Any
) -> None:
    await spread(url, stream, *range(9))
    given = options(mode)
    async with Consumer(stream, url=url, shards=shards, **given) as consumer:
        expected = [1, 4, 7] if shards == [1] else [0, 1, 3, 4, 6, 7]
        messages = await read(consumer, len(expected))
        assert sorted(numbers(messages)) == expected
        # No other shards are searched for.
        assert await consumer.next(timeout=1.5) is None
        assert len(consumer.shards) == (1 if shards == [1] else 2)


async def test_a_missing_stream_is_refused_unless_one_of_its_shards_exists(
    url: str, stream: str, redis: Any
) -> None:
    given = {**options(LOAD_BALANCED), "mkstream": False}
    with pytest.raises(StreamMissing):
        async with Consumer(stream, url=url, **given):
            pytest.fail("must not open")
    await record_shards(redis, stream, 5)
    with pytest.raises(StreamMissing):
        async with Consumer(stream, url=url, **given):
            pytest.fail("must not open")
    await redis.xadd(f"{stream}:3", {"msg": "3"})
    async with Consumer(stream, url=url, **given) as consumer:
        assert numbers(await read(consumer, 1)) == [3]
        await redis.xadd(f"{stream}:4", {"msg": "4"})
        assert numbers(await read(consumer, 1)) == [4]
    assert not await redis.exists(stream, f"{stream}:0")


@pytest.mark.parametrize("mode", [REALTIME, LOAD_BALANCED])
async def test_without_permission_to_find_shards_the_key_with_the_name_is_read(
    url: str, stream: str, redis: Any, mode: Any, events: Events
) -> None:
    user = f"u-{stream}"
    await redis.acl_setuser(
        user, enabled=True, passwords=["+x"], keys=[stream], categories=["+@all"]
    )
    await spread(url, stream, 0, 1, 2)
    await send(url, stream, 3)
    given = {**options(mode), "on_event": events}
    try:
        limited = with_login(url, user, "x")
        async with Consumer(stream, url=limited, **given) as consumer:
            assert numbers(await read(consumer, 1)) == [3]
            assert await consumer.next(timeout=2.5) is None
            await send(url, stream, 4)
            assert numbers(await read(consumer, 1)) == [4]
    finally:
        await redis.acl_deluser(user)
    [event] = events.named("looking_refused")
    assert event.facts["stream"] == stream


@pytest.mark.parametrize("names", [("orders", "orders:0"), ("a:12", "x", "a")])
def test_a_name_that_is_also_a_shard_of_another_is_refused(
    names: tuple[str, ...],
) -> None:
    with pytest.raises(ConfigurationError, match="is the name of a shard of"):
        Consumer(*names, url="redis://localhost")
    router = Router("redis://localhost")
    with pytest.raises(ConfigurationError, match="is the name of a shard of"):
        for name in names:
            router.handler(name, group=name)(nothing)


async def nothing(message: Message[bytes]) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    "names", [("orders", "orders:x"), ("a:1", "a:2"), ("a", "a:\u0661")]
)
def test_names_that_only_look_like_shards_are_accepted(names: tuple[str, ...]) -> None:
    Consumer(*names, url="redis://localhost")


def test_dead_letters_must_not_be_a_shard_of_what_is_read() -> None:
    """Otherwise each dead letter would come back, and die again."""
    with pytest.raises(ConfigurationError, match="its own dead letters"):
        Consumer("orders", group="g", dead_letters="orders:1", url="redis://localhost")
    with pytest.raises(ConfigurationError, match="its own dead letters"):
        Consumer("a", group="g", dead_letters="{stream}:1", url="redis://localhost")


async def test_a_stream_named_like_a_shard_is_not_read_as_one(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    await send(url, f"{stream}:1", 2)
    given = options(LOAD_BALANCED)
    async with Consumer(stream, url=url, **given) as consumer:
        assert numbers(await read(consumer, 1)) == [1]
        assert await consumer.next(timeout=2.5) is None  # it has looked again
        assert keys(consumer) == {stream.encode()}
    async with Consumer(f"{stream}:1", url=url, **given) as consumer:
        assert numbers(await read(consumer, 1)) == [2]


@pytest.mark.parametrize("mode", MODES)
async def test_shards_can_be_assigned_and_unassigned(
    url: str, stream: str, mode: Any, redis: Any
) -> None:
    """W12: a shard that is assigned is read from the key that producers write to."""
    other = f"{stream}-other"
    await spread(url, stream, *range(6))
    await spread(url, other, *range(10, 16))
    async with Consumer(stream, url=url, shards=[0], **options(mode)) as consumer:
        assert numbers(await read(consumer, 2)) == [0, 3]
        await consumer.assign(stream, 2)
        assert numbers(await read(consumer, 2)) == [2, 5]
        await consumer.assign(other, 0, 1)
        assert sorted(numbers(await read(consumer, 4))) == [10, 11, 13, 14]
        await consumer.assign(other, 0)  # again: no change
        assert len(consumer.shards) == 4
        [shard] = [s for s in consumer.shards if s.stream == stream and s.number == 2]
        await consumer.unassign(shard)
        await consumer.unassign(other)
        assert [(s.stream, s.number) for s in consumer.shards] == [(stream, 0)]
        await spread(url, stream, *range(20, 26))
        await spread(url, other, *range(30, 36))
        assert numbers(await read(consumer, 2)) == [20, 23]
        assert await consumer.next(timeout=0.1) is None
        await consumer.assign(shard)
        expected = [2, 5, 22, 25] if mode is REALTIME else [22, 25]
        assert numbers(await read(consumer, len(expected))) == expected


@pytest.mark.parametrize("search", [False, True])
async def test_an_assignment_that_fails_has_no_effect_later(
    url: str, stream: str, *, search: bool
) -> None:
    other = f"{stream}-other"
    given: dict[str, Any] = {"group": "g", "shards": DISCOVER} if search else {}
    given.setdefault("group", "g")
    await send(url, stream, 1)
    await spread(url, other, 2, 3, shards=2)
    async with proxy(url) as between:
        async with Consumer(stream, url=between.url, **given) as consumer:
            assert numbers(await read(consumer, 1)) == [1]
            await between.stop()
            with pytest.raises(ConnectionLost):
                await consumer.assign(other)
            await between.start()
            await send(url, stream, 4)
            assert numbers(await read(consumer, 1)) == [4]
            assert await consumer.next(timeout=3.5) is None  # it has looked again
            assert {shard.stream for shard in consumer.shards} == {stream}
            await consumer.assign(other)
            assert sorted(numbers(await read(consumer, 2))) == [2, 3]


async def test_others_get_the_queued_messages_of_an_unassigned_shard_at_once(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    async with Consumer(stream, url=url, group="g") as one:
        assert numbers(await read(one, 1)) == [0]
        await eventually(lambda: queued(one, 5))
        async with Consumer(stream, url=url, group="g") as two:
            await one.unassign(stream)
            assert one.shards == ()
            async with asyncio.timeout(1):
                assert sorted(numbers(await read(two, 5))) == [1, 2, 3, 4, 5]
            assert await one.next(timeout=0.1) is None
    assert await pending(redis, stream, "g") == 0


async def queued(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().queued >= count


async def test_a_consumer_without_shards_waits_for_some(url: str, stream: str) -> None:
    async with Consumer(stream, url=url) as consumer:
        await consumer.unassign(stream)
        waiting = asyncio.create_task(consumer.next(timeout=5))
        await consumer.assign(stream)
        await send(url, stream, 1)
        message = await waiting
        assert message is not None
        assert message.payload == b"1"


async def test_invalid_assignments_are_refused(
    url: str, stream: str, redis: Any
) -> None:
    consumer = Consumer(stream, url=url, group="g")
    assert consumer.shards == ()
    with pytest.raises(ClosedError):
        await consumer.assign("another")
    async with consumer:
        with pytest.raises(ConfigurationError):
            await consumer.assign("")
        with pytest.raises(ConfigurationError):
            await consumer.assign(stream, -1)
        with pytest.raises(ConfigurationError, match=r"consumer\.shards"):
            await consumer.unassign("another")
        with pytest.raises(ConfigurationError):
            await consumer.assign(Shard(stream, 0, stream.encode()), 5)
        await redis.set(f"{stream}:5", "a string")
        with pytest.raises(Exception, match="WRONGTYPE"):
            await consumer.assign(stream, 5)
        await send(url, stream, 1)
        assert numbers(await read(consumer, 1)) == [1]


@pytest.mark.parametrize("shards", [0, -1, [], [-1], "3", [1.5], 2.5])
def test_shards_that_are_none_are_refused(shards: Any) -> None:
    with pytest.raises(ConfigurationError, match="shards"):
        Consumer("orders", url="redis://localhost", shards=shards)


@pytest.mark.parametrize("mode", MODES)
async def test_no_stream_starves_another(url: str, stream: str, mode: Any) -> None:
    """One has a long backlog, and the others get a message now and then."""
    busy, *quiet = [f"{stream}-{n}" for n in range(8)]
    await send(url, busy, *range(3000))
    seen: list[Message[bytes]] = []
    small = Prefetch(max_messages=40)
    given = {**options(mode), "prefetch": small}
    async with Consumer(busy, *quiet, url=url, **given) as consumer:
        for turn, name in enumerate(quiet):
            await send(url, name, 5000 + turn)
            before = len(seen)
            while not seen or int(seen[-1].payload) != 5000 + turn:
                seen += await read(consumer, 1)
            # Messages that were queued already, and those of a read of the busy one
            # beside it.
            assert len(seen) - before <= 2 * 40
        async with asyncio.timeout(20):
            while len(seen) < 3000 + len(quiet):
                seen += await consumer.take()
    order = [int(m.payload) for m in seen if m.stream == busy]
    assert order == list(range(3000))


async def test_a_long_recovery_does_not_delay_other_shards(
    url: str, stream: str, redis: Any
) -> None:
    long, short = f"{stream}-long", f"{stream}-short"
    await send(url, long, *range(2000))
    await redis.xgroup_create(long, "g", id="0")
    await redis.xreadgroup("g", "me", {long: ">"}, count=2000)
    await send(url, short, 5000)
    small = Prefetch(max_messages=20)
    async with Consumer(
        long, short, url=url, group="g", name="me", prefetch=small
    ) as consumer:
        first = numbers(await read(consumer, 100))
    assert 5000 in first
    assert first[:5] == [0, 1, 2, 3, 4]


async def test_one_busy_shard_among_many_is_read_in_large_portions(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, f"{stream}-busy", *range(20_000))
    names = [f"{stream}-{n}" for n in range(31)]
    async with Consumer(f"{stream}-busy", *names, url=url, group="g") as consumer:
        before = await reads(redis)
        async with asyncio.timeout(30):
            for _ in range(20_000):
                await consumer.next()
        # An even share would be 31 a read: more than 600 of them. How much space there
        # is at a read depends on how fast messages are taken meanwhile.
        assert await reads(redis) - before < 300


async def reads(redis: Any) -> int:
    stats = await redis.info("commandstats")
    return int(stats["cmdstat_xreadgroup"]["calls"])
