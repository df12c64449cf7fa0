"""Failover: a replica is promoted, and the address of clients leads to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock import Consumer, Message, Producer, SendFailed, SendUnknown
from support.events import Events
from support.failing import running
from support.proxy import Proxy, proxy
from support.server import Server, server
from support.waiting import eventually, numbers, pending, read, send


@dataclass
class Pair:
    """A master, its replica, and the address that leads to one of them."""

    master: Server
    replica: Server
    address: Proxy

    async def replicated(self) -> bool:
        """Return whether the replica has all data of the master."""
        async with self.master.client() as master, self.replica.client() as replica:
            behind, ahead = (
                await replica.info("replication"),
                await master.info("replication"),
            )
            return bool(
                behind["master_link_status"] == "up"
                and behind["slave_repl_offset"] >= ahead["master_repl_offset"]
            )

    async def fail_over(self) -> None:
        """Promote the replica, and redirect the address to it."""
        async with self.replica.client() as replica:
            await replica.execute_command("REPLICAOF", "NO", "ONE")
        self.address.redirect(self.replica.url)
        self.address.cut()


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    (folder / "m").mkdir()
    (folder / "r").mkdir()
    soon = ("--repl-diskless-sync-delay", "0")
    async with server(folder / "m", *soon) as master:
        follow = ("--replicaof", "127.0.0.1", str(master.port))
        async with server(folder / "r", *follow) as replica:
            async with proxy(master.url) as address:
                servers = Pair(master, replica, address)
                await eventually(servers.replicated)
                yield servers


async def test_after_a_failover_all_replicated_messages_are_handled(
    tmp_path: Path, stream: str, events: Events
) -> None:
    seen: Counter[int] = Counter()

    async def handle(message: Message[bytes]) -> None:
        seen[int(message.payload)] += 1
        await asyncio.sleep(0.001)

    async def have(*wanted: int) -> bool:
        return set(wanted) <= set(seen)

    async with pair(tmp_path) as servers:
        url = servers.address.url
        consumer = Consumer(stream, url=url, group="g", on_event=events)
        async with running(consumer, handle, concurrency=4), Producer(url) as producer:
            await producer.send_many(stream, (b"%d" % n for n in range(500)))
            await eventually(servers.replicated)
            servers.master.kill()
            await servers.fail_over()
            await eventually(lambda: was_sent(producer, stream, b"500"))
            await eventually(lambda: have(500), within=3)
            await eventually(lambda: have(*range(501)))
            async with servers.replica.client() as redis:
                await eventually(lambda: none_pending(redis, stream))
    assert max(seen.values()) <= 2


async def none_pending(redis: Any, stream: str) -> bool:
    return await pending(redis, stream, "g") == 0


async def test_a_demoted_master_is_waited_for_and_then_left(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """Its clients get UNBLOCKED and READONLY, and are not disconnected."""
    async with pair(tmp_path) as servers:
        url = servers.address.url
        async with (
            Consumer(stream, url=url, group="g", on_event=events) as consumer,
            Producer(url) as producer,
        ):
            await producer.send(stream, b"1")
            assert numbers(await read(consumer, 1)) == [1]
            await consumer.commit()
            await eventually(servers.replicated)
            async with servers.replica.client() as replica:
                await replica.execute_command("REPLICAOF", "NO", "ONE")
            async with servers.master.client() as master:
                port = str(servers.replica.port)
                await master.execute_command("REPLICAOF", "127.0.0.1", port)
            with pytest.raises(SendFailed, match="READONLY"):
                await producer.send(stream, b"2")
            # As with a host name whose address changes, open connections are not cut.
            servers.address.redirect(servers.replica.url)
            await eventually(lambda: was_sent(producer, stream, b"3"))
            [third] = await read(consumer, 1, within=3)
            assert numbers([third]) == [3]
            third.ack()
            # On a connection that was quiet all the time.
            await consumer.commit()
            async with servers.replica.client() as redis:
                assert await none_pending(redis, stream)


async def was_sent(producer: Producer, stream: str, payload: bytes) -> bool:
    """Send a message; return whether this attempt was confirmed."""
    try:
        await producer.send(stream, payload)
    except (SendFailed, SendUnknown):
        return False
    return True


async def test_acknowledgements_and_groups_that_were_not_replicated_cause_repetitions(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """The replica stops following before the group is created; no entry is skipped."""
    async with pair(tmp_path) as servers:
        url = servers.address.url
        await send(url, stream, *range(20))
        await eventually(servers.replicated)
        async with servers.replica.client() as replica:
            await replica.execute_command("REPLICAOF", "NO", "ONE")
        async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
            assert numbers(await read(consumer, 10)) == [*range(10)]
            await consumer.commit()
            servers.master.kill()
            await servers.fail_over()
            got: set[int] = set()
            async with asyncio.timeout(10):
                while not set(range(10, 20)) <= got:
                    got |= set(numbers(await read(consumer, 1)))
            async with servers.replica.client() as redis:

                async def all_is_done() -> bool:
                    while await consumer.next(timeout=0.05):
                        pass
                    await consumer.commit()
                    # What was queued may be done before the group is recreated.
                    recreated = bool(events.named("group_recreated"))
                    return recreated and await pending(redis, stream, "g") == 0

                await eventually(all_is_done)


async def test_while_there_are_too_few_replicas_sends_fail_and_reading_waits(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """NOREPLICAS, with which XREADGROUP is refused too."""
    async with server(tmp_path) as own, own.client() as redis:
        async with (
            Consumer(stream, url=own.url, group="g", on_event=events) as consumer,
            Producer(own.url) as producer,
        ):
            await redis.config_set("min-replicas-to-write", 1)
            with pytest.raises(SendFailed, match="NOREPLICAS"):
                await producer.send(stream, b"0")
            await asyncio.sleep(0.5)
            await redis.config_set("min-replicas-to-write", 0)
            await producer.send(stream, b"1")
            assert numbers(await read(consumer, 1, within=3)) == [1]
    assert len(events) < 12
