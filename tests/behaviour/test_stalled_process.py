"""Stalls and outages longer than a lease: nothing is taken back from its new owner.

The stall is real: the event loop is blocked, and so are all of its consumers. What
other consumers do meanwhile is done by calls that block.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import pytest
import redis as blocking

from penstock import (
    LOAD_BALANCED,
    RESUMABLE,
    Claim,
    Consumer,
    Message,
    Mode,
    Prefetch,
    _clock,
)
from penstock._connection.address import parse
from penstock._connection.connect import connect
from penstock._connection.connection import Connection
from penstock._core.ledger.entry import Entry
from penstock._tasks.group import Membership
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.leases.delivery_counts import DeliveryCounts
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims
from penstock.message import Shard
from support.events import Events
from support.proxy import proxy
from support.server import with_login
from support.waiting import deliveries, eventually, numbers, owners, pending, read, send

LEASE = 0.5
CLAIM = Claim(idle=LEASE, interval=60)

Get: TypeAlias = Callable[[Consumer[bytes]], Any]


@contextmanager
def client(url: str) -> Iterator[Any]:
    """Provide a client whose calls block the event loop."""
    made = blocking.Redis.from_url(url)
    try:
        yield made
    finally:
        made.close()


def block() -> None:
    """Block the event loop for longer than a lease."""
    time.sleep(1.5 * LEASE)


def stall_while_other_claims(url: str, stream: str) -> list[bytes]:
    """Block the event loop for longer than a lease; let another consumer claim all."""
    block()
    with client(url) as other:
        reply = other.xautoclaim(stream, "g", "other", int(LEASE * 1000), count=100)
        return [id_ for id_, _ in reply[1]]


async def by_next(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    message = await consumer.next(timeout=0.3)
    return [message] if message else []


async def by_next_without_waiting(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    message = await consumer.next(timeout=0)
    return [message] if message else []


async def by_take(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    return await consumer.take(10, timeout=0.3)


async def by_loop(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    got: list[Message[bytes]] = []

    async def loop() -> None:
        async for message in consumer:
            got.append(message)

    await asyncio.wait({task := asyncio.create_task(loop())}, timeout=0.3)
    task.cancel()
    return got


async def by_batches(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    got: list[Message[bytes]] = []

    async def loop() -> None:
        async for messages in consumer.batches(10, linger=0):
            got.extend(messages)

    await asyncio.wait({task := asyncio.create_task(loop())}, timeout=0.3)
    task.cancel()
    return got


async def by_run(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    got: list[Message[bytes]] = []

    async def handle(message: Message[bytes]) -> None:
        got.append(message)

    run = asyncio.create_task(consumer.run(handle, concurrency=3))
    await asyncio.wait({run}, timeout=0.3)
    run.cancel()
    return got


GETS = pytest.mark.parametrize(
    "get", [by_next, by_next_without_waiting, by_take, by_loop, by_batches, by_run]
)


@asynccontextmanager
async def with_six_queued(
    url: str, stream: str, redis: Any, **options: Any
) -> AsyncIterator[Consumer[bytes]]:
    """Provide a consumer that has prefetched six messages and handed out none."""
    async with Consumer(stream, url=url, group="g", claim=CLAIM, **options) as consumer:
        await send(url, stream, *range(6))
        await eventually(lambda: has_queued(consumer, 6))
        yield consumer


async def has_queued(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().queued == count


@GETS
@pytest.mark.parametrize("mode", [LOAD_BALANCED, RESUMABLE])
async def test_messages_that_others_claimed_during_a_stall_are_not_handed_out(
    *, url: str, stream: str, redis: Any, events: Events, get: Get, mode: Mode
) -> None:
    given = {"mode": mode, "on_event": events, "name": "me"}
    async with with_six_queued(url, stream, redis, **given) as consumer:
        claimed = stall_while_other_claims(url, stream)
        assert len(claimed) == 6
        assert await get(consumer) == []
        assert set((await owners(redis, stream)).values()) == {"other"}
        # XAUTOCLAIM has counted a delivery; no start has been counted.
        assert set((await deliveries(redis, stream, "g")).values()) == {2}
    assert set((await owners(redis, stream)).values()) == {"other"}
    [lost] = events.named("lease_lost")
    assert lost.facts["messages"] == 6


@GETS
async def test_messages_that_nobody_claimed_are_handed_out_once_that_is_known(
    url: str, stream: str, redis: Any, get: Get
) -> None:
    async with with_six_queued(url, stream, redis) as consumer:
        block()
        got = await get(consumer)
        if get is by_next_without_waiting:
            await eventually(lambda: got_one(consumer, got))
        assert numbers(got)[0] == 0
        assert not any(message.lost for message in got)


async def got_one(consumer: Consumer[bytes], got: list[Message[bytes]]) -> bool:
    got += await by_next_without_waiting(consumer)
    return bool(got)


@asynccontextmanager
async def renewed_by_other(
    redis: Any, stream: str, ids: list[bytes]
) -> AsyncIterator[None]:
    """Let the other consumer renew the leases of what it has claimed."""

    async def renew() -> None:
        while True:
            await redis.xclaim(stream, "g", "other", 0, ids, justid=True)
            await asyncio.sleep(LEASE / 5)

    assert len(ids) == 6
    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()


@GETS
async def test_nothing_is_handed_out_in_an_outage_that_is_longer_than_the_lease(
    url: str, stream: str, redis: Any, get: Get
) -> None:
    async with (
        proxy(url) as between,
        with_six_queued(between.url, stream, redis) as consumer,
    ):
        await between.stop()
        async with renewed_by_other(
            redis, stream, stall_while_other_claims(url, stream)
        ):
            assert await get(consumer) == []
            await between.start()
            await eventually(lambda: has_queued(consumer, 0))
            assert await get(consumer) == []
            assert set((await owners(redis, stream)).values()) == {"other"}
            await redis.xack(stream, "g", *await owners(redis, stream))
        await send(url, stream, 7)
        assert numbers(await read(consumer, 1)) == [7]


async def test_entries_that_arrived_during_a_stall_are_checked_before_handing_them_out(
    url: str, stream: str, redis: Any
) -> None:
    """Their reply lay in the socket; the time at which it is read is not its age."""
    async with Consumer(stream, url=url, group="g", claim=CLAIM) as consumer:
        assert await consumer.next(timeout=0.1) is None
        with client(url) as other:
            other.xadd(stream, {"msg": "1"})
            assert len(stall_while_other_claims(url, stream)) == 1
        assert await consumer.next(timeout=0.3) is None
        assert list((await owners(redis, stream)).values()) == ["other"]
        await consumer.commit()
        assert await pending(redis, stream, "g") == 1
        await send(url, stream, 2)
        assert numbers(await read(consumer, 1)) == [2]


async def test_batches_whose_messages_were_all_claimed_in_a_stall_get_later_ones(
    url: str, stream: str, redis: Any
) -> None:
    """The call is held until the server was asked what is still this consumer's.

    Nothing is read for a call that is held, at this pace, and there is nothing left for
    it in the end.
    """
    got: list[int] = []

    async def loop(consumer: Consumer[bytes]) -> None:
        async for messages in consumer.batches(10, linger=0.4):
            got.extend(numbers(messages))

    async def has_got(number: int) -> bool:
        return number in got

    slow = Prefetch(max_wait=0.0001)
    async with Consumer(
        stream, url=url, group="g", claim=CLAIM, prefetch=slow
    ) as consumer:
        task = asyncio.create_task(loop(consumer))
        for number in range(3):
            await send(url, stream, number)
            await eventually(partial(has_got, number))
        await send(url, stream, *range(3, 9))
        await eventually(lambda: has_queued(consumer, 6))
        assert len(stall_while_other_claims(url, stream)) >= 6
        with client(url) as other:
            other.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.5)
        await send(url, stream, 9)
        await eventually(partial(has_got, 9))
        assert got == [0, 1, 2, 9]
        task.cancel()
        await asyncio.wait([task])


async def test_take_waits_until_leases_are_renewed_without_spinning(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is full, so that no more entries are waited for."""
    await send(url, stream, *range(4))
    full = Prefetch(max_messages=4)
    async with (
        proxy(url) as between,
        Consumer(
            stream, url=between.url, group="g", claim=CLAIM, prefetch=full
        ) as consumer,
    ):
        await eventually(lambda: has_queued(consumer, 4))
        between.drop_replies = True
        block()
        calls = 0
        take = EntryQueue.take_several

        async def counted(
            self: EntryQueue, most: int, *, apart: bool
        ) -> Sequence[Entry]:
            nonlocal calls
            calls += 1
            return await take(self, most, apart=apart)

        monkeypatch.setattr(EntryQueue, "take_several", counted)
        assert await consumer.take(2, timeout=0.3) == []
        assert calls < 10
        between.cut()
        between.drop_replies = False
        assert numbers(await consumer.take(2, timeout=5)) == [0, 1]


@GETS
async def test_a_count_whose_reply_was_read_after_a_stall_is_not_believed(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch, get: Get
) -> None:
    """The server has counted the start, and then another consumer has the message."""
    send_count, claimed = DeliveryCounts._send, list[bytes]()

    def send_and_stall(self: DeliveryCounts, batch: Any) -> None:
        send_count(self, batch)
        if not claimed:
            claimed.extend(stall_while_other_claims(url, stream))

    monkeypatch.setattr(DeliveryCounts, "_send", send_and_stall)
    async with Consumer(stream, url=url, group="g", claim=CLAIM) as consumer:
        await send(url, stream, 0, 1)
        await eventually(lambda: has_queued(consumer, 2))
        assert numbers(await get(consumer)) == []
        assert len(claimed) == 2
        assert set((await owners(redis, stream)).values()) == {"other"}


async def test_a_suspended_machine_counts_as_a_stall(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's clock advances meanwhile, and time.monotonic does not."""
    slept = 0.0
    awake = _clock.boottime
    monkeypatch.setattr(_clock, "boottime", lambda: awake() + slept)
    long = Claim(idle=30)
    async with Consumer(stream, url=url, group="g", claim=long) as consumer:
        await send(url, stream, *range(4))
        assert numbers(await read(consumer, 1)) == [0]
        await eventually(lambda: has_queued(consumer, 3))
        # Meanwhile another consumer claims the messages that are queued here.
        ids = [id_ for id_, _ in await redis.xrange(stream)]
        await redis.xclaim(stream, "g", "other", 0, ids[1:])
        slept = 60.0
        assert await consumer.next(timeout=0.5) is None
        assert list((await owners(redis, stream)).values()) == ["other"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="no such clock")
def test_the_clock_advances_while_the_machine_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= _clock.boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_closing_after_a_stall_releases_nothing_that_others_claimed(
    url: str, stream: str, redis: Any
) -> None:
    async with with_six_queued(url, stream, redis):
        claimed = stall_while_other_claims(url, stream)
    lines = await redis.xpending_range(stream, "g", "-", "+", 100)
    assert [line["message_id"] for line in lines] == claimed
    assert {line["consumer"] for line in lines} == {b"other"}
    assert max(line["time_since_delivered"] for line in lines) < LEASE * 1000


# -- claims of own entries -------------------------------------------------------------


@asynccontextmanager
async def limited(url: str, redis: Any, name: str, *without: str) -> AsyncIterator[str]:
    """Provide the URL of a user that may not use some commands."""
    await redis.acl_setuser(
        name,
        enabled=True,
        nopass=True,
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=list(without),
    )
    try:
        yield with_login(url, name, "x")
    finally:
        await redis.acl_deluser(name)


@asynccontextmanager
async def open_connection(url: str) -> AsyncIterator[Connection]:
    made = await connect(parse(url))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.mark.parametrize("without", [(), ("-eval",)], ids=["script", "no script"])
async def test_a_claim_of_own_entries_takes_none_from_another_consumer(
    url: str, stream: str, redis: Any, without: tuple[str, ...]
) -> None:
    await redis.xgroup_create(stream, "g", mkstream=True)
    ids = [await redis.xadd(stream, {"msg": n}) for n in range(3)]
    await redis.xreadgroup("g", "me", {stream: ">"})
    await asyncio.sleep(0.1)
    await redis.xclaim(stream, "g", "other", 0, ids[:1], justid=True)
    claims = OwnClaims(Membership("g", "me", mkstream=True, noack=False))
    shard = Shard(stream, 0, stream.encode())
    async with limited(url, redis, f"u-{stream}", *without) as address:
        async with open_connection(address) as connection:
            claim = OwnClaim(shard, ids, min_idle=50, count=7)
            assert await claims.claim(connection, [claim]) == [ids[1:]]
            # By now it is known whether scripts may be used.
            late = OwnClaim(shard, ids, min_idle=0, idle=60_000)
            if not without:
                assert await claims.claim(connection, [late]) == [ids[1:]]
    lines = await redis.xpending_range(stream, "g", "-", "+", 100)
    assert [line["consumer"] for line in lines] == [b"other", b"me", b"me"]
    assert [line["times_delivered"] for line in lines] == [1, 7, 7]


async def test_any_number_of_own_entries_can_be_claimed_at_once(
    url: str, stream: str, redis: Any
) -> None:
    await redis.xgroup_create(stream, "g", mkstream=True)
    ids = [await redis.xadd(stream, {"msg": n}) for n in range(1200)]
    await redis.xreadgroup("g", "me", {stream: ">"})
    claims = OwnClaims(Membership("g", "me", mkstream=True, noack=False))
    shard = Shard(stream, 0, stream.encode())
    async with open_connection(url) as connection:
        claimed = await claims.claim(connection, [OwnClaim(shard, ids, count=3)])
    assert claimed == [ids]
    assert set((await deliveries(redis, stream, "g")).values()) == {3}


async def test_a_claim_in_a_deleted_group_returns_nogroup(
    url: str, stream: str
) -> None:
    claims = OwnClaims(Membership("g", "me", mkstream=True, noack=False))
    shard = Shard(stream, 0, stream.encode())
    async with open_connection(url) as connection:
        [reply] = await claims.claim(connection, [OwnClaim(shard, [b"1-1"])])
    assert getattr(reply, "code", None) == "NOGROUP"
