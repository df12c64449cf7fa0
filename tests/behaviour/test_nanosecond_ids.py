"""Ids of nanoseconds: a datetime is a position in them, too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock import (
    DISABLED,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Consumer,
    EntryId,
    MaxAge,
    Mode,
    Shard,
    admin,
    replay,
)
from support.server import with_login
from support.waiting import numbers, read, record_shards

MODES = [REALTIME, RESUMABLE, LOAD_BALANCED]
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
# The moment between the entries 4 and 5.
BETWEEN = NOW - timedelta(minutes=5, microseconds=1)


def grouped(mode: Mode) -> str | None:
    return None if mode is REALTIME else "g"


def moment(number: int) -> datetime:
    """Return the time of an entry."""
    return NOW - timedelta(minutes=10 - number)


async def write(redis: Any, key: str, *, nanoseconds: bool = True) -> None:
    """Write entries 0 to 9, one a minute until now."""
    for number in range(10):
        id_ = EntryId.at(moment(number), nanoseconds=nanoseconds)
        await redis.xadd(key, {"msg": number}, id=f"{id_.ms}-1")


@pytest.mark.parametrize("mode", MODES)
async def test_a_consumer_starts_at_a_time(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await write(redis, stream)
    async with Consumer(
        stream, url=url, mode=mode, group=grouped(mode), start=BETWEEN
    ) as consumer:
        messages = await read(consumer, 5)
        assert numbers(messages) == [5, 6, 7, 8, 9]
        assert messages[0].timestamp == moment(5)


@pytest.mark.parametrize("mode", MODES)
async def test_each_stream_has_the_ids_that_it_has(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    other, missing = f"{stream}-2", f"{stream}-3"
    await write(redis, stream)
    await write(redis, other, nanoseconds=False)
    async with Consumer(
        *(stream, other, missing),
        url=url,
        mode=mode,
        group=grouped(mode),
        start=BETWEEN,
    ) as consumer:
        seen = {name: list[int]() for name in (stream, other)}
        for message in await read(consumer, 10):
            seen[message.stream].append(int(message.payload))
        assert seen == {stream: [5, 6, 7, 8, 9], other: [5, 6, 7, 8, 9]}
        # A stream that appears later is read from its beginning.
        await write(redis, missing)
        assert numbers(await read(consumer, 10)) == list(range(10))


async def test_a_shard_that_is_assigned_later_starts_at_the_time_too(
    url: str, stream: str, redis: Any
) -> None:
    await record_shards(redis, stream, 2)
    await write(redis, f"{stream}:0", nanoseconds=False)
    await write(redis, f"{stream}:1")
    async with Consumer(stream, url=url, start=BETWEEN, shards=[0]) as consumer:
        assert numbers(await read(consumer, 5)) == [5, 6, 7, 8, 9]
        await consumer.assign(Shard(stream, 1, f"{stream}:1".encode()))
        assert numbers(await read(consumer, 5)) == [5, 6, 7, 8, 9]


async def test_where_streams_may_not_be_described_a_time_means_milliseconds(
    url: str, stream: str, redis: Any
) -> None:
    await write(redis, stream)
    await write(redis, f"{stream}-2", nanoseconds=False)
    rules = ("+@all", "-xinfo", "-@scripting")
    await redis.execute_command("ACL", "SETUSER", stream, "on", "nopass", "~*", *rules)
    login = with_login(url, stream, "x")
    async with Consumer(stream, url=login, group="g", start=BETWEEN) as consumer:
        # So nothing is left out.
        assert numbers(await read(consumer, 10)) == list(range(10))
    async with Consumer(f"{stream}-2", url=login, group="g", start=BETWEEN) as other:
        assert numbers(await read(other, 5)) == [5, 6, 7, 8, 9]
    await redis.acl_deluser(stream)


@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE])
async def test_a_consumer_seeks_a_time(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    other, missing = f"{stream}-2", f"{stream}-3"
    await write(redis, stream)
    await write(redis, other, nanoseconds=False)
    options: dict[str, Any] = {}
    if mode is RESUMABLE:
        options = {"group": "g", "auto_commit": DISABLED}
    streams = (stream, other, missing)
    async with Consumer(
        *streams, url=url, mode=mode, start="earliest", **options
    ) as consumer:
        await read(consumer, 20)
        for place, first in ((moment(5), 5), (BETWEEN, 5), (NOW - HOUR, 0)):
            await consumer.seek(place)
            found = numbers(await read(consumer, 2 * (10 - first)))
            assert sorted(found) == sorted([*range(first, 10)] * 2)
        # After all that there is.
        await consumer.seek(NOW + HOUR)
        new = EntryId.at(NOW + 2 * HOUR, nanoseconds=True)
        await redis.xadd(stream, {"msg": 10}, id=str(new))
        assert numbers(await read(consumer, 1)) == [10]


async def test_a_group_is_reset_to_a_time(url: str, stream: str, redis: Any) -> None:
    await record_shards(redis, stream, 3)
    await write(redis, f"{stream}:0")
    await write(redis, f"{stream}:1", nanoseconds=False)
    # This shard does not have the group.
    await write(redis, f"{stream}:2")
    for number in (0, 1):
        await redis.xgroup_create(f"{stream}:{number}", "g", "$")
    await admin.reset_group(stream, "g", BETWEEN, url=url)
    async with Consumer(stream, url=url, group="g") as consumer:
        found = numbers(await read(consumer, 15))
        assert sorted(found) == sorted([*range(5, 10)] * 3)


async def test_a_replay_has_times_as_its_ends(
    url: str, stream: str, redis: Any
) -> None:
    await record_shards(redis, stream, 2)
    await write(redis, f"{stream}:0")
    await write(redis, f"{stream}:1", nanoseconds=False)
    # The microsecond of the last one is included.
    [last] = await redis.xrevrange(f"{stream}:0", count=1)
    later = EntryId(EntryId.parse(last[0]).ms + 999, 5)
    await redis.xadd(f"{stream}:0", {"msg": 10}, id=str(later))
    for reverse in (False, True):
        past = replay(stream, moment(3), moment(6), url=url, reverse=reverse)
        found = [int(message.payload) async for message in past]
        assert sorted(found) == [3, 3, 4, 4, 5, 5, 6, 6]
    past = replay(stream, BETWEEN, moment(9), url=url, shards=[0])
    assert [int(message.payload) async for message in past] == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("by_age", [False, True])
@pytest.mark.parametrize("nanoseconds", [True, False])
async def test_a_stream_is_trimmed_by_time_and_age(
    url: str, stream: str, redis: Any, *, by_age: bool, nanoseconds: bool
) -> None:
    # The test takes some time itself.
    age = datetime.now(UTC) - BETWEEN + timedelta(seconds=30)
    to = MaxAge(age, exact=True) if by_age else BETWEEN
    await write(redis, stream, nanoseconds=nanoseconds)
    await redis.xgroup_create(stream, "g", "0")
    [loss] = await admin.trim_losses(stream, to, url=url)
    assert loss.unread == 5
    [planned] = await admin.trim(stream, to, url=url, dry_run=True)
    [trimmed] = await admin.trim(stream, to, url=url)
    assert (planned.removed, trimmed.removed) == (5, 5)
    assert trimmed.floor is not None
    assert abs(trimmed.floor.timestamp - BETWEEN) < timedelta(minutes=1)
    left = [int(fields[b"msg"]) for _, fields in await redis.xrange(stream)]
    assert left == [5, 6, 7, 8, 9]
