"""The collector on every server: states, lags and what a poll costs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from penstock import Consumer, Message, Producer
from penstock._core.messages import shard_record
from penstock.errors import AccessError, ConnectError, ConnectionLost
from penstock.monitor import Collector, GroupState, GroupStatus, StreamStatus
from support.server import server, with_login
from support.servers import binaries
from support.waiting import eventually

ON_EVERY_SERVER = pytest.mark.parametrize(
    "binary", binaries().values(), ids=list(binaries())
)


@asynccontextmanager
async def started(
    folder: Path, binary: str, *names: str, **options: Any
) -> AsyncIterator[tuple[Any, Collector]]:
    """Start a server, and open a collector of streams."""
    async with server(folder, "--appendonly", "no", binary=binary) as own:
        async with own.client() as redis, Collector(own.url, names, **options) as seen:
            yield redis, seen


async def twice(collector: Collector) -> dict[str, GroupStatus]:
    """Poll twice, and return the groups by name."""
    await collector.poll()
    await asyncio.sleep(1.2)
    [stream] = (await collector.poll()).streams
    return {group.group: group for group in stream.groups}


async def add(redis: Any, stream: str, number: int, *, age: float = 0) -> None:
    """Add entries whose ids are some seconds old."""
    first = int(1000 * (time.time() - age))
    for index in range(number):
        await redis.xadd(stream, {"msg": "x"}, id=f"{first + index}-0")


@ON_EVERY_SERVER
async def test_groups_that_nobody_reads_or_that_do_not_move_are_named(
    tmp_path: Path, binary: str
) -> None:
    async with started(tmp_path, binary, "orders", live=1.0) as (redis, collector):
        await add(redis, "orders", 20, age=120)
        for group in ("unread", "abandoned", "left", "stalled", "idle"):
            await redis.xgroup_create("orders", group, "0")
        await redis.xreadgroup("abandoned", "c", {"orders": ">"}, count=5)
        await redis.xreadgroup("left", "c", {"orders": ">"}, count=5, noack=True)
        await redis.xgroup_delconsumer("orders", "left", "c")
        await redis.xreadgroup("idle", "c", {"orders": ">"}, count=20, noack=True)
        await redis.xreadgroup("stalled", "c", {"orders": ">"}, count=5)

        async def ask() -> None:
            """Ask for nothing new, as a consumer does whose handlers hang."""
            while True:
                await redis.xreadgroup("stalled", "c", {"orders": "0"}, count=1)
                await asyncio.sleep(0.05)

        asking = asyncio.create_task(ask())
        try:
            groups = await twice(collector)
        finally:
            asking.cancel()
        assert {name: group.state for name, group in groups.items()} == {
            "unread": GroupState.UNREAD,
            "abandoned": GroupState.NO_CONSUMERS,
            "left": GroupState.NO_CONSUMERS,
            "stalled": GroupState.STALLED,
            "idle": GroupState.IDLE,
        }
        assert (groups["stalled"].live, groups["stalled"].consumers) == (1, 1)
        assert (groups["abandoned"].live, groups["abandoned"].silent) == (0, 1)
        assert 120 <= (groups["unread"].oldest_age_seconds or 0) < 180
        assert groups["idle"].oldest_age_seconds == 0


@ON_EVERY_SERVER
async def test_a_healthy_group_and_one_that_falls_behind_are_named(
    tmp_path: Path, binary: str
) -> None:
    async with server(tmp_path, "--appendonly", "no", binary=binary) as own:
        async with (
            Producer(own.url) as producer,
            Consumer("orders", url=own.url, group="healthy") as healthy,
            Consumer("orders", url=own.url, group="behind") as behind,
            Collector(own.url, ["orders"]) as collector,
        ):

            async def quick(_: Message[bytes]) -> None:
                """Handle a message at once."""

            async def slow(_: Message[bytes]) -> None:
                await asyncio.sleep(0.3)

            async def send() -> None:
                while True:
                    await producer.send("orders", b"x")
                    await asyncio.sleep(0.01)

            tasks = [
                asyncio.create_task(healthy.run(quick)),
                asyncio.create_task(behind.run(slow, concurrency=1)),
                asyncio.create_task(send()),
            ]
            try:

                async def lags() -> bool:
                    [stream] = (await collector.poll()).streams
                    [group] = [g for g in stream.groups if g.group == "behind"]
                    return group.state is GroupState.BEHIND

                await eventually(lags, 30)
                groups = await twice(collector)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        assert groups["behind"].state is GroupState.BEHIND
        assert groups["healthy"].state is GroupState.OK
        if groups["behind"].in_per_second is not None:
            assert groups["behind"].in_per_second > (
                groups["behind"].out_per_second or 0
            )
            assert groups["behind"].eta_seconds is None


# -- lag: the cases in which the server's number is nil or wrong -----------------------


async def lag(collector: Collector, stream: str, group: str) -> tuple[int, bool]:
    found = (await collector.poll()).streams
    [one] = [
        g for s in found if s.stream == stream for g in s.groups if g.group == group
    ]
    return one.lag, one.lag_exact


@ON_EVERY_SERVER
async def test_no_lag_is_below_the_truth_where_the_server_does_not_know_it(
    tmp_path: Path, binary: str
) -> None:
    async with started(tmp_path, binary, "s") as (redis, collector):

        async def holds(group: str, truth: int) -> bool:
            number, exact = await lag(collector, "s", group)
            assert number >= truth
            assert not exact or number == truth
            return exact

        for number in range(1, 11):
            await redis.xadd("s", {"a": "b"}, id=f"{number}-0")
        # Made at the end, at an id, and set back; then more is added.
        await redis.xgroup_create("s", "end", "$")
        await redis.xgroup_create("s", "middle", "5-0")
        await redis.xgroup_create("s", "start", "0")
        await redis.xgroup_create("s", "set", "0")
        assert await holds("end", 0)
        assert await holds("start", 10)
        await redis.xadd("s", {"a": "b"}, id="11-0")
        await redis.xgroup_setid("s", "set", "7-0")
        await holds("end", 1)
        await holds("middle", 6)
        await holds("set", 4)
        # Until they have read to the end.
        for group in ("end", "middle", "set"):
            await redis.xreadgroup(group, "c", {"s": ">"}, noack=True)
            assert await holds(group, 0)
        # A deletion behind and before the position.
        await redis.xreadgroup("start", "c", {"s": ">"}, count=4, noack=True)
        await holds("start", 7)
        await redis.xdel("s", "2-0", "8-0")
        await holds("start", 6)
        # A trim beyond the position, and reading on (redis/redis#13957).
        await redis.xtrim("s", maxlen=3, approximate=False)
        assert await holds("start", 3)
        await redis.xreadgroup("start", "c", {"s": ">"}, count=2, noack=True)
        await holds("start", 1)
        await redis.xreadgroup("start", "c", {"s": ">"}, count=5, noack=True)
        assert await holds("start", 0)
        await redis.xtrim("s", maxlen=0, approximate=False)
        assert await holds("start", 0)


async def test_the_age_of_what_is_not_delivered_is_found_behind_the_position(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, 3, age=500)
    await add(redis, stream, 3, age=100)
    await redis.xgroup_create(stream, "g", "0")
    await redis.xgroup_create(stream, "new", "0")
    await redis.xreadgroup("g", "c", {stream: ">"}, count=3, noack=True)
    async with Collector(url, [stream]) as collector:
        [found] = (await collector.poll()).streams
    read, new = found.groups
    assert 100 <= (read.oldest_age_seconds or 0) < 200
    assert 500 <= (new.oldest_age_seconds or 0) < 600
    assert read.oldest_idle_seconds is None


# -- what is found ---------------------------------------------------------------------


async def names(url: str, *patterns: str, companions: bool = False) -> list[str]:
    async with Collector(url, patterns=patterns, companions=companions) as collector:
        return [one.stream for one in (await collector.poll()).streams]


@pytest.fixture
async def layout(url: str, stream: str, redis: Any) -> str:
    """Write a stream of three shards with dead letters, and one beside it."""
    record = shard_record.dump(3, "KeyHash", time.time())
    await redis.set(shard_record.key(stream), record)
    for number in range(3):
        await redis.xadd(f"{stream}:{number}", {"msg": "x"}, id=f"{number + 1}-0")
        await redis.xgroup_create(f"{stream}:{number}", "g", "0")
    await redis.xreadgroup("g", "c", {f"{stream}:1": ">"})
    await redis.xadd(f"{stream}.dead", {"a": "b"})
    await redis.xadd(f"{stream}-2", {"a": "b"})
    return stream


async def test_streams_are_found_by_patterns_with_companions_only_on_request(
    url: str, layout: str
) -> None:
    assert await names(url, f"{layout}*") == [layout, f"{layout}-2"]
    assert await names(url, f"{layout}-?") == [f"{layout}-2"]
    everything = [layout, f"{layout}-2", f"{layout}.dead"]
    assert sorted(await names(url, f"{layout}*", companions=True)) == sorted(everything)
    assert await names(url, f"{layout}*.dead") == [f"{layout}.dead"]
    found = await names(url)
    assert {layout, f"{layout}-2"} <= set(found)
    assert f"{layout}.dead" not in found
    assert f"{layout}:0" not in found


async def test_shards_are_summed_up_and_shown_one_by_one(url: str, layout: str) -> None:
    async with Collector(url, [layout], per_shard=True) as collector:
        snapshot = await collector.poll()
    [one] = snapshot.streams
    assert (one.shards, one.length, one.dead_letters) == (3, 3, 1)
    assert (one.first_id, one.last_id, one.first_age_seconds) == ("1-0", "3-0", None)
    [group] = one.groups
    assert (group.lag, group.pending, group.backlog) == (2, 1, 3)
    assert (group.shard, group.key, group.consumers) == (None, None, 1)
    shards: list[StreamStatus] = snapshot.shards
    assert [shard.key for shard in shards] == [f"{layout}:{n}" for n in range(3)]
    assert [shard.groups[0].pending for shard in shards] == [0, 1, 0]
    assert [shard.groups[0].shard for shard in shards] == [0, 1, 2]


async def test_a_missing_stream_and_one_of_another_type_do_not_hide_the_others(
    url: str, stream: str, redis: Any
) -> None:
    await redis.xadd(stream, {"a": "b"})
    await redis.set(f"{stream}-string", "x")
    named = [stream, f"{stream}-string", f"{stream}-none"]
    async with Collector(url, named) as collector:
        snapshot = await collector.poll()
    assert [one.stream for one in snapshot.streams] == [stream]
    assert snapshot.missing == [f"{stream}-none"]
    [problem] = snapshot.problems
    assert problem.stream == f"{stream}-string"
    assert "WRONGTYPE" in problem.text


async def test_a_stream_that_this_user_may_not_see_does_not_hide_the_others(
    url: str, stream: str, redis: Any
) -> None:
    for name in (stream, f"{stream}-other"):
        await redis.xadd(name, {"a": "b"})
    await redis.execute_command(
        *f"ACL SETUSER looker on >secret ~{stream} ~{stream}.dead resetchannels -@all "
        "+scan +time +xinfo +xlen +get +exists".split()
    )
    own = with_login(url, "looker", "secret")
    try:
        async with Collector(own, patterns=[f"{stream}*"]) as collector:
            snapshot = await collector.poll()
            assert [one.stream for one in snapshot.streams] == [stream]
            assert [one.stream for one in snapshot.problems] == [f"{stream}-other"]
    finally:
        await redis.execute_command("ACL", "DELUSER", "looker")


# -- one question at a time ------------------------------------------------------------


async def test_consumers_are_summed_up_over_shards(
    url: str, layout: str, redis: Any
) -> None:
    for shard in (0, 2):
        await redis.xreadgroup("g", "host:12:ab", {f"{layout}:{shard}": ">"})
    async with Collector(url, [layout]) as collector:
        named, penstocks = await collector.consumers(layout, "g")
    assert (named.consumer, named.pending, named.host, named.pid) == (
        "c",
        1,
        None,
        None,
    )
    assert (penstocks.pending, penstocks.host, penstocks.pid) == (2, "host", 12)
    assert 0 <= penstocks.asked_seconds < 10
    assert penstocks.state == "live"
    assert penstocks.oldest_age_seconds is None  # the ids are no times


async def test_pending_messages_are_listed_and_counted(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, 1500, age=50)
    await redis.xgroup_create(stream, "g", "0")
    await redis.xreadgroup("g", "a", {stream: ">"}, count=1200)
    await redis.xreadgroup("g", "b", {stream: ">"}, count=300)
    ids = [
        each["message_id"]
        for each in await redis.xpending_range(stream, "g", "-", "+", 3)
    ]
    await redis.xclaim(stream, "g", "b", 0, ids[:2])
    async with Collector(url, [stream]) as collector:
        first, second, third = await collector.pending(stream, "g", limit=3)
        assert [first.id, second.id, third.id] == [id_.decode() for id_ in ids]
        assert (first.consumer, first.attempts, third.attempts) == ("b", 2, 1)
        assert 50 <= (first.age_seconds or 0) < 100
        [mine] = await collector.pending(stream, "g", consumer="a", limit=1)
        assert mine.id == third.id
        assert await collector.pending(stream, "g", idle=3600) == []
        counts = await collector.pending_counts(stream, "g")
    assert [(c.consumer, c.attempts, c.pending) for c in counts] == [
        ("a", None, 1198),
        ("b", None, 302),
        (None, 1, 1498),
        (None, 2, 2),
    ]
    assert counts[1].oldest_id == first.id


async def test_the_details_of_a_stream(url: str, layout: str, redis: Any) -> None:
    await redis.xtrim(f"{layout}:1", maxlen=0, approximate=False)
    async with Collector(url, [layout]) as collector:
        [stream] = (await collector.poll()).streams
        details = await collector.details(stream)
    assert (details.recorded_shards, details.sharder) == (3, "KeyHash")
    assert (details.length, details.dead_letters) == (2, 1)
    if details.entries_added is not None:
        assert (details.entries_added, details.entries_removed) == (3, 1)
    sizes = [shard.memory_bytes or 0 for shard in details.shards]
    assert min(sizes) > 0
    assert details.memory_bytes == sum(sizes)
    assert details.shards[1].first_id is None


# -- cost and faults -------------------------------------------------------------------


async def calls(redis: Any) -> Mapping[str, int]:
    stats = await redis.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): facts["calls"] for name, facts in stats.items()
    }


async def test_a_poll_asks_one_question_of_each_kind_and_never_for_the_summary(
    tmp_path: Path,
) -> None:
    binary = binaries()["embedded"]
    names = [f"s{number}" for number in range(64)]
    async with started(tmp_path, binary, *names) as (redis, collector):
        for name in names:
            await redis.xadd(name, {"msg": "x" * 200})
            await redis.xgroup_create(name, "g", "0")
            await redis.xreadgroup("g", "c", {name: ">"})
        await collector.poll()
        await collector.poll()
        await redis.config_resetstat()
        await collector.poll()
        made = await calls(redis)
        asked = {
            name: made.get(name, 0)
            for name in ("xinfo|stream", "xinfo|groups", "xinfo|consumers", "xpending")
        }
        assert asked == dict.fromkeys(asked, 64)
        assert made["time"] == 1
        assert "xrange" not in made
        assert "scan" not in made


async def test_large_entries_are_fetched_once_a_minute(tmp_path: Path) -> None:
    binary = binaries()["embedded"]
    async with started(tmp_path, binary, "large", "small") as (redis, collector):
        await redis.xadd("small", {"msg": "x"})
        await redis.xgroup_create("large", "g", "0", mkstream=True)
        for _ in range(3):
            await redis.xadd("large", {"msg": b"x" * 40_000})
        await redis.xreadgroup("g", "c", {"large": ">"}, noack=True)
        await collector.poll()
        await redis.config_resetstat()
        assert await lag(collector, "large", "g") == (0, True)
        await redis.xadd("large", {"msg": b"x" * 40_000})
        number, exact = await lag(collector, "large", "g")
        made = await calls(redis)
        assert made["xinfo|stream"] == 2  # of the small one
        assert (number, exact) == (1, False)
        [large, _] = (await collector.poll()).streams
        assert large.length == 4


async def test_the_next_poll_reconnects_after_an_outage(tmp_path: Path) -> None:
    async with server(tmp_path) as own:
        async with own.client() as redis, Collector(own.url, ["s"]) as collector:
            await redis.xadd("s", {"a": "b"})
            assert len((await collector.poll()).streams) == 1
            own.kill()
            with pytest.raises(ConnectError):
                while True:
                    with suppress(ConnectionLost):
                        await collector.poll()
            await own.start()
            assert (await collector.poll()).streams[0].length == 1


async def test_a_user_who_may_not_search_is_told_so(
    url: str, stream: str, redis: Any
) -> None:
    await redis.execute_command(
        *f"ACL SETUSER looker on >secret ~{stream} resetchannels -@all +time".split()
    )
    own = with_login(url, "looker", "secret")
    try:
        async with Collector(own) as collector:
            with pytest.raises(AccessError, match=r"(?i)scan"):
                await collector.poll()
    finally:
        await redis.execute_command("ACL", "DELUSER", "looker")


def test_the_repr_has_no_secret() -> None:
    assert repr(Collector("redis://:secret@host")) == "<Collector closed>"
    assert json.dumps(GroupState.NO_CONSUMERS) == '"no consumers"'
