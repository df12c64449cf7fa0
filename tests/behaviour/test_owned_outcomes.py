"""Owned shards: what becomes of messages when a shard is handed over or they fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from penstock import (
    Consumer,
    Message,
    Owned,
    Producer,
    Retry,
    RoundRobin,
)
from penstock.admin import Admin
from support.events import Events
from support.owned_group import open_group
from support.waiting import eventually, pending, read, send


async def test_a_message_whose_handler_outlasts_the_drain_is_handled_by_the_next_owner(
    url: str, stream: str, redis: Any
) -> None:
    """The old handler sees that it has lost it, and its transaction is not applied."""
    started, go_on = asyncio.Event(), asyncio.Event()
    lost: list[bool] = []
    applied: list[bool | None] = []

    async def slow(message: Message[bytes]) -> None:
        started.set()
        await go_on.wait()
        lost.append(message.lost)
        async with message.transaction() as tx:
            tx.command("INCRBY", f"{{{stream}:0}}.total", 1)
        applied.append(tx.applied)

    async with open_group(url, stream, redis, 1) as group:
        first = await group.join("first", slow, ownership=Owned(drain=0.2))
        await started.wait()
        leaving = asyncio.create_task(group.leave(first))
        await group.join("next")
        await group.finish()
        assert [start.member for start in group.starts] == ["first", "next"]
        assert [start.attempt for start in group.starts] == [1, 2]
        go_on.set()
        await leaving
        assert lost == [True]
        assert applied == [False]
        assert not await redis.exists(f"{{{stream}:0}}.total")
        [event] = first.events.named("drain_incomplete")
        assert event.facts["messages"] == event.facts["running"] == 1
        assert event.facts["unanswered"] == 0
        await eventually(lambda: nothing_is_pending(redis, f"{stream}:0"))


async def nothing_is_pending(redis: Any, key: str) -> bool:
    return await pending(redis, key, "g") == 0


async def test_a_hand_over_waits_for_handlers_that_end_within_the_drain(
    url: str, stream: str, redis: Any
) -> None:
    """While they run, the shard is theirs for as long as that takes."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Message[bytes]) -> None:
        started.set()
        await go_on.wait()

    async with open_group(url, stream, redis, 1, concurrency=4) as group:
        options = Owned(lease=1)
        first = await group.join("first", slow, ownership=options)
        await started.wait()
        await group.send(20)
        leaving = asyncio.create_task(group.leave(first))
        standby = await group.join("next", ownership=options)
        await asyncio.sleep(2)  # two leases
        assert standby.owned == 0
        go_on.set()
        await leaving
        await group.finish()
        assert group.numbers() == list(range(group.sent))
        assert first.events.named("drain_incomplete") == []


async def test_messages_that_wait_for_a_retry_move_with_their_shard(
    url: str, stream: str, redis: Any
) -> None:
    """They don't delay the hand-over, and their attempts are counted on."""
    failed = asyncio.Event()

    async def fail(_: Message[bytes]) -> None:
        failed.set()
        raise LookupError

    async with open_group(url, stream, redis, 1) as group:
        retry = Retry(backoff=[3600])
        first = await group.join("first", fail, retry=retry)
        await failed.wait()
        await group.leave(first)
        await group.join("next", retry=retry)
        await group.finish()
        assert [start.attempt for start in group.starts] == [1, 2]


async def test_a_failing_message_gets_into_the_dead_letters_once_whoever_owns_it(
    url: str, stream: str, redis: Any
) -> None:
    """Its shard changes hands between its attempts; its neighbours are handled once."""

    async def fail_3(message: Message[bytes]) -> None:
        if int(message.payload) == 3:
            raise LookupError

    retry = Retry(max_attempts=5, backoff=[0.05])
    dead = f"{stream}.dead"
    async with open_group(url, stream, redis, 2, fail_3) as group:
        await group.send(9)

        async def is_dead() -> bool:
            return bool(await redis.exists(dead))

        turn = 0
        while not await is_dead():
            turn += 1
            attempts = Counter(start.number for start in group.starts)[3]
            member = await group.join(f"m{turn}", retry=retry, dead_letters=dead)

            async def tried(before: int = attempts) -> bool:
                now = Counter(start.number for start in group.starts)[3]
                return now > before or await is_dead()

            await eventually(tried)
            await group.leave(member)
        await group.join("last", retry=retry, dead_letters=dead)

        async def others_ended() -> bool:
            return {3, *group.ended} == set(range(group.sent))

        await eventually(others_ended)
        starts = Counter(start.number for start in group.starts)
        assert starts == {number: 5 if number == 3 else 1 for number in range(10)}
        attempts_3 = [each.attempt for each in group.starts if each.number == 3]
        assert attempts_3 == [1, 2, 3, 4, 5]
        async with Admin(url) as admin:
            letters = await admin.dead.list(stream, dead_letters=dead)
        assert [letter.payload for letter in letters] == [b"3"]


async def test_transactions_are_applied_once_while_members_come_and_go(
    url: str, stream: str, redis: Any
) -> None:
    async def add(message: Message[bytes]) -> None:
        counts = f"{{{stream}:{message.shard}}}.counts"
        async with message.transaction() as tx:
            tx.command("HINCRBY", counts, int(message.payload), 1)

    async with open_group(url, stream, redis, 4, add, concurrency=4) as group:
        for count in range(4):
            await group.send(50)
            await group.join(f"m{count}")
        for member in group.members[:2]:
            await group.leave(member)
        await group.finish()
        counts: dict[int, int] = {}
        for shard in range(4):
            found = await redis.hgetall(f"{{{stream}:{shard}}}.counts")
            counts |= {int(number): int(count) for number, count in found.items()}
    assert counts == dict.fromkeys(range(group.sent), 1)


async def test_batches_are_handled_whole_before_their_shards_move(
    url: str, stream: str
) -> None:
    """A batch may hold messages of several shards."""
    handled: list[int] = []

    async def handle(messages: Sequence[Message[bytes]]) -> None:
        handled.extend(int(message.payload) for message in messages)
        await asyncio.sleep(0.02)

    options: dict[str, Any] = {"url": url, "group": "g", "ownership": "owned"}
    first, second = Consumer(stream, **options), Consumer(stream, **options)
    async with Producer(url, shards=4) as producer:
        for number in range(400):
            await producer.enqueue(stream, b"%d" % number, key=f"k{number % 20}")

    async def all_handled() -> bool:
        return len(set(handled)) == 400

    async with first:
        runs = [asyncio.create_task(first.run(handle, batch=20))]

        async def some_handled() -> bool:
            return bool(handled)

        await eventually(some_handled)
        async with second:
            runs.append(asyncio.create_task(second.run(handle, batch=20)))
            await eventually(all_handled)
    await asyncio.gather(*runs)
    assert sorted(handled) == list(range(400))


@pytest.mark.parametrize("policy", ["processed", "rolling", "disabled"])
@pytest.mark.parametrize("way", ["loop", "next", "take"])
async def test_messages_that_were_received_without_run_are_handled_once(
    url: str, stream: str, redis: Any, policy: str, way: str
) -> None:
    got: list[int] = []

    async def settle(consumer: Consumer[bytes], message: Message[bytes]) -> None:
        got.append(int(message.payload))
        if policy != "processed":
            assert message.ack()
        if policy == "disabled":
            await consumer.commit()

    async def receive(consumer: Consumer[bytes]) -> None:
        if way == "loop":
            async for message in consumer:
                await settle(consumer, message)
        while len(set(got)) < 100:
            if way == "take":
                for message in await consumer.take(10, timeout=0.1):
                    await settle(consumer, message)
            elif received := await consumer.next(timeout=0.1):
                await settle(consumer, received)

    options: dict[str, Any] = {"url": url, "group": "g", "ownership": "owned"}
    options["auto_commit"] = policy
    async with Producer(url, shards=4) as producer:
        for number in range(100):
            await producer.enqueue(stream, b"%d" % number, key=f"k{number}")
    members: list[Consumer[bytes]] = [Consumer(stream, **options) for _ in range(2)]
    tasks = []
    for member in members:
        await member.start()
        tasks.append(asyncio.create_task(receive(member)))

    async def all_got() -> bool:
        return len(set(got)) == 100

    await eventually(all_got)
    if way != "loop":
        await asyncio.gather(*tasks)
    for member in members:
        await member.aclose()
    await asyncio.gather(*tasks)
    left = [await pending(redis, f"{stream}:{n}", "g") for n in range(4)]
    assert sorted(got) == list(range(100))
    # But for the last messages of tasks that did not come back for others.
    assert not any(left) or policy == "processed"


async def test_a_message_with_too_many_fields_for_a_script_is_dead_lettered_once(
    url: str, stream: str, redis: Any
) -> None:
    await redis.xadd(stream, {b"msg": b"x", **{b"%d" % n: b"" for n in range(4000)}})
    options: dict[str, Any] = {"group": "g", "retry": Retry(max_attempts=1)}
    async with Consumer(stream, url=url, ownership="owned", **options) as consumer:
        (await consumer.next()).reject("no")
        assert await consumer.next(timeout=0) is None

        async def is_settled() -> bool:
            return not await pending(redis, stream, "g")

        await eventually(is_settled)
    [(_, fields)] = await redis.xrange(f"{stream}.dead")
    assert len(fields) > 4000


async def test_a_message_that_is_not_acknowledged_by_hand_is_the_next_owner_s(
    url: str, stream: str
) -> None:
    """The hand-over waits for it no longer than the drain."""
    given: dict[str, Any] = {"url": url, "group": "g", "auto_commit": "disabled"}
    events = Events()
    async with Producer(url, sharder=RoundRobin(2)) as producer:
        for payload in (b"0", b"1"):
            await producer.send(stream, payload)
    first: Consumer[bytes] = Consumer(
        stream, ownership=Owned(drain=0.2), on_event=events, **given
    )
    second: Consumer[bytes] = Consumer(stream, ownership="owned", **given)
    async with first:
        messages = await read(first, 2)
        async with second:
            again = await second.next()
            [lost] = [message for message in messages if message.lost]
            [kept] = [message for message in messages if not message.lost]
            assert again.id == lost.id
            assert again.epoch == lost.epoch + 1
            assert not lost.ack()
            assert again.ack()
            assert kept.ack()
        [event] = events.named("drain_incomplete")
        assert event.facts["ids"] == (str(lost.id),)
        assert event.facts["messages"] == 1


async def test_what_is_not_acknowledged_as_its_key_is_no_stream_comes_again(
    url: str, stream: str, redis: Any
) -> None:
    """It comes to the shard's owner, and doesn't wait for the next one."""
    events, attempts = Events(), list[int]()

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        if len(attempts) == 1:
            await redis.rename(stream, f"{stream}.away")
            await redis.set(stream, "other")

    async def is_dropped() -> bool:
        return bool(events.named("commit_dropped"))

    await send(url, stream, 1)
    async with (
        asyncio.timeout(20),
        Consumer(
            stream, url=url, group="g", ownership="owned", on_event=events
        ) as consumer,
        asyncio.TaskGroup() as tasks,
    ):
        running = tasks.create_task(consumer.run(handle))
        await eventually(is_dropped)
        await redis.rename(f"{stream}.away", stream)
        await eventually(lambda: nothing_is_pending(redis, stream))
        running.cancel()
    assert attempts == [1, 2]
