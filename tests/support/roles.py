"""The ordinary life of those whose permissions docs/security.md gives.

An act is a piece of such a life. It is told the URL to use and, to look and to break
things from outside, redis-py's client; it raises or fails where the role can't do it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from penstock import (
    ACKED,
    DELAYED,
    DISABLED,
    EARLIEST,
    IMMEDIATE,
    LATEST,
    LOAD_BALANCED,
    PROCESSED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    Claim,
    Commit,
    Consumer,
    Event,
    MaxAge,
    MaxLen,
    Message,
    NotDurable,
    Producer,
    Retry,
    RoundRobin,
    SendUnknown,
    replay,
)
from penstock.admin import Admin
from support.dying import die
from support.failing import Boom, running
from support.waiting import eventually, numbers, pending, read

__all__ = ["Act", "Stage"]

SHORT_IDLE = 0.25
SHORT = Claim(idle=0.2, interval=0.1)


@dataclass
class Stage:
    """Where an act takes place.

    Attributes:
        url: The server, with the role's login.
        stream: The stream; nobody has anything in it.
        redis: A client that may do all.
        user: The role's user.
        events: What was told.
        took: Seconds, where an act says how long something took.
    """

    url: str
    stream: str
    redis: Any
    user: str
    events: list[Event] = field(default_factory=list)
    took: float = 0.0

    def consumer(self, *streams: str, **options: Any) -> Consumer[bytes]:
        """Make a consumer of this stage."""
        given: dict[str, Any] = {"url": self.url, "group": "g", "close_timeout": 1}
        given["on_event"] = self.events.append
        if options.get("mode") is REALTIME:
            del given["group"]
        return Consumer(*(streams or (self.stream,)), **{**given, **options})

    def producer(self, **options: Any) -> Producer:
        """Make a producer of this stage."""
        return Producer(self.url, on_event=self.events.append, **options)

    async def add(self, *values: int, key: str | None = None) -> None:
        """Have something in the stream."""
        for value in values:
            await self.redis.xadd(key or self.stream, {"msg": str(value)})

    async def cut(self) -> None:
        """Cut all of this user's connections."""
        await self.redis.execute_command("CLIENT", "KILL", "USER", self.user)

    def told(self, name: str) -> bool:
        """Whether an event of that name was reported."""
        return any(event.name == name for event in self.events)


Act: TypeAlias = Callable[[Stage], Awaitable[None]]

# -- producers -------------------------------------------------------------------------


async def sends(stage: Stage) -> None:
    async with stage.producer() as producer:
        await producer.send(stage.stream, b"0", key="k", headers={"h": "1"})
        await producer.send_many(stage.stream, [b"1", b"2"])
        await producer.send(stage.stream, b"3", retention=MaxLen(100))
        age = MaxAge(timedelta(days=1))
        await (await producer.enqueue(stage.stream, b"4", retention=age))
        await stage.cut()
        with suppress(SendUnknown):
            await producer.send(stage.stream, b"5")
        await producer.send(stage.stream, b"6")
    assert await stage.redis.xlen(stage.stream) >= 6


async def sends_to_shards(stage: Stage) -> None:
    async with stage.producer(sharder=RoundRobin(3)) as producer:
        for _ in range(3):
            await producer.send(stage.stream, b"x")
    for number in range(3):
        assert await stage.redis.xlen(f"{stage.stream}:{number}") == 1


async def sends_once(stage: Stage) -> None:
    """Idempotently; more than one run at a time, so that notes are forgotten too."""
    async with stage.producer(idempotent=True, max_batch=2) as producer:
        for _ in range(3):
            await producer.send_many(stage.stream, [b"x"] * 20)
        await stage.cut()
        await producer.send(stage.stream, b"y")
    assert await stage.redis.xlen(stage.stream) == 61


async def sends_once_to_shards(stage: Stage) -> None:
    async with stage.producer(idempotent=True, sharder=RoundRobin(2)) as producer:
        await producer.send(stage.stream, b"x")
        await producer.send(stage.stream, b"y")


async def sends_to_replicas(stage: Stage) -> None:
    """Where there is none: the server is asked, and says so."""
    async with stage.producer(replicas=1, send_timeout=0.05) as producer:
        with suppress(NotDurable):
            await producer.send(stage.stream, b"x")


async def sends_to_disks(stage: Stage) -> None:
    async with stage.producer(durable=True) as producer:
        await producer.send(stage.stream, b"x")


# -- consumers -------------------------------------------------------------------------


async def reads(stage: Stage) -> None:
    """Without a group."""
    await stage.add(0, 1)
    async with stage.consumer(mode=REALTIME, start=EARLIEST) as consumer:
        assert numbers(await read(consumer, 2)) == [0, 1]
        await stage.cut()
        await stage.add(2)
        assert numbers(await read(consumer, 1)) == [2]
        await consumer.seek(EARLIEST)
        assert numbers(await read(consumer, 3)) == [0, 1, 2]
    async with stage.consumer(mode=REALTIME) as consumer:
        assert set((await consumer.lag()).values()) == {0}
        await stage.add(3)
        assert numbers(await read(consumer, 1)) == [3]
        await stage.redis.delete(stage.stream)
        await asyncio.sleep(0.005)  # for another id, which is a millisecond
        await stage.add(4)
        assert numbers(await read(consumer, 1)) == [4]


async def waits(stage: Stage) -> None:
    """Without a group, and is closed."""
    async with stage.consumer(mode=REALTIME) as consumer:
        assert await consumer.next(timeout=0.05) is None


async def reads_in_a_group(stage: Stage) -> None:
    for mode in (RESUMABLE, LOAD_BALANCED):
        for policy in (PROCESSED, ROLLING, DISABLED, DELAYED, IMMEDIATE):
            await stage.add(0, 1, 2)
            soon = Commit(interval=0.01, delay=0.01)
            async with stage.consumer(
                mode=mode, auto_commit=policy, commit=soon
            ) as consumer:
                messages = await read(consumer, 3)
                assert numbers(messages) == [0, 1, 2]
                if policy in {ROLLING, DISABLED}:
                    for message in messages:
                        message.ack()
                    await consumer.commit()
            assert await pending(stage.redis, stage.stream, "g") == 0


async def reads_shards(stage: Stage) -> None:
    """Those that are there, those that appear, and those of another stream."""
    await stage.add(0, key=f"{stage.stream}:0")
    async with stage.consumer(name="me") as consumer:
        assert numbers(await read(consumer, 1)) == [0]
        await stage.add(1, key=f"{stage.stream}:1")
        assert numbers(await read(consumer, 1)) == [1]
        await consumer.unassign(stage.stream, 1)
        await consumer.assign(stage.stream, 2)
        await stage.add(2, key=f"{stage.stream}:2")
        assert numbers(await read(consumer, 1)) == [2]


async def reads_after_cuts(stage: Stage) -> None:
    """With something in hand, and with something unseen on its way."""
    await stage.add(0, 1)
    async with stage.consumer(name="me") as consumer:
        message = await consumer.next()
        await stage.redis.xreadgroup("g", "me", {stage.stream: ">"})
        await stage.add(2)
        await stage.cut()
        assert numbers(await read(consumer, 2)) in ([1, 2], [2, 1])
        assert not message.lost
    await eventually(lambda: none_pending(stage))


async def reads_after_a_restart(stage: Stage) -> None:
    """Under the same name: what was pending comes first."""
    await stage.add(0, 1)
    await stage.redis.xgroup_create(stage.stream, "g", "0")
    await stage.redis.xreadgroup("g", "me", {stage.stream: ">"}, count=1)
    async with stage.consumer(name="me") as consumer:
        assert numbers(await read(consumer, 2)) == [0, 1]
    assert await none_pending(stage)


async def seeks(stage: Stage) -> None:
    await stage.add(0, 1)
    async with stage.consumer(mode=RESUMABLE) as consumer:
        assert numbers(await read(consumer, 1)) == [0]
        await consumer.seek(EARLIEST)
        assert numbers(await read(consumer, 2)) == [0, 1]
        await consumer.seek(LATEST)
        await stage.add(2)
        assert numbers(await read(consumer, 1)) == [2]


async def tells_its_lag(stage: Stage) -> None:
    await stage.add(0, 1)
    async with stage.consumer() as consumer:
        await read(consumer, 2)
        assert set((await consumer.lag()).values()) == {0}


async def mends_its_group(stage: Stage) -> None:
    await stage.add(0)
    async with stage.consumer() as consumer:
        await read(consumer, 1)
        await stage.redis.xgroup_destroy(stage.stream, "g")
        await stage.add(1)
        assert 1 in numbers(await read(consumer, 1))
    assert stage.told("group_recreated")


async def tries_again(stage: Stage) -> None:
    """And waits so long that its leases have to be renewed."""
    tries: list[int] = []

    async def fail(message: Message[bytes]) -> None:
        tries.append(message.attempt)
        await asyncio.sleep(0.3 if message.attempt == 1 else 0)
        if message.attempt < 3:
            raise Boom

    await stage.add(0)
    again = Retry(max_attempts=3, backoff=[0.01])
    async with running(stage.consumer(retry=again, claim=SHORT), fail):
        await eventually(lambda: none_pending(stage, 1))
    assert tries == [1, 2, 3]


async def buries(stage: Stage) -> None:
    async with stage.consumer(retry=Retry(max_attempts=1)) as consumer:
        await stage.add(0)
        (await consumer.next()).reject("no")
        await consumer.commit()
    assert await stage.redis.xlen(f"{stage.stream}.dead") == 1
    assert await none_pending(stage)


async def takes_over(stage: Stage) -> None:
    """From somebody who died, and from somebody who closes."""
    await stage.add(0, 1)
    await stage.redis.xgroup_create(stage.stream, "g", "0")
    await stage.redis.xreadgroup("g", "dead", {stage.stream: ">"}, count=1)
    await asyncio.sleep(SHORT_IDLE)
    async with stage.consumer(name="one", claim=SHORT) as one:
        assert set(numbers(await read(one, 2))) == {0, 1}
    assert await none_pending(stage)


async def hands_over(stage: Stage) -> None:
    await stage.add(*range(6))
    async with stage.consumer(name="one") as one:
        await read(one, 1)
        async with stage.consumer(name="two") as two:
            assert await two.next(timeout=0.05) is None
            await one.aclose()
            start = time.monotonic()
            assert numbers(await read(two, 5, within=3)) == [1, 2, 3, 4, 5]
            stage.took = time.monotonic() - start


async def closes_while_it_waits(stage: Stage) -> None:
    async with stage.consumer() as consumer:
        assert await consumer.next(timeout=0.05) is None
        start = time.monotonic()
    stage.took = time.monotonic() - start


async def removes_the_dead(stage: Stage) -> None:
    await stage.add(0)
    await stage.redis.xgroup_create(stage.stream, "g", "0")
    await stage.redis.xgroup_createconsumer(stage.stream, "g", "dead")
    await asyncio.sleep(SHORT_IDLE)
    async with stage.consumer(name="me", claim=SHORT):
        await eventually(lambda: _alone(stage))


async def _alone(stage: Stage) -> bool:
    if stage.told("reaping_refused"):
        return True
    found = await stage.redis.xinfo_consumers(stage.stream, "g")
    return [consumer["name"] for consumer in found] in ([b"me"], [])


async def transacts(stage: Stage) -> None:
    await stage.add(0, 1)
    async with stage.consumer() as consumer:
        for _ in range(2):
            message = await consumer.next()
            async with message.transaction() as tx:
                tx.command("HINCRBY", f"{stage.stream}.totals", "n", 1)
                tx.send(f"{stage.stream}.counted", b"x")
            assert tx.applied
    assert await none_pending(stage)


async def none_pending(stage: Stage, count: int | None = None) -> bool:
    """Whether the group has nothing pending; and was given so many, if it says so."""
    [group] = await stage.redis.xinfo_groups(stage.stream)
    last = (await stage.redis.xinfo_stream(stage.stream))["last-generated-id"]
    given = count is None or group["last-delivered-id"] == last
    return given and not group["pending"]


# -- operators -------------------------------------------------------------------------


async def looks(stage: Stage) -> None:
    await stage.add(0, 1)
    await stage.redis.xgroup_create(stage.stream, "g", "0")
    await stage.redis.xreadgroup("g", "c", {stage.stream: ">"}, count=1)
    async with Admin(stage.url, on_event=stage.events.append) as operator:
        state = await operator.group_state(stage.stream, "g")
    assert state.pending == 1


async def replays(stage: Stage) -> None:
    await stage.add(0, 1)
    async with replay(stage.stream, url=stage.url) as messages:
        assert numbers([message async for message in messages]) == [0, 1]


async def resets(stage: Stage) -> None:
    await stage.add(0, 1)
    await stage.redis.xgroup_create(stage.stream, "g", "0")
    await stage.redis.xreadgroup("g", "c", {stage.stream: ">"}, count=1)
    async with Admin(stage.url, on_event=stage.events.append) as operator:
        await operator.reset_group(stage.stream, "g", LATEST)
        state = await operator.group_state(stage.stream, "g")
    assert state.pending == 0


async def resets_what_is_new(stage: Stage) -> None:
    """With a shard that the group has not met."""
    for number in range(2):
        await stage.add(0, key=f"{stage.stream}:{number}")
    await stage.redis.xgroup_create(f"{stage.stream}:0", "g", "0")
    async with Admin(stage.url, on_event=stage.events.append) as operator:
        await operator.reset_group(stage.stream, "g", LATEST)


async def deletes(stage: Stage) -> None:
    await stage.add(0)
    async with Admin(stage.url, on_event=stage.events.append) as operator:
        assert await operator.delete_stream(stage.stream)


async def sees_to_dead_letters(stage: Stage) -> None:
    for number in range(3):
        await die(stage.redis, stage.stream, b"%d" % number)
    async with Admin(stage.url, on_event=stage.events.append) as operator:
        letters = await operator.dead.list(stage.stream)
        first, third = letters[0].id, letters[2].id
        assert await operator.dead.read(stage.stream, first) == letters[0]
        assert await operator.dead.redrive(stage.stream, ids=[first]) == 1
        assert await operator.dead.redrive(stage.stream, limit=1) == 1
        assert await operator.dead.purge(stage.stream, ids=[third]) == 1


async def trims(stage: Stage) -> None:
    await stage.add(*range(5))
    await stage.redis.xgroup_create(stage.stream, "g", "0")
    await stage.redis.xreadgroup("g", "c", {stage.stream: ">"}, count=2, noack=True)
    async with Admin(stage.url, on_event=stage.events.append) as operator:
        for to in (ACKED, MaxLen(1, exact=True), MaxAge(timedelta(days=1))):
            for dry in (True, False):
                await operator.trim(stage.stream, to, dry_run=dry)
        await operator.trim(stage.stream, ACKED, ignore_idle=60)
    assert await stage.redis.xlen(stage.stream) == 1
