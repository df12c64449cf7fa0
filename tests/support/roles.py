"""Scenarios of the roles whose permissions docs/how-to/security.md lists.

A scenario does one task of a role. Its context has the URL of the role and a client of
redis-py that may do everything, to inspect and break things from outside. A scenario
raises or fails if the role lacks a permission for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from penstock import (
    ACKED,
    DELAYED,
    DISABLED,
    DISCOVER,
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
from penstock.cli.relay.checks import find_mode
from penstock.cli.relay.router import RelayRouter
from penstock.cli.relay.settings import RelaySettings
from penstock.monitor import Collector, Role
from support.console import console, hidden_fields
from support.dead_letters import write_dead_letter
from support.failing import Boom, running
from support.looking import run
from support.members import Members
from support.waiting import eventually, numbers, pending, read, record_shards

__all__ = ["Context", "Scenario"]

SHORT_IDLE = 0.25
SHORT = Claim(idle=0.2, interval=0.1)


@dataclass
class Context:
    """The server, stream and login of a scenario.

    Attributes:
        url: The URL of the server, with the login of the role.
        stream: The stream, which is empty.
        redis: A client that may do everything.
        user: The user of the role.
        events: The events that were reported.
        seconds: The time of a step, in scenarios that measure one.
    """

    url: str
    stream: str
    redis: Any
    user: str
    events: list[Event] = field(default_factory=list)
    seconds: float = 0.0

    def consumer(self, *streams: str, **options: Any) -> Consumer[bytes]:
        """Create a consumer with the login of the role."""
        given: dict[str, Any] = {"url": self.url, "group": "g", "close_timeout": 1}
        given["on_event"] = self.events.append
        if options.get("mode") is REALTIME:
            del given["group"]
        return Consumer(*(streams or (self.stream,)), **{**given, **options})

    def producer(self, **options: Any) -> Producer:
        """Create a producer with the login of the role."""
        return Producer(self.url, on_event=self.events.append, **options)

    async def add(self, *values: int, key: str | None = None) -> None:
        """Add entries to the stream."""
        for value in values:
            await self.redis.xadd(key or self.stream, {"msg": str(value)})

    async def cut(self) -> None:
        """Cut all connections of the user."""
        await self.redis.execute_command("CLIENT", "KILL", "USER", self.user)

    def reported(self, name: str) -> bool:
        """Return whether an event of a name was reported."""
        return any(event.name == name for event in self.events)


Scenario: TypeAlias = Callable[[Context], Awaitable[None]]

# -- producers -------------------------------------------------------------------------


async def sends(context: Context) -> None:
    async with context.producer() as producer:
        await producer.send(context.stream, b"0", key="k", headers={"h": "1"})
        await producer.send_many(context.stream, [b"1", b"2"])
        await producer.send(context.stream, b"3", retention=MaxLen(100))
        age = MaxAge(timedelta(days=1))
        await (await producer.enqueue(context.stream, b"4", retention=age))
        await context.cut()
        with suppress(SendUnknown):
            await producer.send(context.stream, b"5")
        await producer.send(context.stream, b"6")
    assert await context.redis.xlen(context.stream) >= 6


async def sends_to_shards(context: Context) -> None:
    async with context.producer(sharder=RoundRobin(3)) as producer:
        for _ in range(3):
            await producer.send(context.stream, b"x")
    for number in range(3):
        assert await context.redis.xlen(f"{context.stream}:{number}") == 1


async def records_shards(context: Context) -> None:
    """Send to shards whose number is recorded."""
    await sends_to_shards(context)
    assert await context.redis.exists(f"{{{context.stream}}}.shards")


async def sends_once(context: Context) -> None:
    """Send idempotently, several runs at a time, so that old notes are deleted too."""
    async with context.producer(idempotent=True, max_batch=2) as producer:
        for _ in range(3):
            await producer.send_many(context.stream, [b"x"] * 20)
        await context.cut()
        await producer.send(context.stream, b"y")
    assert await context.redis.xlen(context.stream) == 61


async def sends_once_to_shards(context: Context) -> None:
    async with context.producer(idempotent=True, sharder=RoundRobin(2)) as producer:
        await producer.send(context.stream, b"x")
        await producer.send(context.stream, b"y")


async def sends_to_replicas(context: Context) -> None:
    """Send with `replicas=1` to a server without replicas, which reports that.

    Within the timeout the message has to be written, too, on a busy machine.
    """
    async with context.producer(replicas=1, send_timeout=0.5) as producer:
        with suppress(NotDurable):
            await producer.send(context.stream, b"x")


async def sends_durably(context: Context) -> None:
    async with context.producer(durable=True) as producer:
        await producer.send(context.stream, b"x")


# -- consumers -------------------------------------------------------------------------


async def reads(context: Context) -> None:
    """Read without a group."""
    await context.add(0, 1)
    async with context.consumer(mode=REALTIME, start=EARLIEST) as consumer:
        assert numbers(await read(consumer, 2)) == [0, 1]
        await context.cut()
        await context.add(2)
        assert numbers(await read(consumer, 1)) == [2]
        await consumer.seek(EARLIEST)
        assert numbers(await read(consumer, 3)) == [0, 1, 2]
    async with context.consumer(mode=REALTIME) as consumer:
        assert set((await consumer.lag()).values()) == {0}
        await context.add(3)
        assert numbers(await read(consumer, 1)) == [3]
        await context.redis.delete(context.stream)
        await asyncio.sleep(0.005)  # so that the next id has a later millisecond
        await context.add(4)
        assert numbers(await read(consumer, 1)) == [4]


async def waits_for_entries(context: Context) -> None:
    """Wait for entries without a group, and close."""
    async with context.consumer(mode=REALTIME) as consumer:
        assert await consumer.next(timeout=0.05) is None


async def reads_in_a_group(context: Context) -> None:
    for mode in (RESUMABLE, LOAD_BALANCED):
        for policy in (PROCESSED, ROLLING, DISABLED, DELAYED, IMMEDIATE):
            await context.add(0, 1, 2)
            soon = Commit(interval=0.01, delay=0.01)
            async with context.consumer(
                mode=mode, auto_commit=policy, commit=soon
            ) as consumer:
                messages = await read(consumer, 3)
                assert numbers(messages) == [0, 1, 2]
                if policy in {ROLLING, DISABLED}:
                    for message in messages:
                        message.ack()
                    await consumer.commit()
            assert await pending(context.redis, context.stream, "g") == 0


async def reads_shards(context: Context) -> None:
    """Read shards that are recorded, that are added, and that are assigned."""
    await context.add(0, key=f"{context.stream}:0")
    await record_shards(context.redis, context.stream, 1)
    async with context.consumer(name="me") as consumer:
        assert numbers(await read(consumer, 1)) == [0]
        await record_shards(context.redis, context.stream, 2)
        await context.add(1, key=f"{context.stream}:1")
        assert numbers(await read(consumer, 1)) == [1]
        await consumer.unassign(context.stream, 1)
        await consumer.assign(context.stream, 2)
        await context.add(2, key=f"{context.stream}:2")
        assert numbers(await read(consumer, 1)) == [2]


async def finds_shards(context: Context) -> None:
    """Find shards by a record, in a group."""
    await record_shards(context.redis, context.stream, 2)
    async with context.consumer() as consumer:
        assert await consumer.next(timeout=0.05) is None


async def finds_shards_without_a_group(context: Context) -> None:
    """Find shards by a record, in REALTIME."""
    await record_shards(context.redis, context.stream, 2)
    await context.add(0, key=f"{context.stream}:0")
    async with context.consumer(mode=REALTIME) as consumer:
        assert await consumer.next(timeout=0.05) is None


async def restores_a_record(context: Context) -> None:
    """Write a record again that the server has lost, in a group."""
    await record_shards(context.redis, context.stream, 2)
    async with context.consumer() as consumer:
        await context.redis.delete(f"{{{context.stream}}}.shards")
        assert await consumer.next(timeout=2.6) is None


async def restores_a_record_without_a_group(context: Context) -> None:
    """Write a record again that the server has lost, in REALTIME."""
    await record_shards(context.redis, context.stream, 2)
    async with context.consumer(mode=REALTIME) as consumer:
        await context.redis.delete(f"{{{context.stream}}}.shards")
        assert await consumer.next(timeout=2.6) is None


async def searches_for_shards(context: Context) -> None:
    """Look for shards by name."""
    await context.add(0, key=f"{context.stream}:0")
    async with context.consumer(mode=REALTIME, shards=DISCOVER) as consumer:
        assert await consumer.next(timeout=0.05) is None


async def searches_for_shards_in_a_group(context: Context) -> None:
    """Look for shards by name, in a group."""
    await context.add(0, key=f"{context.stream}:0")
    async with context.consumer(shards=DISCOVER) as consumer:
        assert await consumer.next(timeout=0.05) is not None or context.events


async def reads_after_cuts(context: Context) -> None:
    """Read after a cut, with a held message and an entry in a lost reply."""
    await context.add(0, 1)
    async with context.consumer(name="me") as consumer:
        message = await consumer.next()
        await context.redis.xreadgroup("g", "me", {context.stream: ">"})
        await context.add(2)
        await context.cut()
        assert numbers(await read(consumer, 2)) in ([1, 2], [2, 1])
        assert not message.lost
    await eventually(lambda: none_pending(context))


async def reads_after_a_restart(context: Context) -> None:
    """Read under the same name as before: pending entries come first."""
    await context.add(0, 1)
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "me", {context.stream: ">"}, count=1)
    async with context.consumer(name="me") as consumer:
        assert numbers(await read(consumer, 2)) == [0, 1]
    assert await none_pending(context)


async def seeks(context: Context) -> None:
    await context.add(0, 1)
    async with context.consumer(mode=RESUMABLE) as consumer:
        assert numbers(await read(consumer, 1)) == [0]
        for place in (EARLIEST, datetime.now(UTC) - timedelta(hours=1)):
            await consumer.seek(place)
            assert numbers(await read(consumer, 2)) == [0, 1]
        await consumer.seek(LATEST)
        await context.add(2)
        assert numbers(await read(consumer, 1)) == [2]


async def reports_its_lag(context: Context) -> None:
    await context.add(0, 1)
    async with context.consumer() as consumer:
        await read(consumer, 2)
        assert set((await consumer.lag()).values()) == {0}


async def recreates_its_group(context: Context) -> None:
    await context.add(0)
    async with context.consumer() as consumer:
        await read(consumer, 1)
        await context.redis.xgroup_destroy(context.stream, "g")
        await context.add(1)
        assert 1 in numbers(await read(consumer, 1))
    assert context.reported("group_recreated")


async def retries(context: Context) -> None:
    """Retry a message whose handler takes so long that its lease is renewed."""
    attempts: list[int] = []

    async def fail(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        await asyncio.sleep(0.3 if message.attempt == 1 else 0)
        if message.attempt < 3:
            raise Boom

    await context.add(0)
    retry = Retry(max_attempts=3, backoff=[0.01])
    async with running(context.consumer(retry=retry, claim=SHORT), fail):
        await eventually(lambda: none_pending(context, 1))
    assert attempts == [1, 2, 3]


async def writes_dead_letters(context: Context) -> None:
    async with context.consumer(retry=Retry(max_attempts=1)) as consumer:
        await context.add(0)
        (await consumer.next()).reject("no")
        await consumer.commit()
    assert await context.redis.xlen(f"{context.stream}.dead") == 1
    assert await none_pending(context)


async def claims(context: Context) -> None:
    """Claim the entries of a consumer that has died."""
    await context.add(0, 1)
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "dead", {context.stream: ">"}, count=1)
    await asyncio.sleep(SHORT_IDLE)
    async with context.consumer(name="one", claim=SHORT) as one:
        assert set(numbers(await read(one, 2))) == {0, 1}
    assert await none_pending(context)


async def releases(context: Context) -> None:
    await context.add(*range(6))
    async with context.consumer(name="one") as one:
        await read(one, 1)
        async with context.consumer(name="two") as two:
            assert await two.next(timeout=0.05) is None
            await one.aclose()
            start = time.monotonic()
            assert numbers(await read(two, 5, within=3)) == [1, 2, 3, 4, 5]
            context.seconds = time.monotonic() - start


async def closes_while_it_waits(context: Context) -> None:
    async with context.consumer() as consumer:
        assert await consumer.next(timeout=0.05) is None
        start = time.monotonic()
    context.seconds = time.monotonic() - start


async def removes_dead_consumers(context: Context) -> None:
    await context.add(0)
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xgroup_createconsumer(context.stream, "g", "dead")
    await asyncio.sleep(SHORT_IDLE)
    async with context.consumer(name="me", claim=SHORT):
        await eventually(lambda: _alone(context))


async def _alone(context: Context) -> bool:
    if context.reported("reaping_refused"):
        return True
    found = await context.redis.xinfo_consumers(context.stream, "g")
    return [consumer["name"] for consumer in found] in ([b"me"], [])


async def transacts(context: Context) -> None:
    await context.add(0, 1)
    async with context.consumer() as consumer:
        for _ in range(2):
            message = await consumer.next()
            async with message.transaction() as tx:
                tx.command("HINCRBY", f"{context.stream}.totals", "n", 1)
                tx.send(f"{context.stream}.counted", b"x")
            assert tx.applied
    assert await none_pending(context)


async def none_pending(context: Context, count: int | None = None) -> bool:
    """Return whether no entry is pending; and, with a count, all were delivered."""
    [group] = await context.redis.xinfo_groups(context.stream)
    last = (await context.redis.xinfo_stream(context.stream))["last-generated-id"]
    given = count is None or group["last-delivered-id"] == last
    return given and not group["pending"]


# -- operators -------------------------------------------------------------------------


async def inspects_a_group(context: Context) -> None:
    await context.add(0, 1)
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "c", {context.stream: ">"}, count=1)
    async with Admin(context.url, on_event=context.events.append) as operator:
        state = await operator.group_state(context.stream, "g")
    assert state.pending == 1


async def inspects_shards(context: Context) -> None:
    """Look at a group in the shards of a record, and let their number grow."""
    await record_shards(context.redis, context.stream, 1)
    for key in (context.stream, f"{context.stream}:0"):
        await context.add(0, key=key)
        await context.redis.xgroup_create(key, "g", "0")
    async with Admin(context.url, on_event=context.events.append) as operator:
        await operator.group_state(context.stream, "g")


async def sets_shards(context: Context) -> None:
    async with Admin(context.url, on_event=context.events.append) as operator:
        assert (await operator.set_shards(context.stream, 2)).number == 2


async def inspects_by_search(context: Context) -> None:
    """Look at a group in the shards that a search finds."""
    for key in (context.stream, f"{context.stream}:0"):
        await context.add(0, key=key)
        await context.redis.xgroup_create(key, "g", "0")
    async with Admin(
        context.url, shards=DISCOVER, on_event=context.events.append
    ) as operator:
        await operator.group_state(context.stream, "g")


async def replays(context: Context) -> None:
    await context.add(0, 1)
    async with replay(context.stream, url=context.url) as messages:
        assert numbers([message async for message in messages]) == [0, 1]


async def prints_messages(context: Context) -> None:
    """Print what there is and what is added, with `penstock read --follow`."""
    await record_shards(context.redis, context.stream, 2)
    await context.add(0, key=f"{context.stream}:0")
    words = ("read", context.stream, "--follow", "--limit", 2, "--url", context.url)
    printing = asyncio.ensure_future(run(*words))

    async def follows() -> bool:
        listed = await context.redis.client_list()
        return any(each["cmd"] == "xread" for each in listed)

    await eventually(follows)
    await context.add(1, key=f"{context.stream}:1")
    assert len((await printing).stdout.splitlines()) == 3


async def resets(context: Context) -> None:
    await context.add(0, 1)
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "c", {context.stream: ">"}, count=1)
    async with Admin(context.url, on_event=context.events.append) as operator:
        await operator.reset_group(context.stream, "g", LATEST)
        state = await operator.group_state(context.stream, "g")
    assert state.pending == 0


async def changes_a_group(context: Context) -> None:
    """Claim an entry, delete it, its consumer, and the group."""
    await context.add(0, 1)
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "c", {context.stream: ">"})
    async with Admin(context.url, on_event=context.events.append) as operator:
        claimed = await operator.claim(context.stream, "g", consumer="c", force=True)
        assert claimed.entries == 2
        acked = await operator.claim(
            context.stream, "g", consumer="c", force=True, ack=True
        )
        assert acked.entries == 2
        assert await operator.delete_consumer(context.stream, "g", "c")
        [(last, _)] = await context.redis.xrevrange(context.stream, count=1)
        assert await operator.delete_entries(context.stream, [last.decode()]) == 1
        await operator.delete_group(context.stream, "g")


async def resets_a_new_shard(context: Context) -> None:
    """Reset a group with a shard that it has not read before."""
    await record_shards(context.redis, context.stream, 2)
    for number in range(2):
        await context.add(0, key=f"{context.stream}:{number}")
    await context.redis.xgroup_create(f"{context.stream}:0", "g", "0")
    async with Admin(context.url, on_event=context.events.append) as operator:
        await operator.reset_group(context.stream, "g", LATEST)


async def lists_streams(context: Context) -> None:
    await context.add(0)
    async with Admin(context.url, on_event=context.events.append) as operator:
        assert context.stream in await operator.streams()


async def looks(context: Context) -> None:
    """Look at a stream with two groups, one of which has something pending."""
    await context.add(0, 1, 2)
    for group, noack in (("g", False), ("h", True)):
        await context.redis.xgroup_create(context.stream, group, "0")
        await context.redis.xreadgroup(
            group, "c", {context.stream: ">"}, count=2, noack=noack
        )
    async with Collector(
        context.url, [context.stream], on_event=context.events.append
    ) as collector:
        snapshot = await collector.poll()
        assert not snapshot.problems, snapshot.problems
        [stream] = snapshot.streams
        assert [group.pending for group in stream.groups] == [2, 0]
        assert all(group.consumers == 1 for group in stream.groups)
        assert len(await collector.consumers(context.stream, "g")) == 1
        assert len(await collector.pending(context.stream, "g")) == 2
        assert (await collector.details(stream)).length == 3
        await collector.server()


async def examines(context: Context) -> None:
    """Check the server, and what a producer may do, as `penstock doctor` does."""
    await context.add(0)
    async with Collector(
        context.url, [context.stream], on_event=context.events.append
    ) as collector:
        checks = {each.check for each in await collector.examine(Role.LOOKER)}
    assert checks >= {"connection", "persistence", "permissions", "streams"}


async def watches_in_the_console(context: Context) -> None:
    """Open all pages of a console that changes nothing."""
    await context.add(0, 1, 2)
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "c", {context.stream: ">"}, count=2)
    id_ = await write_dead_letter(context.redis, context.stream)
    stream = f"/streams/{context.stream}"
    async with console(context.url, context.stream, events=context.events) as browser:
        assert ">g</a>" in await browser.page("/")
        await browser.page(stream)
        await browser.page(f"{stream}/groups/g")
        assert "1 dead letter of" in await browser.page(f"{stream}/dead")
        await browser.page(f"{stream}/dead/letters/{id_}")


async def redrives_in_the_console(context: Context) -> None:
    """Redrive a dead letter in a console, and purge another one."""
    await context.add(0)
    for _ in range(2):
        await write_dead_letter(context.redis, context.stream)
    path = f"/streams/{context.stream}/dead"
    async with console(
        context.url, context.stream, events=context.events, allow_writes=True
    ) as browser:
        for verb in ("redrive", "purge"):
            [first, *_] = await context.redis.xrange(f"{context.stream}.dead")
            page = await browser.page(f"{path}/{verb}?id={first[0].decode()}")
            answer = await browser.submit(f"{path}/{verb}", hidden_fields(page))
            assert "<h1>1 of 1 letter " in answer.text, answer.text


async def looks_at_shards(context: Context) -> None:
    """Look at the shards of a record."""
    await record_shards(context.redis, context.stream, 2)
    for number in range(2):
        await context.add(0, key=f"{context.stream}:{number}")
    async with Collector(
        context.url, [context.stream], on_event=context.events.append
    ) as collector:
        snapshot = await collector.poll()
    assert not snapshot.problems, snapshot.problems
    assert [stream.shards for stream in snapshot.streams] == [2]


async def looks_for_streams(context: Context) -> None:
    """Look at all streams of a pattern."""
    await context.add(0)
    async with Collector(
        context.url, patterns=[f"{context.stream}*"], on_event=context.events.append
    ) as collector:
        assert [one.stream for one in (await collector.poll()).streams] == [
            context.stream
        ]


async def shows_owners(context: Context) -> None:
    """Show the owners of a stream that is one key, and of one with shards."""
    for shards, target in ((0, {0: "a"}), (2, {0: "a", 1: "b"})):
        await Members(context.redis, context.stream, shards).open(target)
        async with Admin(context.url, on_event=context.events.append) as operator:
            found = await operator.owners(context.stream, "g")
        assert {one.shard.number: one.owner for one in found.shards} == target


async def moves_a_shard(context: Context) -> None:
    members = Members(context.redis, context.stream, 2)
    await members.open({0: "a", 1: "b"})
    async with Admin(context.url, on_event=context.events.append) as operator:
        await operator.move(context.stream, "g", 0, "b", force=True)
    assert await members.target() == {0: "b", 1: "a"}
    assert await members.token(0) == b""


async def deletes(context: Context) -> None:
    """Delete a stream whose shards were owned."""
    await context.add(0)
    members = Members(context.redis, context.stream, 2)
    await members.open({0: "a", 1: "a"})
    for number in range(2):
        await members.free(number)
    async with Admin(context.url, on_event=context.events.append) as operator:
        assert await operator.delete_stream(context.stream)
    assert not await context.redis.exists(members.key, *map(members.owner, range(2)))


async def manages_dead_letters(context: Context) -> None:
    for number in range(3):
        await write_dead_letter(context.redis, context.stream, b"%d" % number)
    async with Admin(context.url, on_event=context.events.append) as operator:
        dead_letters = await operator.dead.list(context.stream)
        first, third = dead_letters[0].id, dead_letters[2].id
        assert await operator.dead.read(context.stream, first) == dead_letters[0]
        assert await operator.dead.redrive(context.stream, ids=[first]) == 1
        assert await operator.dead.redrive(context.stream, limit=1) == 1
        assert await operator.dead.purge(context.stream, ids=[third]) == 1


async def trims(context: Context) -> None:
    await context.add(*range(5))
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "c", {context.stream: ">"}, count=2, noack=True)
    async with Admin(context.url, on_event=context.events.append) as operator:
        for to in (ACKED, MaxLen(1, exact=True), MaxAge(timedelta(days=1))):
            for dry in (True, False):
                await operator.trim(context.stream, to, dry_run=dry)
        await operator.trim(context.stream, ACKED, ignore_idle=60)
    assert await context.redis.xlen(context.stream) == 1


# -- a relay ---------------------------------------------------------------------------


async def relays(context: Context, **options: Any) -> None:
    """Relay to a list, with a dead letter, until all is done or it is refused."""
    target, dead = f"{context.stream}.queue", f"{context.stream}.dead"
    settings = RelaySettings(
        **{"stream": context.stream, "group": "g", "target": target, **options},
        name="relay",
        batch=2,
    )
    mode = await find_mode(context.url, settings, context.events.append)
    settings = msgspec.structs.replace(settings, exact=mode.exact)
    router = RelayRouter(settings, context.events.append)
    # The first read asks for one entry.
    await context.redis.xadd(context.stream, {"no": "payload"})
    await context.add(0, 1, 2, 3, 4)
    # What another process of this name had.
    await context.redis.xgroup_create(context.stream, "g", "0")
    await context.redis.xreadgroup("g", "relay:1", {context.stream: ">"}, count=2)
    run = asyncio.create_task(router.run(context.url))

    async def over() -> bool:
        letter = context.reported("dead_letters_refused")
        letter = letter or await context.redis.xlen(dead) == 1
        pushed = context.reported("relay_refused")
        pushed = pushed or await context.redis.llen(target) == 5
        return run.done() or (letter and pushed)

    try:
        await eventually(over)
    finally:
        router.stop()
        await run
    assert await context.redis.llen(target) == 5
    assert await context.redis.xlen(dead) == 1


async def relays_to_a_bounded_list(context: Context) -> None:
    await relays(context, max_queue=100)


async def relays_to_the_left(context: Context) -> None:
    await relays(context, side="left")
