"""Deleting a stream also deletes what groups have stored about its owned shards."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import Consumer
from penstock.admin import Admin
from support.members import Members
from support.owned_group import open_group
from support.waiting import eventually, numbers, read, send


async def delete(url: str, stream: str) -> bool:
    async with Admin(url) as admin:
        return await admin.delete_stream(stream)


async def keys_of(redis: Any, stream: str) -> set[bytes]:
    return {key async for key in redis.scan_iter(match=f"*{stream}*", count=1000)}


async def test_with_the_stream_go_the_hashes_of_groups_whose_consumers_are_closed(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 3) as group:
        for label in ("first", "second"):
            member = await group.join(label)
            await group.finish()
            await group.settle()
            await group.leave(member)
    assert {b"{%b:1}.owner:g" % stream.encode()} < await keys_of(redis, stream)
    assert await delete(url, stream)
    assert await keys_of(redis, stream) == set()


async def test_the_hashes_of_a_stream_without_shards_go_too(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", ownership="owned") as consumer:
        assert numbers(await read(consumer, 1)) == [1]
    assert len(await keys_of(redis, stream)) == 3
    assert await delete(url, stream)
    assert await keys_of(redis, stream) == set()


async def test_a_group_with_a_living_owner_keeps_its_hashes_and_goes_on(
    url: str, stream: str, redis: Any
) -> None:
    """Its consumers recreate the stream, and keep their shards."""
    other = Members(redis, stream, 4, group="other")
    async with open_group(url, stream, redis, 4) as group:
        await other.open({0: "gone", 1: "gone", 2: "gone", 3: "gone"})
        for number in range(4):
            await other.free(number)
        member = await group.join("m")
        await group.finish()
        await group.settle()
        epochs = await group.epochs()
        assert await delete(url, stream)
        assert await redis.exists(*group.owner_keys()) == 4
        assert await redis.hexists(f"{{{stream}}}.members:g", "v")
        assert not await redis.exists(other.key, *map(other.owner, range(4)))
        await group.send(20)
        await group.finish()
        assert await group.epochs() == epochs
        assert not member.events.named("shard_lost")
        await group.leave(member)

        async def is_there_again() -> bool:
            return bool(await redis.exists(f"{stream}:0"))

        await eventually(is_there_again)
        assert await delete(url, stream)
        assert await keys_of(redis, stream) == set()


@pytest.mark.parametrize("lease", [0, 60_000])
async def test_an_owner_whose_lease_is_over_keeps_nothing(
    url: str, stream: str, redis: Any, lease: int
) -> None:
    members = Members(redis, stream, 2)
    await members.open({0: "a", 1: "a"})
    for number in range(2):
        await members.take(number, "a", lease=lease, serial=2)
    assert await delete(url, stream)
    left = await keys_of(redis, stream)
    owners = {members.owner(number) for number in range(2)}
    assert left == ({members.key, *owners} if lease else set())
