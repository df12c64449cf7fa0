"""Idle consumers send few commands; opening and closing leave no resources behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock import EARLIEST, Consumer, Event, Producer
from penstock._core.ledger.entry import ShardState
from support.waiting import eventually, pending


@pytest.mark.parametrize("group", ["g", None])
async def test_an_idle_consumer_sends_few_commands_however_many_streams_it_reads(
    url: str, stream: str, redis: Any, group: str | None
) -> None:
    streams = [f"{stream}-{n}" for n in range(8)]
    async with Consumer(*streams, url=url, group=group) as consumer:
        assert await consumer.next(timeout=0.2) is None
        before = await calls(redis)
        await asyncio.sleep(4.5)  # the time for which commands are counted
        after = await calls(redis)
    # A read takes two seconds, and the records of shards are looked at every two
    # seconds; each is one command for all streams together.
    assert 2 + 1 <= after - before <= 3 + 3


async def calls(redis: Any) -> int:
    """Return the number of commands so far, except for INFO and those in scripts."""
    stats = await redis.info("commandstats")
    number = {name: int(facts["calls"]) for name, facts in stats.items()}
    return (
        sum(number.values())
        - number.get("cmdstat_info", 0)
        - number.get("cmdstat_eval", 0)
    )


async def test_an_idle_producer_sends_nothing(url: str, redis: Any) -> None:
    async with Producer(url):
        before = await calls(redis)
        await asyncio.sleep(0.3)  # the time for which commands are counted
        assert await calls(redis) == before


@pytest.mark.timeout(240)
async def test_five_hundred_lifetimes_leave_nothing_behind(
    url: str, stream: str, redis: Any
) -> None:
    """No task, thread, connection, file or stranded entry."""

    async def once(number: int) -> None:
        async with (
            Producer(url) as producer,
            Consumer(stream, url=url, group="g", name="me") as consumer,
        ):
            await producer.send(stream, b"%d" % number)
            taken = await consumer.next(timeout=5)
            assert taken is not None
            handled.append(int(taken.payload))
            if number % 5:
                # Some are only queued, and are redelivered in the next round.
                await producer.enqueue(stream, b"%d" % (1000 + number))

    handled: list[int] = []
    await once(0)
    before = await state(redis)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(1, 500):
            await once(number)
        gc.collect()
    after = await state(redis)
    assert after == before
    async with Consumer(stream, url=url, group="g", name="me") as consumer:
        while (message := await consumer.next(timeout=0.1)) is not None:
            handled.append(int(message.payload))
    assert len(handled) == len(set(handled)) == await redis.xlen(stream)
    assert await pending(redis, stream, "g") == 0
    assert len(await redis.xinfo_consumers(stream, "g")) == 1


async def state(redis: Any) -> dict[str, int]:
    connections = len(await redis.client_list())
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "files": len(list(Path(f"/proc/{os.getpid()}/fd").iterdir())),
        "connections": connections,
    }


async def test_a_failed_opening_leaves_nothing_behind(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(stream, "a string")
    before = await state(redis)
    for _ in range(20):
        with pytest.raises(Exception, match="WRONGTYPE"):
            async with Consumer(stream, url=url, group="g"):
                pytest.fail("must not open")
    gc.collect()
    assert await state(redis) == before


async def test_an_opening_that_is_cancelled_leaves_nothing_behind(
    url: str, stream: str, redis: Any
) -> None:
    async def opened() -> None:
        async with Consumer(stream, url=url, group="g"):
            await asyncio.Event().wait()

    await asyncio.gather(asyncio.wait_for(opened(), 0.2), return_exceptions=True)
    before = await state(redis)
    for turns in range(100):
        task = asyncio.create_task(opened())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gc.collect()
    assert await state(redis) == before


async def has_queued(consumer: Consumer[bytes]) -> bool:
    return bool(consumer.statistics().queued)


@pytest.mark.parametrize("group", ["g", None])
async def test_entries_that_a_consumer_held_when_it_closed_are_freed(
    url: str, stream: str, group: str | None
) -> None:
    """The garbage collector does not track entries, so cycles would stay forever."""
    async with Producer(url) as producer:
        for _ in range(100):
            await producer.enqueue(stream, b"x")
    for _ in range(3):
        async with Consumer(stream, url=url, group=group, start=EARLIEST) as consumer:
            await consumer.next()
            await eventually(partial(has_queued, consumer))
    del consumer
    gc.collect()
    shard_states = [thing for thing in gc.get_objects() if type(thing) is ShardState]
    assert not [
        shard_state
        for shard_state in shard_states
        if shard_state.shard.stream == stream
    ]


async def test_a_hook_that_raises_does_not_disturb_the_consumer(
    url: str, stream: str, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Event) -> None:
        raise LookupError

    async with Consumer(stream, url=url, group="g", on_event=broken) as consumer:
        await redis.delete(stream)
        async with Producer(url) as producer:
            await producer.send(stream, b"x")
        assert (await consumer.next()).payload == b"x"
    assert "on_event raised LookupError for group_recreated" in caplog.text
