"""Owned shards: lost connections, members cut off from the server, and lost data."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import Message, Owned
from support.owned_group import Member, OwnedGroup, Start, open_group
from support.proxy import Proxy, proxy
from support.server import server
from support.waiting import eventually

LEASE = 1.0
SHORT = Owned(lease=LEASE)
RUN = {"concurrency": 4, "ordering": "key"}


async def brief(_: Message[bytes]) -> None:
    await asyncio.sleep(0.002)


@asynccontextmanager
async def load(group: OwnedGroup) -> AsyncIterator[None]:
    """Send during a block, and wait in the end until all of that is handled."""
    stopped = asyncio.Event()

    async def run() -> None:
        while not stopped.is_set():
            await group.send(10)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        stopped.set()
        await task
    await group.finish()


def assert_in_order(group: OwnedGroup) -> None:
    """Check the order of first starts, and that no old ownership starts anything."""
    epochs: defaultdict[int, int] = defaultdict(int)
    late: list[Start] = []
    for start in group.starts:
        if start.epoch < epochs[start.shard]:
            late.append(start)
        epochs[start.shard] = max(start.epoch, epochs[start.shard])
    assert late == []
    assert group.disorder() == []


async def cut_off_silently(link: Proxy) -> Callable[[], None]:
    """Let nothing pass either way; the result ends that."""
    link.hold = link.hold_requests = lambda _: True

    def end() -> None:
        link.hold = link.hold_requests = lambda _: False

    return end


@pytest.mark.parametrize("way", ["silent", "refused"])
async def test_a_member_that_is_cut_off_for_longer_than_its_lease_loses_its_shards(
    url: str, stream: str, redis: Any, way: str
) -> None:
    """It starts nothing meanwhile, and takes part again afterwards."""
    async with (
        proxy(url) as link,
        open_group(url, stream, redis, 8, brief, **RUN) as group,
    ):
        alone = await group.join("alone", url=link.url, ownership=SHORT)
        await group.join("other", ownership=SHORT)
        await group.settle()
        async with load(group):
            if way == "silent":
                end = await cut_off_silently(link)
            else:
                await link.stop()

            async def other_owns_all() -> bool:
                owners = Counter((await group.owners()).values())
                return owners == {group.members[1].consumer.name: 8}

            await eventually(other_owns_all)
            started = [start for start in group.starts if start.member == "alone"]
            await asyncio.sleep(LEASE / 2)
            assert started == [s for s in group.starts if s.member == "alone"]
            if way == "silent":
                end()
            else:
                await link.start()
            await group.settle([4, 4])
        assert_in_order(group)
        assert alone.events.named("shard_lost")


async def test_a_member_that_is_cut_off_for_less_than_its_lease_keeps_its_shards(
    url: str, stream: str, redis: Any
) -> None:
    lease = Owned(lease=6)
    async with (
        proxy(url) as link,
        open_group(url, stream, redis, 8, brief, **RUN) as group,
    ):
        alone = await group.join("alone", url=link.url, ownership=lease)
        await group.join("other", ownership=lease)
        await group.settle()
        epochs = await group.epochs()
        async with load(group):
            await link.stop()
            await asyncio.sleep(0.5)
            await link.start()
            await group.settle()
        assert await group.epochs() == epochs
        assert alone.events.named("shard_lost") == []
        assert_in_order(group)


async def test_nothing_is_lost_where_connections_are_cut_while_members_come_and_go(
    url: str, stream: str, redis: Any
) -> None:
    chance = random.Random(stream)
    async with (
        proxy(url) as link,
        open_group(url, stream, redis, 8, brief, **RUN) as group,
    ):
        options: dict[str, Any]
        options = {"url": link.url, "ownership": SHORT, "open_timeout": 20}
        async with load(group):
            await group.join("m0", **options)
            async with cuts(link, chance):
                for count in range(1, 8):
                    if len(group.members) > 1 and chance.random() < 0.4:
                        await group.leave(chance.choice(group.members))
                    else:
                        await group.join(f"m{count}", **options)
                    await asyncio.sleep(chance.choice([0, 0.1, 0.3]))
        await group.settle()
        assert_in_order(group)


@asynccontextmanager
async def cuts(link: Proxy, chance: random.Random) -> AsyncIterator[None]:
    """Cut all connections now and then during a block."""

    async def cut() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            link.cut()

    task = asyncio.create_task(cut())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_group_whose_hash_is_deleted_goes_on_and_writes_it_again(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 8, brief, **RUN) as group:
        for label in "ab":
            await group.join(label, ownership=SHORT)
        await group.settle()
        async with load(group):
            await redis.delete(f"{{{stream}}}.members:g")

            async def is_there_again() -> bool:
                facts = await redis.hgetall(f"{{{stream}}}.members:g")
                return b"a" in facts and sum(k.startswith(b"m:") for k in facts) == 2

            await eventually(is_there_again)
            await group.settle()
            await group.join("c", ownership=SHORT)
            await group.settle()
        assert max((await group.epochs()).values()) <= 10
        assert group.numbers() == list(range(group.sent))
        assert_in_order(group)


async def test_a_shard_whose_hash_is_deleted_is_taken_again(
    url: str, stream: str, redis: Any
) -> None:
    """Its owner finds that it does not own it any more; no outcome is lost."""
    async with open_group(url, stream, redis, 4, brief, **RUN) as group:
        members = [await group.join(label, ownership=SHORT) for label in "ab"]
        await group.settle()
        async with load(group):
            for key in group.owner_keys():
                await redis.delete(key)

            async def all_lost() -> bool:
                return total(members, "shard_lost") == 4

            await eventually(all_lost)
            await group.settle()
        assert group.disorder() == []
        assert total(members, "shard_taken") <= 4 * 10


def total(members: list[Member], name: str) -> int:
    return sum(len(member.events.named(name)) for member in members)


async def test_members_go_on_after_all_data_were_deleted(
    stream: str, tmp_path: Path
) -> None:
    """No storm: each shard is taken few times, and new messages are handled."""
    async with server(tmp_path) as own, own.client() as redis:
        async with open_group(own.url, stream, redis, 8, brief, **RUN) as group:
            members = [await group.join(label, ownership=SHORT) for label in "ab"]
            await group.settle()
            await group.send(50)
            await group.finish()
            await redis.flushall()
            began = time.monotonic()
            before = group.sent
            await group.send(50)
            await group.finish()
            await group.settle()
            assert max((await group.epochs()).values()) <= 10
            assert total(members, "shard_taken") <= 8 * 10
            assert time.monotonic() - began < 20
            new = [start for start in group.starts if start.number >= before]
            assert len({start.number for start in new}) == 50
