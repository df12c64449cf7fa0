"""Connections that are killed, cut, slow, corrupted or silent: nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from penstock import Claim, Consumer, Message, Producer, Receipt, SendUnknown
from support.events import Events
from support.failing import running
from support.proxy import Proxy, proxy
from support.server import server
from support.waiting import eventually, numbers, pending, read, send


class Seen(Counter[int]):
    """A handler that counts messages."""

    async def __call__(self, message: Message[bytes]) -> None:
        self[int(message.payload)] += 1

    async def have(self, *wanted: int) -> bool:
        return set(wanted) <= set(self)


async def test_when_only_the_blocked_reader_is_killed_the_next_message_is_delivered(
    url: str, stream: str, redis: Any
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        for number in range(3):
            await eventually(lambda: kill_blocked_connections(redis))
            sent = time.monotonic()
            await send(url, stream, number)
            assert numbers(await read(consumer, 1)) == [number]
            assert time.monotonic() - sent < 1


async def kill_blocked_connections(redis: Any) -> bool:
    """Kill the connections with a blocked read; return whether there were any."""
    killed = 0
    for client in await redis.client_list():
        if client["cmd"] == "xreadgroup" and "b" in client["flags"]:
            killed += await redis.client_kill_filter(_id=client["id"])
    return bool(killed)


@pytest.mark.parametrize("kind", ["ALL", "WRITE"])
async def test_messages_handled_while_the_server_pauses_are_not_handled_again(
    tmp_path: Path, stream: str, events: Events, kind: str
) -> None:
    """CLIENT PAUSE for longer than the lease: finished messages stay finished."""
    seen = Seen()
    claim = Claim(idle=0.5, interval=0.1)
    async with server(tmp_path) as own, own.client() as redis:
        consumer = Consumer(
            stream, url=own.url, group="g", claim=claim, on_event=events
        )
        async with running(consumer, seen, concurrency=8) as consumer:
            await send(own.url, stream, *range(500))
            await eventually(lambda: seen.have(0))
            await redis.execute_command("CLIENT", "PAUSE", "1200", kind)
            await eventually(lambda: seen.have(*range(500)))
            await consumer.commit()
            assert await pending(redis, stream, "g") == 0
    assert seen == dict.fromkeys(range(500), 1)
    assert not events.named("handler_failed")


async def test_sends_whose_replies_are_lost_are_unknown_and_stored_once_at_most(
    url: str, stream: str, redis: Any
) -> None:
    async with proxy(url) as between, Producer(between.url) as producer:
        between.cut_on = b"XADD"
        outcomes: list[object] = []
        for number in range(60):
            between.cut_next_reply = number % 10 == 9
            outcomes += await producer.send_many(stream, [b"%d" % number])
    assert between.cuts == 6
    unknown = [type(each) is SendUnknown for each in outcomes]
    assert unknown == [number % 10 == 9 for number in range(60)]
    stored = Counter(int(f[b"msg"]) for _, f in await redis.xrange(stream))
    assert stored == dict.fromkeys(range(60), 1)


async def test_with_slow_connections_and_small_pieces_batches_are_large(
    url: str, stream: str, redis: Any
) -> None:
    """At 0.1 s one way, one message per round trip would be five a second."""
    seen = Seen()
    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g")
        async with running(consumer, seen, concurrency=4) as consumer:
            async with Producer(between.url) as producer:
                between.delay = 0.1
                begin = time.monotonic()
                outcomes = await producer.send_many(
                    stream, (b"%d" % number for number in range(2000))
                )
                assert all(isinstance(each, Receipt) for each in outcomes)
            await eventually(lambda: seen.have(*range(2000)), within=20)
            assert 2000 / (time.monotonic() - begin) > 100
            between.delay, between.portion = 0.0, 16
            await send(between.url, stream, *range(2000, 2100))
            await eventually(lambda: seen.have(*range(2100)))
            between.portion = 65536
            await consumer.commit()
    assert seen == dict.fromkeys(range(2100), 1)
    assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_corrupted_reply_ends_the_connection_and_does_no_other_harm(
    url: str, stream: str, redis: Any, events: Events, *, protocol: int, seed: int
) -> None:
    seen = Seen()
    query = f"?protocol={protocol}&socket_timeout=0.5"
    async with proxy(url) as consumer_proxy, proxy(url) as producer_proxy:
        consumer_proxy.chance, producer_proxy.chance = Random(seed), Random(seed + 100)
        consumer = Consumer(
            stream, url=consumer_proxy.url + query, group="g", on_event=events
        )
        async with (
            running(consumer, seen, concurrency=4) as consumer,
            Producer(producer_proxy.url + query, on_event=events) as producer,
        ):
            outcomes: list[object] = []
            for turn in range(20):
                consumer_proxy.corrupt_next_reply = (
                    producer_proxy.corrupt_next_reply
                ) = turn % 4 == 0
                bodies = [b"%d" % number for number in range(turn * 50, turn * 50 + 50)]
                outcomes += await producer.send_many(stream, bodies)
                await asyncio.sleep(0.02)
            stored = [int(f[b"msg"]) for _, f in await redis.xrange(stream)]
            await eventually(lambda: seen.have(*stored))
            await consumer.commit()
    assert consumer_proxy.corrupted
    assert producer_proxy.corrupted
    assert len(stored) == len(set(stored))
    confirmed = {n for n, one in enumerate(outcomes) if isinstance(one, Receipt)}
    assert confirmed <= set(stored)
    # Each receipt is that of its own message.
    numbers_by_id = {
        id_.decode(): int(f[b"msg"]) for id_, f in await redis.xrange(stream)
    }
    assert all(
        numbers_by_id[str(one.id)] == number
        for number, one in enumerate(outcomes)
        if isinstance(one, Receipt)
    )
    assert seen == dict.fromkeys(stored, 1)
    assert await pending(redis, stream, "g") == 0


async def test_a_consumer_waits_while_the_server_accepts_no_more_clients(
    tmp_path: Path, stream: str, events: Events
) -> None:
    async with server(tmp_path) as own, own.client() as redis:
        async with Consumer(
            stream, url=own.url, group="g", on_event=events
        ) as consumer:
            await send(own.url, stream, 1)
            assert numbers(await read(consumer, 1)) == [1]
            await redis.config_set("maxclients", 1)
            await redis.execute_command("CLIENT", "KILL", "TYPE", "NORMAL")
            begin = time.monotonic()
            await eventually(lambda: loss_is_reported(events))
            await asyncio.sleep(1.0)
            stats = await redis.info("stats")
            # As in any outage: at most five attempts a second.
            attempts = stats["rejected_connections"] / (time.monotonic() - begin)
            assert attempts <= 8
            await redis.config_set("maxclients", 1000)
            await send(own.url, stream, 2)
            assert numbers(await read(consumer, 1, within=3)) == [2]
    assert len(events) <= 6


async def loss_is_reported(events: Events) -> bool:
    return bool(events.named("connection_lost"))


async def test_a_permission_that_is_missing_for_a_while_causes_no_repetition(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """XACK is refused for three leases, while reading continues."""
    seen = Seen()
    claim = Claim(idle=0.5, interval=0.1)
    async with server(tmp_path) as own, own.client() as redis:
        consumer = Consumer(
            stream, url=own.url, group="g", claim=claim, on_event=events
        )
        async with running(consumer, seen) as consumer, Producer(own.url) as producer:
            await producer.send(stream, b"0")
            await eventually(lambda: seen.have(0))
            await redis.acl_setuser("default", commands=["-xack"])
            begin = time.monotonic()
            number = 0
            while time.monotonic() - begin < 1.5:
                number += 1
                await producer.send(stream, b"%d" % number)
                await asyncio.sleep(0.01)
            await eventually(lambda: seen.have(number))
            # It is reported once a second.
            assert 1 <= len(events.named("commit_refused")) <= 3
            await redis.acl_setuser("default", commands=["+xack"])
            await consumer.commit()
            assert await pending(redis, stream, "g") == 0
    assert seen == dict.fromkeys(range(number + 1), 1)


@pytest.mark.parametrize("direction", ["drop_replies", "drop_requests"])
async def test_closing_keeps_its_deadline_while_the_server_is_silent(
    url: str, stream: str, redis: Any, events: Events, direction: str
) -> None:
    async with proxy(url) as between:
        consumer = Consumer(
            stream, url=between.url, group="g", close_timeout=0.5, on_event=events
        )
        seen = Seen()
        async with consumer:
            run = asyncio.create_task(consumer.run(seen))
            await send(url, stream, *range(20))
            await eventually(lambda: seen.have(*range(20)))
            fall_silent(between, direction)
            begin = time.monotonic()
        assert time.monotonic() - begin < 0.5 + 4
        await run
    # Messages whose acknowledgements could not be sent are handled again by the next
    # consumer.
    async with Consumer(
        stream, url=url, group="g", claim=Claim(idle=0.1, interval=0.05)
    ) as successor:
        left = await pending(redis, stream, "g")
        again = numbers(await read(successor, left)) if left else []
        assert set(again) <= set(range(20))
    assert await pending(redis, stream, "g") == 0


def fall_silent(between: Proxy, direction: str) -> None:
    setattr(between, direction, True)
