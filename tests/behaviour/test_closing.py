"""Closing: finished messages are acknowledged, and all others are released."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from penstock import (
    KEEP_ALL,
    ROLLING,
    Claim,
    ClosedError,
    Commit,
    Consumer,
    Message,
    Prefetch,
    Producer,
)
from support.events import Events
from support.proxy import proxy
from support.server import with_login
from support.waiting import (
    deliveries,
    eventually,
    holds,
    leave_pending,
    numbers,
    pending,
    read,
    send,
)


@pytest.mark.parametrize("group", ["g", None])
async def test_an_idle_consumer_closes_at_once(
    url: str, stream: str, group: str | None
) -> None:
    consumer = Consumer(stream, url=url, group=group)
    async with consumer:
        assert await consumer.next(timeout=0.05) is None
        start = time.monotonic()
    assert time.monotonic() - start < 0.3


async def test_closing_right_after_opening_is_quick(url: str, stream: str) -> None:
    """The reader may not have sent its read yet, or the server not have received it."""
    for turns in range(20):
        async with Consumer(stream, url=url, group="g"):
            for _ in range(turns):
                await asyncio.sleep(0)
            start = time.monotonic()
        assert time.monotonic() - start < 0.3


async def test_finished_messages_are_acknowledged_however_long_the_interval_is(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10))
    slow = Commit(interval=3600)
    async with Consumer(stream, url=url, group="g", commit=slow) as consumer:
        await read(consumer, 10)
    assert await pending(redis, stream, "g") == 0


async def test_queued_entries_are_released_as_if_they_had_never_been_delivered(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(100))
    lease = Claim(idle=30)
    async with Consumer(stream, url=url, group="g", claim=lease) as consumer:
        await read(consumer, 10)
        assert consumer.statistics().queued > 0
    counts = await deliveries(redis, stream, "g")
    assert counts
    assert set(counts.values()) == {0}
    # A consumer with this lease can claim all of them now.
    reply = await redis.xautoclaim(stream, "g", "other", 30_000, count=1000)
    assert len(reply[1]) == len(counts)


async def test_own_entries_that_were_not_read_again_yet_are_released_too(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(5))
    await leave_pending(redis, stream, "me")
    options: dict[str, Any] = {"claim": Claim(idle=30)}
    options["prefetch"] = Prefetch(max_messages=1)
    async with Consumer(stream, url=url, group="g", name="me", **options) as consumer:
        await eventually(lambda: holds(consumer, 1))
    # Others can claim all of them now, with the attempts that they have had.
    reply = await redis.xautoclaim(stream, "g", "other", 30_000, justid=True)
    assert len(reply) == 5
    assert [*(await deliveries(redis, stream, "g")).values()] == [1] * 5


async def test_entries_of_a_claim_whose_reply_was_lost_are_released_too(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(5))
    await leave_pending(redis, stream, "gone")
    ids = [*await deliveries(redis, stream, "g")]
    await redis.xclaim(stream, "g", "gone", 0, ids, idle=60_000, justid=True)
    options: dict[str, Any] = {"claim": Claim(idle=30), "on_event": events}
    async with proxy(url) as between:
        between.cut_on, between.cut_next_reply = b"XAUTOCLAIM", True
        async with Consumer(stream, url=between.url, group="g", **options) as consumer:
            await eventually(lambda: has(events, "reconnected"))
            assert consumer.statistics().claimed == 0
    reply = await redis.xautoclaim(stream, "g", "other", 30_000, justid=True)
    assert len(reply) == 5
    assert [*(await deliveries(redis, stream, "g")).values()] == [1] * 5


async def has(events: Events, name: str) -> bool:
    return bool(events.named(name))


async def test_a_message_that_was_handed_out_counts_as_an_attempt(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        message = await consumer.next()
    assert await deliveries(redis, stream, "g") == {
        str(message.id): 2,
        **{id_.decode(): 0 for id_, _ in (await redis.xrange(stream))[1:]},
    }


async def test_a_restart_under_the_same_name_reads_its_own_entries_first_in_order(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(20))
    async with Consumer(
        stream, url=url, group="g", name="me", auto_commit=ROLLING
    ) as consumer:
        for message in (await read(consumer, 10))[:4]:
            message.ack()
    await send(url, stream, *range(20, 25))
    async with Consumer(stream, url=url, group="g", name="me") as consumer:
        messages = await read(consumer, 21)
        assert numbers(messages) == list(range(4, 25))
        # 4 to 9 had been handed out once; the others had only been queued.
        assert [message.attempt for message in messages] == [2] * 6 + [1] * 15


async def test_closing_waits_for_started_handlers_and_starts_no_more(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(50))
    started = []
    finished = []
    running = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        started.append(message)
        if len(started) == 5:
            running.set()
        await asyncio.sleep(0.1)
        finished.append(message)

    async with Consumer(stream, url=url, group="g") as consumer:
        run = asyncio.create_task(consumer.run(handle, concurrency=5))
        await running.wait()
        await consumer.aclose()
        assert len(finished) == len(started) == 5
        await run
    group = (await redis.xinfo_groups(stream))[0]
    assert group["entries-read"] - group["pending"] == 5


async def test_a_handler_that_exceeds_close_timeout_is_cancelled_and_not_acknowledged(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    running, ended = asyncio.Event(), asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Consumer(stream, url=url, group="g", close_timeout=0.1) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await running.wait()
        start = time.monotonic()
        await consumer.aclose()
        assert 0.05 < time.monotonic() - start < 1.0
        assert ended.is_set()
        await run
    # The count is that before the start: an interruption by closing is no attempt.
    assert list((await deliveries(redis, stream, "g")).values()) == [0]


async def test_aclose_ends_loops_and_waiting_calls(url: str, stream: str) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:

        async def loop() -> str:
            async for _ in consumer:
                pass
            return "ended"

        looping = asyncio.create_task(loop())
        waiting = asyncio.create_task(consumer.next())
        await asyncio.sleep(0)
        await consumer.aclose()
        assert await looping == "ended"
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await consumer.next(timeout=0)
        await consumer.aclose()


async def test_a_closed_consumer_raises_closed_error_and_can_be_opened_again(
    url: str, stream: str
) -> None:
    consumer = Consumer(stream, url=url, group="g")
    for _ in range(2):
        with pytest.raises(ClosedError, match="async with"):
            await consumer.next()
        with pytest.raises(ClosedError):
            consumer.statistics()
        async with consumer:
            await send(url, stream, 1)
            assert numbers(await read(consumer, 1)) == [1]
    await consumer.aclose()


async def test_cancelling_run_cancels_its_handlers_and_leaves_their_messages_pending(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(4))
    running = asyncio.Semaphore(0)
    cancelled = 0

    async def handle(_: Message[bytes]) -> None:
        nonlocal cancelled
        running.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async with Consumer(stream, url=url, group="g") as consumer:
        run = asyncio.create_task(consumer.run(handle, concurrency=4))
        for _ in range(4):
            await running.acquire()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert cancelled
    assert await pending(redis, stream, "g") == 4


async def test_messages_that_race_with_closing_are_handled_or_released(
    url: str, stream: str, redis: Any
) -> None:
    """XADD races with closing two hundred times: no delivered entry is dropped."""
    handled = []
    async with Producer(url) as producer:
        for number in range(200):
            consumer = Consumer(stream, url=url, group="g", name="me")
            async with consumer:
                while (message := await consumer.next(timeout=0)) is not None:
                    handled.append(int(message.payload))
                sent = await producer.enqueue(stream, b"%d" % number)
                for _ in range(number % 10):
                    await asyncio.sleep(0)
            await sent
        async with Consumer(stream, url=url, group="g", name="me") as consumer:
            while (message := await consumer.next(timeout=0.2)) is not None:
                handled.append(int(message.payload))
    assert sorted(handled) == list(range(200))
    assert await pending(redis, stream, "g") == 0


async def test_closing_during_an_outage_keeps_its_deadline_and_reports_what_is_left(
    url: str, stream: str, events: Events
) -> None:
    await send(url, stream, *range(5))
    async with proxy(url) as between:
        async with Consumer(
            stream, url=between.url, group="g", close_timeout=0.3, on_event=events
        ) as consumer:
            await read(consumer, 5)
            await between.stop()
            start = time.monotonic()
        assert time.monotonic() - start < 2.0
    [event] = events.named("close_incomplete")
    assert event.facts["uncommitted"] == 5


async def test_without_permission_to_unblock_closing_strands_no_entry(
    url: str, stream: str, redis: Any
) -> None:
    """The read is then abandoned, and entries that it may have brought are sought."""
    user, password = f"u-{stream}", "pw"
    await redis.acl_setuser(
        user,
        enabled=True,
        passwords=[f"+{password}"],
        keys=["*"],
        categories=["+@all"],
        commands=["-client|unblock", "-client|id"],
    )
    try:
        limited = with_login(url, user, password)
        async with Consumer(stream, url=limited, group="g", name="me") as consumer:
            assert await consumer.next(timeout=0.05) is None
            start = time.monotonic()
        assert time.monotonic() - start < 0.5
        await send(url, stream, 1)
        async with Consumer(stream, url=limited, group="g", name="me") as consumer:
            assert numbers(await read(consumer, 1)) == [1]
    finally:
        await redis.acl_deluser(user)


async def test_a_scope_around_the_consumer_cancels_the_body_but_not_the_closing(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """Anyio's scopes cancel all tasks below them, including our background tasks."""
    await send(url, stream, *range(100))
    with anyio.CancelScope() as scope:
        async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
            await read(consumer, 50)
            start = time.monotonic()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert time.monotonic() - start < 1.0
    assert not events.named("close_incomplete")
    group = (await redis.xinfo_groups(stream))[0]
    # The fiftieth was in progress when the body was cancelled.
    assert group["entries-read"] - group["pending"] == 49
    assert set((await deliveries(redis, stream, "g")).values()) == {0, 2}


async def test_a_scope_around_the_producer_does_not_prevent_it_from_sending(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    with anyio.move_on_after(0.05) as scope:
        async with Producer(url, retention=KEEP_ALL, on_event=events) as producer:
            while True:
                producer.enqueue_nowait(stream, b"x")
                if producer._sender.accumulator.held > 2000:
                    await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await redis.xlen(stream) == 2001
    assert not events


async def test_closing_ends_a_loop_that_waits_for_a_suspected_message(
    url: str, stream: str, redis: Any
) -> None:
    """Its attempt has to be counted first, which takes a round trip."""
    await send(url, stream, 1)
    await leave_pending(redis, stream, "c")
    consumer = Consumer(stream, url=url, group="g", name="c")
    async with consumer:

        async def has_queued_one() -> bool:
            return consumer.statistics().queued == 1

        async def loop() -> list[Message[bytes]]:
            return [message async for message in consumer]

        await eventually(has_queued_one)
        await redis.client_pause(300, all=False)
        looping = asyncio.create_task(loop())
        while consumer.statistics().queued:
            await asyncio.sleep(0)
        await consumer.aclose()
        async with asyncio.timeout(5):
            assert await looping == []
    assert list((await deliveries(redis, stream, "g")).values()) == [1]
