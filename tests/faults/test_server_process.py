"""A server process that is killed, frozen, loading, full or stuck: nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    DISCOVER,
    LATEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Claim,
    Consumer,
    Event,
    Message,
    Mode,
    Producer,
    Retry,
    SendFailed,
    ServerError,
)
from support.events import Events
from support.failing import running
from support.server import Server, server, stuck
from support.waiting import (
    eventually,
    numbers,
    options,
    pending,
    read,
    record_shards,
    send,
    spread,
)


@asynccontextmanager
async def full(own: Server) -> AsyncIterator[None]:
    """Let the server refuse commands for lack of memory (OOM)."""
    async with own.client() as client:
        await client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            await client.config_set("maxmemory", 0)


@asynccontextmanager
async def demoted(own: Server) -> AsyncIterator[None]:
    """Make the server a replica of a missing master (READONLY)."""
    async with own.client() as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            await client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("fault", [stuck, full, demoted])
async def test_opening_waits_up_to_open_timeout_while_the_server_refuses(
    tmp_path: Path, stream: str, fault: Any
) -> None:
    async with server(tmp_path) as own:

        async def open_and_read(open_timeout: float) -> list[int]:
            async with Consumer(
                stream, url=own.url, group="g", open_timeout=open_timeout
            ) as consumer:
                return numbers(await read(consumer, 2))

        async with fault(own):
            with pytest.raises(ServerError):
                await open_and_read(0)
            opening = asyncio.create_task(open_and_read(20))
            done, _ = await asyncio.wait([opening], timeout=0.2)
            assert not done
        await send(own.url, stream, 1, 2)
        async with asyncio.timeout(5):
            assert await opening == [1, 2]


async def test_opening_while_the_server_loads_its_data_takes_no_shard_for_missing(
    tmp_path: Path, stream: str
) -> None:
    async with server(tmp_path) as own:
        async with Producer(own.url, shards=2) as producer:
            for number in range(4500):
                await producer.enqueue(stream, b"%d" % number, key=str(number))
        own.kill()
        # The microseconds for loading a command; the server answers after every 1,024.
        await own.start("--key-load-delay", "200", ready=b"-LOADING")
        async with Consumer(
            stream, url=own.url, group="g", start=LATEST, open_timeout=20
        ) as consumer:
            assert {shard.number for shard in consumer.shards} == {0, 1}
            assert {shard.key for shard in consumer.shards} == {
                f"{stream}:{number}".encode() for number in (0, 1)
            }
            assert await consumer.next(timeout=0.2) is None


@pytest.mark.parametrize("search", [False, True])
async def test_a_server_that_is_stuck_for_a_while_does_not_end_the_search_for_shards(
    tmp_path: Path, stream: str, events: Events, *, search: bool
) -> None:
    given: dict[str, Any] = {"shards": DISCOVER} if search else {}
    async with server(tmp_path) as own, own.client() as redis:
        await record_shards(redis, stream, 1)
        await send(own.url, f"{stream}:0", 0)
        async with Consumer(
            stream, url=own.url, group="g", on_event=events, **given
        ) as consumer:
            assert numbers(await read(consumer, 1)) == [0]
            async with stuck(own):
                # Longer than the interval of a search, and of a look at the record.
                await asyncio.sleep(2.3)
            await record_shards(redis, stream, 2)
            await send(own.url, f"{stream}:1", 1)
            assert numbers(await read(consumer, 1, within=5)) == [1]
        assert not events.named("looking_refused")


async def test_while_the_server_loads_its_data_no_group_is_taken_for_missing(
    tmp_path: Path, stream: str, events: Events
) -> None:
    async with server(tmp_path) as own:
        async with Producer(own.url) as producer:
            await producer.send_many(stream, (b"%d" % n for n in range(4500)))
        async with Consumer(
            stream, url=own.url, group="g", start=LATEST, on_event=events
        ) as consumer:
            await send(own.url, stream, 1)
            assert numbers(await read(consumer, 1)) == [1]
            await consumer.commit()
            own.kill()
            await own.start("--key-load-delay", "200", ready=b"-LOADING")
            async with Producer(own.url, open_timeout=20) as producer:
                while not await was_sent(producer, stream, b"2"):
                    await asyncio.sleep(0.05)
            assert numbers(await read(consumer, 1)) == [2]
            await consumer.commit()
    assert not events.named("group_missing") + events.named("group_recreated")


async def was_sent(producer: Producer, stream: str, payload: bytes) -> bool:
    try:
        await producer.send(stream, payload)
    except ServerError:
        return False
    return True


@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE, LOAD_BALANCED])
async def test_a_server_that_restarts_without_data_is_read_from_its_new_beginning(
    tmp_path: Path, stream: str, mode: Mode, events: Events
) -> None:
    """Its data is lost; that is reported per shard, and new messages arrive in 3 s."""
    async with server(tmp_path, "--appendonly", "no") as own:
        async with Consumer(
            stream, url=own.url, **options(mode), on_event=events
        ) as consumer:
            await send(own.url, stream, *range(50))
            delivered = numbers(await read(consumer, 10))
            own.kill()
            await own.start()
            await send(own.url, stream, 100)
            # Messages that were read before are still handed out.
            async with asyncio.timeout(5):
                while 100 not in delivered:
                    delivered += numbers(await read(consumer, 1))
            assert delivered == [*range(len(delivered) - 1), 100]
            if mode is not REALTIME:
                async with own.client() as redis:
                    assert await consumer.next(timeout=0.1) is None
                    await consumer.commit()
                    assert await pending(redis, stream, "g") == 0
    if mode is not REALTIME:
        assert len(events.named("group_recreated")) == 1


@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE, LOAD_BALANCED])
async def test_a_server_that_restarts_from_an_old_snapshot_is_read_on(
    tmp_path: Path, stream: str, mode: Mode, events: Events
) -> None:
    """Messages that were acknowledged since the snapshot are repeated once at most."""
    async with server(tmp_path, "--appendonly", "no") as own:
        async with Consumer(
            stream, url=own.url, **options(mode), on_event=events
        ) as consumer:
            await send(own.url, stream, *range(50))
            assert numbers(await read(consumer, 30)) == [*range(30)]
            if mode is not REALTIME:
                await consumer.commit()
            async with own.client() as redis:
                await redis.save()
            await send(own.url, stream, *range(50, 100))
            assert numbers(await read(consumer, 70)) == [*range(30, 100)]
            if mode is not REALTIME:
                await consumer.commit()
            own.kill()
            await own.start()
            await send(own.url, stream, 100)
            got: list[int] = []
            async with asyncio.timeout(5):
                while 100 not in got:
                    got += numbers(await read(consumer, 1))
            # Messages that had been started wait until the next start can be counted.
            while (late := await consumer.next(timeout=0.5)) is not None:
                got += numbers([late])
            assert len(got) == len(set(got))
            assert set(got) - {100} <= set(range(29, 50))
            if mode is not REALTIME:
                async with own.client() as redis:
                    await consumer.commit()
                    assert await pending(redis, stream, "g") == 0


async def test_while_the_disk_fails_sends_fail_and_reading_waits(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """MISCONF: a snapshot failed, and all writes are refused, XREADGROUP's too."""
    async with server(tmp_path) as own, own.client() as redis:
        async with (
            Consumer(stream, url=own.url, group="g", on_event=events) as consumer,
            Producer(own.url) as producer,
        ):
            (tmp_path / "dump.rdb").mkdir()
            await redis.config_set("save", "100000 1")
            await redis.bgsave()
            await eventually(lambda: is_refused(producer, stream))
            await asyncio.sleep(0.5)
            await redis.config_set("save", "")
            await producer.send(stream, b"1")
            async with asyncio.timeout(3):
                while numbers(await read(consumer, 1)) != [1]:
                    pass  # some went through before the snapshot had failed
        assert len(events) < 12


async def is_refused(producer: Producer, stream: str) -> bool:
    try:
        await producer.send(stream, b"0")
    except SendFailed as error:
        return error.code == "MISCONF"
    return False


async def test_repeated_refusals_are_reported_a_few_times_a_second(
    tmp_path: Path, stream: str
) -> None:
    """Reads, acks, renewals, claims and dead letters of several shards: ten at most."""
    reported: list[tuple[float, str]] = []

    def report(event: Event) -> None:
        reported.append((time.monotonic(), event.name))

    async def fail(message: Message[bytes]) -> None:
        if int(message.payload) % 2:
            raise ValueError

    async with server(tmp_path) as own, own.client() as redis:
        consumer = Consumer(
            stream,
            url=own.url,
            group="g",
            claim=Claim(idle=0.3, interval=0.05),
            retry=Retry(max_attempts=1),
            on_event=report,
        )
        async with running(consumer, fail, concurrency=4):
            await spread(own.url, stream, *range(40), shards=4)
            await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
            await asyncio.sleep(2)
            await redis.execute_command("REPLICAOF", "NO", "ONE")
    refused = [at for at, name in reported if name.endswith("_refused")]
    assert refused
    for at in refused:
        assert sum(at <= other < at + 1 for other in refused) <= 10
