"""SeaStreamer's acceptance scenarios T1 to T7, with Penstock's API.

test_failover.py and test_policies.py cover T3, T6 and T7 too. This file covers what
those leave out: a consumer that returns under its name (T3), a consumer that is closed
before it has read anything new (T6), and one that is killed (T7). T5 is in
test_acceptance_realtime.py.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import textwrap
from typing import Any

import pytest

from penstock import (
    DELAYED,
    DISABLED,
    EARLIEST,
    IMMEDIATE,
    LATEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    AutoCommit,
    Claim,
    Commit,
    Consumer,
    Mode,
    Prefetch,
    Producer,
    Receipt,
    StreamMissing,
)
from support.waiting import eventually, holds, numbers, pending, read, send

GROUP_MODES = [RESUMABLE, LOAD_BALANCED]
PREFETCH_ONE = Prefetch(max_messages=1)


async def send_and_check(
    producer: Producer, stream: str, *values: int
) -> list[Receipt]:
    """Send, await each receipt, and check the ids, the stream and the shard."""
    receipts = [await producer.send(stream, b"%d" % number) for number in values]
    ids = [receipt.id for receipt in receipts]
    assert all(one < other for one, other in itertools.pairwise(ids))
    assert {(receipt.stream, receipt.shard) for receipt in receipts} == {(stream, 0)}
    return receipts


# -- T1 --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
async def test_t1_without_mkstream_opening_on_a_missing_stream_raises(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    async with Producer(url) as producer:
        missing = Consumer(
            stream, url=url, mode=mode, group="g", start=EARLIEST, mkstream=False
        )
        with pytest.raises(StreamMissing, match=stream):
            async with missing:
                pytest.fail("must not open")
        assert not await redis.exists(stream)
        await send_and_check(producer, stream, *range(5))
        await producer.flush()
        # Now that the stream exists, the same consumer opens.
        async with missing:
            assert numbers(await read(missing, 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("mode", GROUP_MODES)
async def test_t1_with_mkstream_a_missing_stream_is_created_and_read_from_its_start(
    url: str, stream: str, mode: Mode
) -> None:
    async with (
        Producer(url) as producer,
        Consumer(
            stream, url=url, mode=mode, group="g", start=EARLIEST, mkstream=True
        ) as consumer,
    ):
        await send_and_check(producer, stream, *range(5))
        await producer.flush()
        assert numbers(await read(consumer, 5)) == [0, 1, 2, 3, 4]


# -- T2 --------------------------------------------------------------------------------


async def test_t2_two_consumers_of_a_group_balance_the_load(
    url: str, stream: str
) -> None:
    def consumer() -> Consumer[bytes]:
        return Consumer(
            stream,
            url=url,
            mode=LOAD_BALANCED,
            group="g",
            start=EARLIEST,
            auto_commit=DISABLED,
            commit=Commit(interval=0),
            prefetch=PREFETCH_ONE,
        )

    async def work(name: str, reader: Consumer[bytes]) -> None:
        while True:
            message = await reader.next()
            await asyncio.sleep(0.001)  # the work
            queue.put_nowait((name, int(message.payload)))

    queue: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    await send(url, stream, *range(5))
    async with consumer() as alpha, consumer() as beta:
        assert alpha.group == beta.group == "g"
        assert alpha.name
        assert beta.name
        assert alpha.name != beta.name
        for one in (alpha, beta):
            await eventually(lambda: holds(one, 1))
        await send(url, stream, *range(5, 10))
        tasks = [
            asyncio.create_task(work("alpha", alpha)),
            asyncio.create_task(work("beta", beta)),
        ]
        async with asyncio.timeout(10):
            got = [await queue.get() for _ in range(10)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.empty()
    assert sorted(number for _, number in got) == list(range(10))
    assert {name for name, _ in got} == {"alpha", "beta"}


# -- T3 --------------------------------------------------------------------------------


async def test_t3_a_consumer_that_returns_under_its_name_continues_in_its_group(
    url: str, stream: str, redis: Any
) -> None:
    def consumer(name: str | None = None) -> Consumer[bytes]:
        return Consumer(
            stream,
            url=url,
            group=stream,
            name=name,
            start=EARLIEST,
            auto_commit=DISABLED,
            commit=Commit(interval=0),
            claim=Claim(idle=1, interval=1),
            prefetch=PREFETCH_ONE,
        )

    async def read_and_ack(reader: Consumer[bytes], count: int) -> list[int]:
        messages = await read(reader, count)
        for message in messages:
            message.ack()
        await reader.commit()
        return numbers(messages)

    async with consumer() as alpha:
        name = alpha.name
        await send(url, stream, *range(5))
        assert numbers(await read(alpha, 5)) == [0, 1, 2, 3, 4]
        async with consumer() as beta:
            assert beta.name != name
            await send(url, stream, *range(5, 10))
            assert await read_and_ack(beta, 5) == [5, 6, 7, 8, 9]
            await alpha.aclose()
            # There is nothing new, so the pending messages are claimed, in order.
            assert await read_and_ack(beta, 5) == [0, 1, 2, 3, 4]
            await send(url, stream, *range(10, 15))
            await beta.commit()
            async with consumer(name) as back:
                assert back.name == name
                one = await read_and_ack(back, 2)
                other = await read_and_ack(beta, 3)
    # beta has prefetched one, so who gets which is open, but the order is not.
    assert sorted(one + other) == [10, 11, 12, 13, 14]
    assert one == sorted(one)
    assert other == sorted(other)
    assert await pending(redis, stream, stream) == 0


# -- T4 --------------------------------------------------------------------------------


async def test_t4_one_consumer_reads_from_now_on_and_another_reads_two_streams_in_full(
    url: str, stream: str
) -> None:
    a, b = f"{stream}-a", f"{stream}-b"

    def consumer(*streams: str, start: Any) -> Consumer[bytes]:
        return Consumer(*streams, url=url, mode=REALTIME, start=start)

    async with Producer(url) as first:
        await send_and_check(first, a, *range(5))
        async with consumer(a, start=LATEST) as half:
            await send_and_check(first, a, *range(5, 10))
            # b does not exist yet.
            async with consumer(a, b, start=EARLIEST) as full:
                assert numbers(await read(half, 5)) == [5, 6, 7, 8, 9]
                assert numbers(await read(full, 10)) == list(range(10))
                await send_and_check(first, a, 10, 11, 12)
                await half.aclose()
                assert numbers(await read(full, 2)) == [10, 11]
                async with Producer(url) as second:
                    await send_and_check(second, a, 13, 14)
                    await send_and_check(second, b, *range(15, 20))
                assert numbers(await read(full, 3)) == [12, 13, 14]
                assert numbers(await read(full, 5)) == [15, 16, 17, 18, 19]
                assert await full.next(timeout=0.05) is None


# -- T6 --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
@pytest.mark.parametrize("policy", [IMMEDIATE, DELAYED])
async def test_t6_a_consumer_closed_before_new_messages_skips_and_repeats_nothing(
    url: str, stream: str, mode: Mode, policy: AutoCommit
) -> None:
    """Under IMMEDIATE a queued message is acknowledged, so none may be queued."""

    def consumer(name: str, start: Any) -> Consumer[bytes]:
        return Consumer(
            stream,
            url=url,
            mode=mode,
            group=f"{stream}{name}",
            name=f"{stream}{name}",
            start=start,
            auto_commit=policy,
            commit=Commit(delay=0),
            prefetch=PREFETCH_ONE if policy is IMMEDIATE else Prefetch(),
        )

    async with Producer(url) as producer:
        await send_and_check(producer, stream, *range(5))
        async with consumer("a", LATEST) as half:
            assert await half.next(timeout=0.001) is None
            async with consumer("b", EARLIEST) as full:
                assert numbers(await read(full, 5)) == [0, 1, 2, 3, 4]
                await send_and_check(producer, stream, *range(5, 10))
            assert numbers(await read(half, 5)) == [5, 6, 7, 8, 9]
    async with consumer("b", EARLIEST) as full:
        assert numbers(await read(full, 5)) == [5, 6, 7, 8, 9]
        assert await full.next(timeout=0.05) is None


# -- T7 --------------------------------------------------------------------------------

WORKER = """
    import asyncio, sys
    from penstock import Commit, Consumer

    async def main():
        url, stream, mode, policy = sys.argv[1:]

        def consumer(name):
            return Consumer(
                stream, url=url, mode=mode, group=stream + name, name=stream + name,
                auto_commit=policy,
                commit=Commit(interval=0 if name == "c" else 3600),
            )

        async with consumer("d") as silent, consumer("c") as acking:
            for number in range(5):
                message = await silent.next()
                assert message.payload == b"%d" % number
                message.ack()  # but nothing sends it
            for number in range(5):
                message = await acking.next()
                assert message.payload == b"%d" % number
                if number < 4:
                    message.ack()
            if policy == "disabled":
                await acking.commit()
            await asyncio.sleep(3600)  # until it is killed

    asyncio.run(main())
"""


@pytest.mark.parametrize("mode", GROUP_MODES)
@pytest.mark.parametrize("policy", [ROLLING, DISABLED])
async def test_t7_after_a_kill_only_uncommitted_messages_are_redelivered(
    url: str, stream: str, redis: Any, mode: Mode, policy: AutoCommit
) -> None:
    """The one that never commits has acked all five: an ack alone is not enough."""

    def consumer(name: str) -> Consumer[bytes]:
        group = f"{stream}{name}"
        return Consumer(
            stream, url=url, mode=mode, group=group, name=group, auto_commit=policy
        )

    async def both_have_read() -> bool:
        groups = await redis.xinfo_groups(stream)
        last = (await redis.xinfo_stream(stream))["last-generated-id"]
        given_all = all(group["last-delivered-id"] == last for group in groups)
        return given_all and sorted(group["pending"] for group in groups) == [1, 5]

    await send(url, stream, *range(5))
    worker = [sys.executable, "-c", textwrap.dedent(WORKER)]
    process = await asyncio.create_subprocess_exec(
        *worker, url, stream, mode.value, policy.value
    )
    try:
        await eventually(both_have_read, within=20)
        await send(url, stream, *range(5, 10))
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with consumer("c") as acking, consumer("d") as silent:
        assert numbers(await read(acking, 6)) == [4, 5, 6, 7, 8, 9]
        assert numbers(await read(silent, 5)) == [0, 1, 2, 3, 4]
