"""Owned shards: members share the shards, come and go, and keep the order of keys."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from penstock import Consumer, Message, Owned, Producer
from penstock.admin import Admin
from support.events import Events
from support.owned_group import OwnedGroup, open_group
from support.waiting import eventually, pending, send

SHARDS = 16
LOADS = {1: [16], 2: [8, 8], 3: [5, 5, 6], 4: [4, 4, 4, 4]}
CHURN = 12


async def brief(_: Message[bytes]) -> None:
    await asyncio.sleep(0.001)


def moved(before: dict[int, str], after: dict[int, str]) -> set[int]:
    """Return the shards that are another's now."""
    return {number for number in before if after[number] != before[number]}


def assert_in_order(group: OwnedGroup) -> None:
    """Check that all messages were handled once, and each key's in its order."""
    assert group.numbers() == list(range(group.sent))
    assert group.disorder() == []


async def test_each_joining_member_gets_its_share_by_the_fewest_moves(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, SHARDS) as group:
        before: dict[int, str] = {}
        for count, loads in LOADS.items():
            await group.join(f"m{count}")
            await group.settle(loads)
            after = await group.owners()
            if before:
                assert len(moved(before, after)) == SHARDS // count
            before = after


async def test_a_leaving_member_s_shards_move_and_no_others(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, SHARDS) as group:
        first, *_ = [await group.join(f"m{n}") for n in range(3)]
        await group.settle()
        before = await group.owners()
        name = first.consumer.name
        await group.leave(first)
        await group.settle()
        after = await group.owners()
        assert moved(before, after) == {n for n, own in before.items() if own == name}


async def test_each_shard_is_read_by_one_consumer_at_a_time(
    url: str, stream: str, redis: Any
) -> None:
    """Also with 4 messages at once, whose keys are in order over all consumers."""
    options = {"concurrency": 4, "ordering": "key"}
    async with open_group(url, stream, redis, SHARDS, brief, **options) as group:
        for count in range(3):
            await group.join(f"m{count}")
        await group.settle()
        await group.finish()
        await group.send(600)
        await group.finish()
        starts = group.starts[1:]
        assert len({(start.shard, start.member) for start in starts}) == SHARDS
        assert_in_order(group)


async def test_nothing_is_handled_twice_or_out_of_order_while_members_come_and_go(
    url: str, stream: str, redis: Any
) -> None:
    chance = random.Random(stream)
    options = {"concurrency": 4, "ordering": "key"}
    async with open_group(url, stream, redis, SHARDS, brief, **options) as group:
        await group.join("m0")
        for count in range(1, CHURN):
            await group.send(100)
            if len(group.members) > 1 and chance.random() < 0.5:
                await group.leave(chance.choice(group.members))
            else:
                await group.join(f"m{count}")
            # Now and then while shards are still on their way.
            await asyncio.sleep(chance.choice([0, 0.02, 0.1]))
        await group.finish()
        await group.settle()
        assert_in_order(group)
        for number in range(SHARDS):
            await eventually(lambda: is_acknowledged(redis, f"{stream}:{number}"))
        events = {e.name for m in group.members for e in m.events}
        assert events <= {"shard_taken", "shard_freed"}


async def is_acknowledged(redis: Any, key: str) -> bool:
    return not await redis.exists(key) or await pending(redis, key, "g") == 0


async def test_each_ownership_of_a_shard_has_a_greater_epoch(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 1) as group:
        for count in range(1, 4):
            member = await group.join(f"m{count}")
            await group.settle()
            await group.send(1)
            await group.finish()
            assert group.starts[-1].epoch == count
            assert await group.epochs() == {0: count}
            await group.leave(member)
        assert len(group.starts) == 4


async def test_more_members_than_shards_stand_by_and_take_over(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 2) as group:
        members = [await group.join(f"m{count}") for count in range(4)]
        await group.settle([0, 0, 1, 1])
        await group.send(40)
        await group.finish()
        for member in members[:2]:
            await group.leave(member)
        await group.settle([1, 1])
        await group.send(40)
        await group.finish()
        assert_in_order(group)


async def test_shards_that_are_added_are_shared_by_the_members(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 2) as group, Admin(url) as admin:
        for count in range(3):
            await group.join(f"m{count}")
        await group.settle([0, 1, 1])
        await admin.set_shards(stream, 8)
        group.shards = 8
        await group.settle([2, 3, 3])
        await group.send(80)
        await group.finish()
        assert group.numbers() == list(range(group.sent))
        assert len({start.shard for start in group.starts}) == 8


async def test_a_member_of_twice_the_weight_has_twice_as_many_shards(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 12) as group:
        heavy = await group.join("heavy", ownership=Owned(weight=2))
        await group.join("light")
        await group.settle([4, 8])
        assert heavy.owned == 8


async def test_a_named_member_comes_back_to_its_shards_and_moves_no_others(
    url: str, stream: str, redis: Any
) -> None:
    """A rolling restart; nobody waits for a lease."""
    names = [f"{stream}-{count}" for count in range(3)]
    async with open_group(url, stream, redis, SHARDS, brief) as group:
        for name in names:
            await group.join(name, name=name)
        await group.settle()
        before, epochs = await group.owners(), await group.epochs()
        for name in names:
            await group.send(50)
            await group.leave(next(m for m in group.members if m.label == name))
            await group.join(name, name=name)
            await group.settle()
            assert await group.owners() == before
        await group.finish()
        assert_in_order(group)
        after = await group.epochs()
        assert after == {number: epoch + 1 for number, epoch in epochs.items()}


async def test_a_new_group_waits_for_more_members_before_it_assigns_shards(
    url: str, stream: str, redis: Any
) -> None:
    settle = Owned(settle=1)
    async with open_group(url, stream, redis, SHARDS) as group:
        for count in range(4):
            await group.join(f"m{count}", ownership=settle)
        await group.settle()
        assert set((await group.epochs()).values()) == {1}


async def test_one_consumer_reads_an_unsharded_stream_and_another_stands_by(
    url: str, stream: str
) -> None:
    options: dict[str, Any] = {"url": url, "group": "g", "ownership": "owned"}
    got: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        got.append(int(message.payload))

    async with Consumer(stream, **options) as standby:
        async with Consumer(stream, **options) as other:
            await send(url, stream, *range(10))
            consumers = (standby, other)
            runs = [asyncio.create_task(each.run(handle)) for each in consumers]
            await eventually(lambda: holds_all(got, 10))
            owned = [each.statistics().owned for each in consumers]
            assert sorted(owned) == [0, 1]
        await send(url, stream, *range(10, 20))
        await eventually(lambda: holds_all(got, 20))
        assert got == list(range(20))
    await asyncio.gather(*runs)


async def holds_all(got: list[int], count: int) -> bool:
    return len(got) >= count


async def test_a_consumer_owns_shards_of_several_streams(url: str, stream: str) -> None:
    streams = (f"{stream}a", f"{stream}b")
    options: dict[str, Any] = {"url": url, "group": "g", "ownership": "owned"}
    got: Counter[str] = Counter()

    async def handle(message: Message[bytes]) -> None:
        got[message.stream] += 1

    async with Producer(url, shards=4) as producer:
        for each in streams:
            for number in range(40):
                await producer.enqueue(each, b"x", key=f"k{number}")
    async with (
        Consumer(*streams, **options) as one,
        Consumer(*streams, **options) as two,
    ):

        async def each_owns_two_of_each() -> bool:
            return all(
                Counter(shard.stream for shard in consumer.shards)
                == dict.fromkeys(streams, 2)
                for consumer in (one, two)
            )

        await eventually(each_owns_two_of_each)
        runs = [asyncio.create_task(each.run(handle)) for each in (one, two)]

        async def all_handled() -> bool:
            return got.total() >= 80

        await eventually(all_handled)
    await asyncio.gather(*runs)
    assert got == dict.fromkeys(streams, 40)


async def test_consumers_without_ownership_in_the_group_are_reported_and_lose_nothing(
    url: str, stream: str, redis: Any
) -> None:
    """Their messages are taken over once they are idle for a lease."""
    async with open_group(url, stream, redis, 4) as group:
        member = await group.join("m", ownership=Owned(lease=1))
        await group.settle([4])
        await group.finish()
        for number in range(4):
            await redis.xreadgroup("g", "shared", {f"{stream}:{number}": ">"}, count=1)
        name = "shared" * 100
        shared = Consumer(stream, url=url, group="g", name=name, on_event=Events())
        async with shared:
            await group.send(100)
            held = [await shared.next() for _ in range(3)]
        mixed: list[int] = [int(message.payload) for message in held]

        async def all_ended() -> bool:
            return {*group.ended, *mixed} >= set(range(group.sent))

        await eventually(all_ended)
        reported = member.events.named("group_mixed")
        named = [name for event in reported for name in event.facts["consumers"]]
        assert named
        assert max(map(len, named)) <= 80
        assert not member.events.named("shard_lost")
