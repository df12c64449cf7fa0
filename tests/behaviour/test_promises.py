"""Promises of the README, in modes and with policies that no other file tests."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from penstock import (
    DELAYED,
    DISABLED,
    EARLIEST,
    IMMEDIATE,
    LOAD_BALANCED,
    PROCESSED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    AutoCommit,
    Claim,
    Commit,
    Consumer,
    Message,
    Mode,
    Prefetch,
    Producer,
    RoundRobin,
)
from support.waiting import (
    deliveries,
    eventually,
    holds,
    is_blocked,
    leave_pending,
    numbers,
    pending,
    read,
    send,
)

GROUP_MODES = [RESUMABLE, LOAD_BALANCED]
SHORT = Claim(idle=0.3, interval=0.1)


# -- acknowledgements do not wait for messages -----------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
@pytest.mark.parametrize("policy", [PROCESSED, ROLLING])
async def test_an_ack_is_sent_after_the_interval_while_a_read_is_blocked(
    url: str, stream: str, redis: Any, mode: Mode, policy: AutoCommit
) -> None:
    """Usually within 50 ms more; no entry arrives and no call is made meanwhile."""
    interval = 0.1
    acked_at = 0.0
    more: list[float] = []

    async def handle(message: Message[bytes]) -> None:
        nonlocal acked_at
        if policy is ROLLING:
            message.ack()
        acked_at = time.monotonic()

    async with Consumer(
        stream,
        url=url,
        mode=mode,
        group="g",
        auto_commit=policy,
        commit=Commit(interval=interval),
    ) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        for number in range(5):
            await eventually(lambda: is_blocked(redis))
            await send(url, stream, number)
            await eventually(lambda: acknowledged(consumer, number + 1))
            more.append(time.monotonic() - acked_at - interval)
            assert await pending(redis, stream, "g") == 0
        await consumer.aclose()
        await run
    # The median, since the machine may have been busy once.
    assert -0.02 < median(more) < 0.05


async def acknowledged(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().acknowledged == count


# -- closing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "policy"),
    [
        (REALTIME, PROCESSED),
        *[
            (mode, policy)
            for mode in GROUP_MODES
            for policy in (PROCESSED, ROLLING, DISABLED, DELAYED, IMMEDIATE)
        ],
    ],
)
async def test_closing_on_a_silent_stream_takes_a_tenth_of_a_second_and_sends_all_acks(
    url: str, stream: str, redis: Any, mode: Mode, policy: AutoCommit
) -> None:
    """Usually at most 0.1 s, however long the acks might have waited."""
    took: list[float] = []
    for turn in range(5):
        name = f"{stream}-{turn}"
        await send(url, name, *range(20))
        async with Consumer(
            name,
            url=url,
            mode=mode,
            group=None if mode is REALTIME else "g",
            start=EARLIEST,
            auto_commit=policy,
            commit=Commit(interval=3600, delay=3600),
        ) as consumer:
            for message in await read(consumer, 20):
                if policy in {ROLLING, DISABLED}:
                    message.ack()
            # No more entries arrive: the reader is in its blocking read again.
            await eventually(lambda: is_blocked(redis))
            start = time.monotonic()
        took.append(time.monotonic() - start)
        if mode is not REALTIME:
            assert await pending(redis, name, "g") == 0
    assert median(took) < 0.1


# -- leases ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
async def test_a_message_that_is_never_acked_is_redelivered_and_counted_by_the_server(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    """In a group that works, after its lease; forever, if necessary."""
    await send(url, stream, 1)
    async with Consumer(
        stream, url=url, mode=mode, group="g", claim=SHORT, auto_commit=ROLLING
    ) as consumer:
        start = time.monotonic()
        for attempt in (1, 2, 3):
            [message] = await read(consumer, 1, within=5)
            assert message.attempt == attempt
            counts = await deliveries(redis, stream, "g")
            assert counts == {str(message.id): attempt + 1}
            assert time.monotonic() - start > 0.25 * (attempt - 1)
        [line] = await redis.xpending_range(stream, "g", "-", "+", 10)
        assert line["consumer"].decode() == consumer.name
        message.ack()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


async def test_a_loop_slower_than_the_lease_keeps_its_message_with_a_full_queue(
    url: str, stream: str, redis: Any
) -> None:
    """SeaStreamer's W7: a full consumer sent no command, and was taken for dead."""
    await send(url, stream, *range(4))
    few = Prefetch(max_messages=3)

    def consumer(name: str) -> Consumer[bytes]:
        return Consumer(
            stream, url=url, group="g", name=name, claim=SHORT, prefetch=few
        )

    async with consumer("one") as one:
        held = await one.next()
        await eventually(lambda: holds(one, 3))
        async with consumer("two") as two:
            assert numbers(await read(two, 1)) == [3]
            assert await two.next(timeout=1.2) is None  # for four leases
            assert two.statistics().claimed == 0
        lines = await redis.xpending_range(stream, "g", "-", "+", 10)
        assert [line["consumer"] for line in lines] == [b"one"] * 3
        # The two that only wait have not been attempted.
        assert [line["times_delivered"] for line in lines] == [2, 1, 1]
        assert numbers([held, *await read(one, 2)]) == [0, 1, 2]
        assert one.statistics().lost == 0
    assert await pending(redis, stream, "g") == 0


# -- pending entries that were trimmed -------------------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
async def test_trimmed_entries_are_removed_from_the_consumer_s_pending_list(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    """SeaStreamer's W14, by trimming; first and last of the list, and all of it."""
    await send(url, stream, *range(100))
    await leave_pending(redis, stream, "me", 90)
    await redis.xtrim(stream, maxlen=30, approximate=False)
    few = Prefetch(max_messages=8)
    consumer = Consumer(stream, url=url, mode=mode, group="g", name="me", prefetch=few)
    async with consumer:
        assert numbers(await read(consumer, 30)) == list(range(70, 100))
        assert consumer.statistics().ghosts == 70
        await consumer.commit()
    assert await pending(redis, stream, "g") == 0
    await send(url, stream, *range(50))
    await redis.xreadgroup("g", "me", {stream: ">"}, count=50)
    await redis.xtrim(stream, maxlen=0, approximate=False)
    async with consumer:
        await send(url, stream, 200)
        assert numbers(await read(consumer, 1)) == [200]
    assert await pending(redis, stream, "g") == 0


async def test_an_entry_that_is_trimmed_while_it_is_queued_is_handled_and_acknowledged(
    url: str, stream: str, redis: Any
) -> None:
    """It was read already; that the stream has deleted it is no reason to drop it."""
    await send(url, stream, *range(8))
    async with Consumer(stream, url=url, group="g", claim=SHORT) as consumer:
        first = await consumer.next()
        await eventually(lambda: holds(consumer, 8))
        await redis.xtrim(stream, maxlen=0, approximate=False)
        assert numbers([first, *await read(consumer, 7)]) == list(range(8))
        await send(url, stream, 8)
        assert numbers(await read(consumer, 1)) == [8]
    assert await pending(redis, stream, "g") == 0


# -- interleaved sends -----------------------------------------------------------------


async def test_interleaved_sends_to_three_shards_keep_each_shard_in_order(
    url: str, stream: str, redis: Any
) -> None:
    """SeaStreamer's T9, the producer's half; at once, so in few and mixed writes."""
    async with Producer(url, sharder=RoundRobin(3), max_batch=50) as producer:
        one_by_one = [await producer.send(stream, b"%d" % n) for n in range(10)]
        futures = [await producer.enqueue(stream, b"%d" % n) for n in range(10, 3000)]
        await producer.flush()
        assert all(future.done() for future in futures)
    receipts = one_by_one + [future.result() for future in futures]
    assert {receipt.stream for receipt in receipts} == {stream}
    assert [receipt.shard for receipt in receipts] == [n % 3 for n in range(3000)]
    for shard in range(3):
        ids = [receipt.id for receipt in receipts[shard::3]]
        assert all(one < other for one, other in pairwise(ids))
        entries = await redis.xrange(f"{stream}:{shard}")
        assert [id_.decode() for id_, _ in entries] == [str(id_) for id_ in ids]
        bodies = [int(fields[b"msg"]) for _, fields in entries]
        assert bodies == list(range(shard, 3000, 3))
