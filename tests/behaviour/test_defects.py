"""SeaStreamer's defects, numbered W1 to W24 in our list: what must hold instead.

Defects that another file covers are not repeated here. W1, W15 and W18, which are about
errors, are in test_defects_errors.py.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import Any

import pytest

from penstock import (
    IMMEDIATE,
    LATEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    Claim,
    Commit,
    Consumer,
    Message,
    Mode,
    Prefetch,
    Producer,
)
from support.events import Events
from support.waiting import calls, eventually, numbers, pending, read, send

GROUP_MODES = [RESUMABLE, LOAD_BALANCED]
MODES = [REALTIME, *GROUP_MODES]


def grouped(mode: Mode) -> str | None:
    return None if mode is REALTIME else "g"


# -- W2: memory in REALTIME ------------------------------------------------------------


async def test_w2_realtime_keeps_nothing_of_a_message(url: str, stream: str) -> None:
    """W2: an automatic ack was stored for every message, and never sent: a leak."""
    payload = b"x" * 100
    async with Producer(url) as producer, Consumer(stream, url=url) as consumer:

        async def rounds(count: int) -> int:
            for _ in range(count):
                for _ in range(1000):
                    await producer.enqueue(stream, payload)
                await producer.flush()
                for _ in range(1000):
                    await consumer.next()
            gc.collect()
            return sys.getallocatedblocks()

        before = await rounds(10)
        after = await rounds(40)
        assert consumer.statistics().received == 50_000
        assert consumer.statistics().in_hand <= 1
        assert consumer.statistics().uncommitted == 0
    # A single object kept per message would be 40,000.
    assert after - before < 4000


# -- W9: acks depend on messages and reads ---------------------------------------------


async def test_w9_closing_sends_delayed_acks_however_recent_they_are(
    url: str, stream: str, redis: Any
) -> None:
    """W9: `end` could take ten seconds, and lost acks younger than the delay."""
    await send(url, stream, *range(3))
    delayed = Consumer(
        stream, url=url, group="g", auto_commit="delayed", commit=Commit(delay=3600)
    )
    async with delayed as consumer:
        await read(consumer, 3)
        start = time.monotonic()
    assert time.monotonic() - start < 1
    assert await pending(redis, stream, "g") == 0


# -- W11: LATEST moves -----------------------------------------------------------------


async def test_w11_latest_is_a_fixed_position_however_late_the_next_read_is(
    url: str, stream: str
) -> None:
    """W11: `$` was sent with every read, so entries between two reads were missed."""
    busy, quiet = f"{stream}-busy", f"{stream}-quiet"
    for name in (busy, quiet):
        await send(url, name, 97, 98, 99)
    async with Consumer(
        busy, quiet, url=url, start=LATEST, prefetch=Prefetch(max_messages=1)
    ) as consumer:
        await send(url, busy, 0)
        # Its queue is full, so nothing is read now.
        await eventually(lambda: are_queued(consumer, 1))
        await send(url, quiet, 1, 2)
        assert sorted(numbers(await read(consumer, 3, within=5))) == [0, 1, 2]
        assert await consumer.next(timeout=0.05) is None


# -- W17: consumers accumulate ---------------------------------------------------------


@pytest.mark.slow
async def test_w17_dead_consumers_are_removed_once_their_entries_are_claimed(
    url: str, stream: str, redis: Any
) -> None:
    """W17: every start has a new name, and nothing ever removed the old ones."""
    await send(url, stream, *range(5))
    for _ in range(3):
        async with Consumer(stream, url=url, group="g"):
            pass
    await redis.xreadgroup("g", "dead", {stream: ">"}, count=5)
    claim = Claim(idle=1, interval=1)
    async with Consumer(stream, url=url, group="g", claim=claim) as consumer:
        assert sorted(numbers(await read(consumer, 5, within=5))) == list(range(5))
        # A live one sends a read every two seconds; ten idle seconds are the minimum.
        await eventually(lambda: one_is_left(redis, stream), within=20)
        [left] = await redis.xinfo_consumers(stream, "g")
        assert left["name"].decode() == consumer.name
    assert await pending(redis, stream, "g") == 0


async def one_is_left(redis: Any, stream: str) -> bool:
    return len(await redis.xinfo_consumers(stream, "g")) == 1


# -- W20: two RESUMABLE consumers with the same names ----------------------------------


async def test_w20_two_resumable_consumers_of_one_name_repeat_a_bounded_number(
    url: str, stream: str, redis: Any
) -> None:
    """W20: each reads the other's pending entries; once, on opening, is enough."""
    seen = await handled_by_two(url, stream, redis, total=600, most=20)
    assert len(seen) <= 600 + 2 * 20


async def test_w20_two_resumable_consumers_of_one_name_lose_nothing(
    url: str, stream: str, redis: Any
) -> None:
    """W20: two consumers of one host with default options share group and name."""
    seen = await handled_by_two(url, stream, redis, total=300, most=20)
    assert set(seen) == set(range(300))


async def handled_by_two(
    url: str, stream: str, redis: Any, *, total: int, most: int
) -> list[int]:
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        await asyncio.sleep(0.001)

    def consumer() -> Consumer[bytes]:
        few = Prefetch(max_messages=most)
        return Consumer(stream, url=url, mode=RESUMABLE, prefetch=few)

    async def all_done() -> bool:
        group = str(one.group)
        all_seen = set(seen) == set(range(total))
        return all_seen and await pending(redis, stream, group) == 0

    await send(url, stream, *range(total))
    async with consumer() as one, consumer() as two:
        assert (one.group, one.name) == (two.group, two.name)
        runs = [asyncio.create_task(each.run(handle)) for each in (one, two)]
        await eventually(all_done, within=20)
        for each in (one, two):
            await each.aclose()
        await asyncio.gather(*runs)
    return seen


# -- W22: opening returns too early ----------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exists", [True, False])
async def test_w22_latest_misses_no_message_that_is_sent_right_after_opening(
    url: str,
    stream: str,
    redis: Any,
    mode: Mode,
    exists: bool,  # noqa: FBT001 - pytest's parameter
) -> None:
    """W22: opening returned before the group existed or the position was fixed."""
    async with Producer(url) as producer:
        for turn in range(30):
            name = f"{stream}-{turn}"
            if exists:
                await producer.send(name, b"old")
            async with Consumer(
                name, url=url, mode=mode, group=grouped(mode), start=LATEST
            ) as consumer:
                if mode is not REALTIME:
                    [group] = await redis.xinfo_groups(name)
                    assert group["name"] == b"g"
                await producer.send(name, b"new")
                message = await consumer.next(timeout=5)
                assert message is not None
                assert message.payload == b"new"


# -- W23: losses with IMMEDIATE --------------------------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
async def test_w23_immediate_loses_at_most_the_prefetch_on_closing_and_reports_it(
    url: str, stream: str, events: Events, mode: Mode
) -> None:
    """W23: a normal end lost up to 99 acknowledged messages, without a report."""
    await send(url, stream, *range(50))

    def consumer() -> Consumer[bytes]:
        return Consumer(
            stream,
            url=url,
            mode=mode,
            group="g",
            auto_commit=IMMEDIATE,
            prefetch=Prefetch(max_messages=5),
            on_event=events,
        )

    async with consumer() as one:
        seen = numbers(await read(one, 10))
        # It prefetches once less than half is held.
        await eventually(lambda: are_queued(one, 1))
    async with consumer() as other:
        while (message := await other.next(timeout=0.2)) is not None:
            seen.append(int(message.payload))
    missing = set(range(50)) - set(seen)
    assert len(seen) == len(set(seen))
    assert 1 <= len(missing) <= 5
    [event] = events.named("dropped")
    assert event.facts["messages"] == len(missing)


async def are_queued(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().queued >= count


# -- W24: one XACK per shard, one after the other --------------------------------------


async def test_w24_the_acks_of_all_shards_go_out_in_one_write(
    url: str, stream: str, redis: Any
) -> None:
    """W24: a round trip per shard, between two deliveries."""
    streams = [f"{stream}-{n}" for n in range(8)]
    for name in streams:
        await send(url, name, *range(5))
    async with Consumer(
        *streams, url=url, group="g", auto_commit=ROLLING, commit=Commit(interval=60)
    ) as consumer:
        for message in await read(consumer, 40):
            message.ack()
        before = await calls(redis, "xack")
        reads = await reads_processed(redis)
        await consumer.commit()
        # The commit, this query, and perhaps a read or a search.
        assert await reads_processed(redis) - reads <= 4
        assert await calls(redis, "xack") - before == 8


async def reads_processed(redis: Any) -> int:
    return int((await redis.info("stats"))["total_reads_processed"])
