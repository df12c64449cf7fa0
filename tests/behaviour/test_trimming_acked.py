"""`admin.trim` deletes as requested, and with ACKED nothing that a group needs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock import (
    ACKED,
    EARLIEST,
    KEEP_ALL,
    LATEST,
    AccessError,
    CommandError,
    ConfigurationError,
    Consumer,
    EntryId,
    MaxAge,
    MaxLen,
    Message,
    Producer,
    StreamMissing,
    admin,
    after,
)
from penstock._core.protocol.commands import Command
from penstock.admin import Admin, Trimmed
from support.server import with_login
from support.waiting import calls, eventually, spread

NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - the tests expect its refusal


async def add(redis: Any, key: str, *ids: int) -> None:
    for number in ids:
        await redis.xadd(key, {"msg": b"%d" % number}, id=f"{number}-0")


async def take(redis: Any, key: str, group: str, count: int) -> list[bytes]:
    """Let a consumer of a group read a number of entries."""
    await redis.xgroup_create(key, group, "0")
    [(_, entries)] = await redis.xreadgroup(group, "c", {key: ">"}, count=count)
    return [id_ for id_, _ in entries]


async def left(redis: Any, key: str) -> list[int]:
    return [int(id_.partition(b"-")[0]) for id_, _ in await redis.xrange(key)]


async def trim_acked(url: str, stream: str, **options: Any) -> Trimmed:
    [trimmed] = await admin.trim(stream, ACKED, url=url, **options)
    return trimmed


# -- ACKED ----------------------------------------------------------------------------


async def test_entries_that_a_stopped_group_has_pending_or_unread_are_kept(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 301))
    live = await take(redis, stream, "live", 300)
    await redis.xack(stream, "live", *live)
    stopped = await take(redis, stream, "stopped", 200)
    # 101 is pending, and so are 150 to 200; 201 to 300 are unread.
    acked = [id_ for id_ in stopped[:149] if id_ != b"101-0"]
    await redis.xack(stream, "stopped", *acked)
    trimmed = await trim_acked(url, stream)
    assert await left(redis, stream) == list(range(101, 301))
    assert trimmed.removed == 100
    assert trimmed.floor == EntryId(101)
    assert trimmed.shard.key == stream.encode()
    held = trimmed.held_by
    assert held is not None
    assert (held.name, held.pending) == ("stopped", 52)
    assert held.oldest_pending == EntryId(101)
    assert held.last_delivered == EntryId(200)
    assert held.lag in {100, None}
    assert held.idle is not None
    # Other acknowledged entries are trimmed when those before them are.
    await redis.xack(stream, "stopped", "101-0")
    assert (await trim_acked(url, stream)).removed == 49
    assert await left(redis, stream) == list(range(150, 301))


async def test_unread_entries_are_kept_where_nothing_is_pending(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    await redis.xack(stream, "g", *await take(redis, stream, "g", 4))
    assert (await trim_acked(url, stream)).removed == 4
    assert await left(redis, stream) == list(range(5, 11))


async def test_all_entries_are_trimmed_when_all_are_acknowledged(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    for group in ("a", "b"):
        await redis.xack(stream, group, *await take(redis, stream, group, 10))
    trimmed = await trim_acked(url, stream)
    assert (trimmed.removed, trimmed.held_by) == (10, None)
    assert await left(redis, stream) == []
    assert (await trim_acked(url, stream)).removed == 0


async def test_a_group_that_was_rewound_needs_the_entries_after_its_position(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    await take(redis, stream, "g", 10)
    await redis.xack(stream, "g", *[f"{n}-0" for n in range(1, 9)])
    await redis.xgroup_setid(stream, "g", "3-0")
    assert (await trim_acked(url, stream)).floor == EntryId(3, 1)
    assert await left(redis, stream) == list(range(4, 11))


async def test_without_a_group_no_entry_counts_as_acknowledged(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, 1, 2)
    assert await trim_acked(url, stream) == Trimmed(
        (await trim_acked(url, stream)).shard, 0
    )
    assert await left(redis, stream) == [1, 2]


async def test_each_shard_is_trimmed_by_its_own_groups(
    url: str, stream: str, redis: Any
) -> None:
    await spread(url, stream, *range(30))
    for number in range(3):
        key = f"{stream}:{number}"
        ids = await take(redis, key, "g", 10)
        if number:
            await redis.xack(key, "g", *ids[: 3 * number])
    trimmed = await admin.trim(stream, ACKED, url=url)
    assert [(t.shard.number, t.removed) for t in trimmed] == [(0, 0), (1, 3), (2, 6)]
    assert [await redis.xlen(f"{stream}:{n}") for n in range(3)] == [10, 7, 4]


async def test_a_group_without_consumers_is_ignored_by_the_age_of_its_last_delivery(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    await redis.xack(stream, "live", *await take(redis, stream, "live", 8))
    await redis.xgroup_create(stream, "dead", "4-0")
    trimmed = await trim_acked(url, stream)
    assert trimmed.removed == 4
    assert trimmed.held_by is not None
    assert trimmed.held_by.name == "dead"
    assert (trimmed.held_by.idle or 0) > 50 * 365 * 86_400  # it read in 1970
    trimmed = await trim_acked(url, stream, ignore_idle=timedelta(days=1))
    assert (trimmed.removed, trimmed.ignored) == (4, ("dead",))
    assert trimmed.held_by is not None
    assert trimmed.held_by.name == "live"
    assert await left(redis, stream) == [9, 10]


async def test_a_group_without_any_delivery_may_be_new_and_is_never_ignored(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    await redis.xgroup_create(stream, "new", "0")
    await redis.xack(stream, "live", *await take(redis, stream, "live", 8))
    trimmed = await trim_acked(url, stream, ignore_idle=0.001)
    assert trimmed.removed == 0
    assert trimmed.held_by is not None
    assert (trimmed.held_by.name, trimmed.held_by.idle) == ("new", None)


async def test_if_all_groups_are_ignored_nothing_is_deleted(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    await redis.xack(stream, "g", *await take(redis, stream, "g", 10))

    async def is_idle() -> bool:
        trimmed = await trim_acked(url, stream, ignore_idle=0.05, dry_run=True)
        return trimmed.ignored == ("g",)

    await eventually(is_idle)
    trimmed = await trim_acked(url, stream, ignore_idle=0.05)
    assert (trimmed.removed, trimmed.floor, trimmed.held_by) == (0, None, None)
    assert (await trim_acked(url, stream, ignore_idle=3600)).removed == 10


async def test_a_group_that_is_rewound_at_that_moment_loses_nothing(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    await redis.xack(stream, "g", *await take(redis, stream, "g", 10))
    async with Admin(url) as operator:
        calls, cuts = operator._connection.calls, 0

        async def late(batch: Sequence[Command]) -> list[Any]:
            nonlocal cuts
            if batch[0][0] == b"EVAL":
                cuts += 1
                if cuts == 1:
                    await redis.xgroup_setid(stream, "g", "6-0")
                if cuts == 2:
                    await redis.xgroup_create(stream, "new", "4-0")
            return await calls(batch)

        operator._connection.calls = late  # type: ignore[method-assign]
        [trimmed] = await operator.trim(stream, ACKED)
    assert cuts > 2
    assert trimmed.removed == 4
    assert trimmed.held_by is not None
    assert trimmed.held_by.name == "new"
    assert await left(redis, stream) == list(range(5, 11))


async def test_nothing_is_lost_by_trimming_while_groups_are_reading(
    url: str, stream: str, redis: Any
) -> None:
    count, got = 500, {"fast": set[bytes](), "slow": set[bytes]()}
    removed = 0
    async with (
        Consumer(stream, url=url, group="fast") as fast,
        Consumer(stream, url=url, group="slow") as slow,
        Producer(url, retention=KEEP_ALL) as producer,
        Admin(url) as operator,
        asyncio.TaskGroup() as group,
    ):

        async def handle(group: str, message: Message[bytes]) -> None:
            if group == "slow":
                await asyncio.sleep(0)
            got[group].add(message.payload)

        group.create_task(fast.run(lambda m: handle("fast", m), concurrency=4))
        group.create_task(slow.run(lambda m: handle("slow", m), concurrency=4))
        sending = asyncio.ensure_future(
            producer.send_many(stream, [b"%d" % n for n in range(count)])
        )
        async with asyncio.timeout(20):
            while not sending.done() or await redis.xlen(stream):
                [trimmed] = await operator.trim(stream, ACKED)
                removed += trimmed.removed
                await asyncio.sleep(0.01)
        await sending
        await fast.aclose()
        await slow.aclose()
    assert [len(each) for each in got.values()] == [count, count]
    assert removed == count


# -- numbers, ages, ids ---------------------------------------------------------------


async def test_many_entries_are_deleted_by_whole_nodes_up_to_the_length(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, retention=KEEP_ALL) as producer:
        await producer.send_many(stream, [b"a"] * 30_000)
    # One XTRIM with ~ deletes 10,000 at most, unless it has a LIMIT.
    [trimmed] = await admin.trim(stream, MaxLen(100), url=url)
    length = await redis.xlen(stream)
    assert 100 <= length <= 300
    assert trimmed.removed == 30_000 - length
    await admin.trim(stream, MaxLen(7, exact=True), url=url)
    assert await redis.xlen(stream) == 7


async def test_entries_before_an_id_or_a_time_are_trimmed(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1000, 1010))
    [trimmed] = await admin.trim(stream, EntryId(1002), url=url)
    assert (trimmed.removed, trimmed.floor) == (2, EntryId(1002))
    await admin.trim(stream, "1003-0", url=url)
    await admin.trim(stream, after("1003-0"), url=url)
    assert await left(redis, stream) == list(range(1004, 1010))
    moment = datetime.fromtimestamp(1.006, UTC)
    await admin.trim(stream, moment, url=url)
    assert await left(redis, stream) == list(range(1006, 1010))


async def test_entries_older_than_an_age_are_trimmed_by_the_server_s_clock(
    url: str, stream: str, redis: Any
) -> None:
    now, micros = await redis.time()
    ms = now * 1000 + micros // 1000
    hour = 3_600_000
    await add(redis, stream, ms - 3 * hour, ms - 2 * hour, ms - hour // 2)
    await admin.trim(stream, MaxAge(3600, exact=True), url=url)
    assert await left(redis, stream) == [ms - hour // 2]


@pytest.mark.parametrize(
    ("to", "count"),
    [
        (ACKED, 5),
        (MaxLen(4), 6),
        (MaxLen(40), 0),
        (MaxAge(60), 10),
        (EntryId(3), 2),
        (EntryId(1), 0),
        ("0-0", 0),
    ],
)
async def test_a_dry_run_counts_entries_and_deletes_none(
    url: str, stream: str, redis: Any, to: Any, count: int
) -> None:
    await add(redis, stream, *range(1, 11))
    await redis.xack(stream, "g", *(await take(redis, stream, "g", 10))[:5])
    [trimmed] = await admin.trim(stream, to, dry_run=True, url=url)
    assert trimmed.removed == count
    assert await redis.xlen(stream) == 10


# -- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to", [EARLIEST, LATEST, "latest", KEEP_ALL, None, 5, "x", NAIVE]
)
async def test_trimming_to_an_invalid_position_is_refused(
    url: str, stream: str, to: Any
) -> None:
    with pytest.raises(ConfigurationError):
        await admin.trim(stream, to, url=url)


async def test_groups_can_be_ignored_with_acked_only(url: str, stream: str) -> None:
    with pytest.raises(ConfigurationError, match="ACKED"):
        await admin.trim(stream, MaxLen(5), ignore_idle=5, url=url)
    with pytest.raises(ConfigurationError, match="ignore_idle"):
        await admin.trim(stream, ACKED, ignore_idle=-1, url=url)


@pytest.mark.parametrize("to", [ACKED, MaxLen(5), EntryId(5)])
async def test_a_missing_stream_or_a_key_of_another_type_is_named(
    url: str, stream: str, redis: Any, to: Any
) -> None:
    with pytest.raises(StreamMissing, match=stream):
        await admin.trim(stream, to, url=url)
    await redis.set(stream, "text")
    with pytest.raises(CommandError, match=r"WRONGTYPE|Operation against a key"):
        await admin.trim(stream, to, url=url)
    await redis.delete(stream)


async def test_an_operator_with_the_fewest_permissions_can_trim(
    url: str, stream: str, redis: Any
) -> None:
    await add(redis, stream, *range(1, 11))
    await redis.xack(stream, "g", *(await take(redis, stream, "g", 10))[:5])
    rules = ["on", ">pw", f"~{stream}*", "-@all", "+@connection", "+@transaction"]
    rules += ["+exists", "+type", "+xinfo", "+xpending", "+xtrim"]
    await redis.execute_command("ACL", "SETUSER", stream, *rules)
    login = with_login(url, stream, "pw")
    try:
        # Without scripts.
        assert (await trim_acked(login, stream)).removed == 5
        assert await left(redis, stream) == list(range(6, 11))
        # Without the time, groups' ages can't be known.
        with pytest.raises(AccessError):
            await trim_acked(login, stream, ignore_idle=5)
        # With scripts, and all other commands that are used.
        more = ["+time", "+eval", "+xrange"]
        await redis.execute_command("ACL", "SETUSER", stream, *more)
        before = await calls(redis, "eval")
        await redis.xack(stream, "g", "6-0")
        assert (await trim_acked(login, stream, ignore_idle=3600)).removed == 1
        assert await calls(redis, "eval") > before
        assert (await trim_acked(login, stream, dry_run=True)).removed == 0
    finally:
        await redis.execute_command("ACL", "DELUSER", stream)
