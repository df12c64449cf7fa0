"""Cluster mode on one server: it refuses commands with keys of several slots.

Services that hide a whole cluster behind one endpoint do the same.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    Claim,
    ClosedError,
    Consumer,
    EntryId,
    Message,
    Mode,
    Producer,
    Retry,
    Shard,
    Start,
    TransactionFailed,
    replay,
)
from penstock._core.protocol.cluster_slots import slot
from penstock.admin import Admin
from support.events import Events
from support.failing import running
from support.looking import run
from support.server import Server, free_port, server
from support.waiting import calls, eventually, numbers, pending, read, record_shards

SHARD_NUMBERS = range(4)


@asynccontextmanager
async def cluster_mode(folder: Path) -> AsyncIterator[Server]:
    """Provide a server in cluster mode that has all slots."""
    bus = str(free_port())
    async with server(folder, "--cluster-enabled", "yes", "--cluster-port", bus) as own:
        async with own.client() as redis:
            await redis.execute_command("CLUSTER", "ADDSLOTS", *range(16384))

            async def ready() -> bool:
                info = await redis.execute_command("CLUSTER", "INFO")
                return b"cluster_state:ok" in info

            await eventually(ready, within=10)
        yield own


async def send_to_all(own: Server, stream: str, numbers: Sequence[int]) -> None:
    """Send numbers to the shards in turn."""
    async with Producer(own.url, sharder=by_number, shards=4) as producer:
        for number in numbers:
            await producer.send(stream, b"%d" % number)


def by_number(_: str, __: str | None, payload: bytes) -> int:
    return int(payload) % len(SHARD_NUMBERS)


async def all_done(redis: Any, stream: str) -> bool:
    keys = [f"{stream}:{number}" for number in SHARD_NUMBERS]
    return not any([await pending(redis, key, "g") for key in keys])


@pytest.mark.parametrize("mode", list(Mode))
async def test_shards_of_several_slots_are_all_read_at_the_same_time(
    tmp_path: Path, stream: str, events: Events, mode: Mode
) -> None:
    async with cluster_mode(tmp_path) as own:
        assert len({slot(f"{stream}:{n}".encode()) for n in SHARD_NUMBERS}) == len(
            SHARD_NUMBERS
        )
        await send_to_all(own, stream, range(100))
        group = None if mode is Mode.REALTIME else "g"
        async with Consumer(
            stream,
            url=own.url,
            group=group,
            mode=mode,
            start=Start.EARLIEST,
            on_event=events,
        ) as consumer:
            assert len(consumer.shards) == len(SHARD_NUMBERS)
            assert sorted(numbers(await read(consumer, 100))) == list(range(100))
            # New messages of each shard are delivered while the others are quiet.
            for number in SHARD_NUMBERS:
                await send_to_all(own, stream, [number])
                assert numbers(await read(consumer, 1, within=1)) == [number]
            lags = await consumer.lag()
            assert set(lags.values()) == {0}
        async with own.client() as redis:
            if group:
                assert await all_done(redis, stream)
    assert events.named("looking_refused") == []
    assert events.named("read_refused") == []


async def test_a_backlog_in_many_slots_is_read_many_entries_at_a_time(
    tmp_path: Path, stream: str
) -> None:
    """Slots with more to read take turns: a read costs as much for few entries."""
    shards, each = 32, 500
    async with cluster_mode(tmp_path) as own, own.client() as redis:
        await record_shards(redis, stream, shards)
        for number in range(shards):
            pipe = redis.pipeline(transaction=False)
            for value in range(each):
                pipe.xadd(f"{stream}:{number}", {"msg": value})
            await pipe.execute()
        done = asyncio.Event()
        left = shards * each

        async def handle(_: Message[bytes]) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        consumer = Consumer(stream, url=own.url, group="g", start=Start.EARLIEST)
        async with running(consumer, handle, concurrency=16):
            await done.wait()
            assert len(consumer.shards) == shards
        assert shards * each / await calls(redis, "xreadgroup") > 60


async def test_new_shards_are_read_too(tmp_path: Path, stream: str) -> None:
    async with cluster_mode(tmp_path) as own:
        async with Consumer(stream, url=own.url, group="g") as consumer:
            async with Producer(own.url) as producer:
                await producer.send(stream, b"100")
                assert numbers(await read(consumer, 1)) == [100]
                await send_to_all(own, stream, range(40))
                found = await read(consumer, 40, within=10)
                assert sorted(numbers(found)) == list(range(40))
                assert len(consumer.shards) == 1 + len(SHARD_NUMBERS)


async def test_streams_of_any_slots_can_be_assigned_sought_and_unassigned(
    tmp_path: Path, stream: str
) -> None:
    one, two = f"{stream}-one", f"{stream}-two"
    async with cluster_mode(tmp_path) as own:
        async with Producer(own.url) as producer:
            for number in range(5):
                await producer.send(one, b"%d" % number)
                await producer.send(two, b"%d" % (number + 10))
        async with Consumer(
            one, url=own.url, group="g", mode=Mode.RESUMABLE
        ) as consumer:
            assert numbers(await read(consumer, 5)) == [*range(5)]
            await consumer.assign(two)
            assert numbers(await read(consumer, 5)) == [*range(10, 15)]
            await consumer.seek(Start.EARLIEST)
            again = numbers(await read(consumer, 10))
            assert sorted(again) == [*range(5), *range(10, 15)]
            await consumer.unassign(one)
            assert [shard.stream for shard in consumer.shards] == [two]
            await consumer.seek(Start.EARLIEST)
            assert numbers(await read(consumer, 5)) == [*range(10, 15)]


async def test_retries_dead_letters_claims_and_reconnects_work_in_every_slot(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """Retries, dead letters, claims and lost connections, on four shards."""
    seen: Counter[int] = Counter()

    async def handle(message: Message[bytes]) -> None:
        seen[int(message.payload)] += 1
        if message.payload == b"33":
            raise ValueError("never")

    async with cluster_mode(tmp_path) as own, own.client() as redis:
        await send_to_all(own, stream, range(60))
        for number in SHARD_NUMBERS:
            key = f"{stream}:{number}"
            await redis.xgroup_create(key, "g", "0")
            await redis.xreadgroup("g", "dead", {key: ">"}, count=5)
        consumer = Consumer(
            stream,
            url=own.url,
            group="g",
            claim=Claim(idle=0.5, interval=0.1),
            retry=Retry(max_attempts=2, backoff=[0.05]),
            on_event=events,
        )

        async def has_seen(count: int) -> bool:
            return len(seen) == count

        async with running(consumer, handle, concurrency=4):
            await eventually(lambda: has_seen(60))
            for turn in range(3):
                await redis.client_kill_filter(_type="normal", skipme=True)
                await send_to_all(own, stream, range(100 + turn * 4, 104 + turn * 4))
            await eventually(lambda: has_seen(72))
            await eventually(lambda: all_done(redis, stream))
        async with Admin(own.url) as admin:
            [dead_letter] = await admin.dead.list(stream)
            assert dead_letter.payload == b"33"
            assert (await admin.group_state(stream, "g")).pending == 0
            assert await admin.dead.redrive(stream) == 1
            assert await admin.dead.list(stream) == []
    assert seen[33] == 2
    assert max(seen.values()) <= 2


async def test_a_transaction_of_several_slots_is_refused_as_a_whole(
    tmp_path: Path, stream: str
) -> None:
    async with cluster_mode(tmp_path) as own:
        tagged = f"{{{stream}}}"
        async with Producer(own.url, idempotent=True) as producer:
            await producer.send(tagged, b"1")
        async with Consumer(tagged, url=own.url, group="g") as consumer:
            message = await consumer.next()
            with pytest.raises(TransactionFailed, match="slot"):
                async with message.transaction() as tx:
                    tx.command("SET", "elsewhere", 1)
            async with message.transaction() as tx:
                tx.command("SET", f"{tagged}.total", 1)
        async with own.client() as redis:
            assert await redis.get(f"{tagged}.total") == b"1"
            assert await redis.exists("elsewhere") == 0


async def test_replay_and_group_state_include_all_slots(
    tmp_path: Path, stream: str
) -> None:
    async with cluster_mode(tmp_path) as own:
        await send_to_all(own, stream, range(40))
        found = [message async for message in replay(stream, url=own.url)]
        assert sorted(int(message.payload) for message in found) == list(range(40))
        async with Admin(own.url) as admin:
            async with Consumer(
                stream, url=own.url, group="g", start=Start.EARLIEST
            ) as consumer:
                shards: Sequence[Shard] = consumer.shards
                assert len(shards) == len(SHARD_NUMBERS)
                state = await admin.group_state(stream, "g")
                # Each shard has delivered some of its entries, and none is settled.
                assert state.lag is not None
                assert state.pending + state.lag == 40


async def test_closing_does_not_wait_for_an_assign_that_is_under_way(
    tmp_path: Path, stream: str
) -> None:
    """Each new slot needs a connection, which may be open only after closing."""
    async with cluster_mode(tmp_path) as own:
        await send_to_all(own, stream, range(8))
        for turn in range(40):
            async with Consumer(
                stream, url=own.url, group="g", start=Start.EARLIEST
            ) as consumer:
                await read(consumer, 1 if turn else 8)
                assigning = asyncio.create_task(consumer.assign(f"{stream}-{turn}"))
                await asyncio.sleep(turn / 10_000)
                async with asyncio.timeout(5):
                    await consumer.aclose()
                    with suppress(ClosedError):
                        await assigning
            await send_to_all(own, stream, [turn])
        async with own.client() as redis:

            async def is_alone() -> bool:
                return len(await redis.client_list()) == 1

            await eventually(is_alone)


async def test_commands_read_follow_and_change_shards_of_several_slots(
    tmp_path: Path,
) -> None:
    async with cluster_mode(tmp_path) as own, own.client() as redis:
        await send_to_all(own, "orders", range(8))
        for number in SHARD_NUMBERS:
            key = f"orders:{number}"
            await redis.xgroup_create(key, "g", "0")
            await redis.xreadgroup("g", "c", {key: ">"}, count=1)
        to = ("--url", own.url)
        words = ("read", "orders", "--follow", "--limit", 12, "--json", *to)
        following = asyncio.ensure_future(run(*words))

        async def follows() -> bool:
            return any(one["cmd"] == "xread" for one in await redis.client_list())

        await eventually(follows)
        await send_to_all(own, "orders", range(8, 12))
        printed = [json.loads(line) for line in (await following).stdout.splitlines()]
        # By id, so it is the server's clock that decides between two shards.
        assert {int(one["payload"]) for one in printed[:8]} == {*range(8)}
        ids = [EntryId.parse(one["id"]) for one in printed[:8]]
        assert ids == sorted(ids)
        assert {int(one["payload"]) for one in printed[8:]} == {*range(8, 12)}
        await run("claim", "orders", "g", "--from", "c", "--yes", "--force", *to)
        reset = ("reset", "orders", "g", "--to", "latest", "--yes", "--force", *to)
        assert "8 unread, 4 pending" in (await run(*reset)).stderr
        await run("delete", "group", "orders", "g", "--yes", "--force", *to)
        await run("delete", "stream", "orders", "--yes", *to)
        assert await redis.exists("orders:0") == 0
