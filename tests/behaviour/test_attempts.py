"""Attempts: each start of a handler is one, and the server's delivery count has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock import (
    LOAD_BALANCED,
    RESUMABLE,
    ROLLING,
    Claim,
    Consumer,
    Message,
    Mode,
    Producer,
    Retry,
    admin,
)
from penstock._core.ledger.entry import Entry
from penstock._tasks.leases.delivery_counts import DeliveryCounts
from support.failing import Boom, handled, running
from support.proxy import proxy
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

SHORT = Claim(idle=0.3, interval=0.1)


async def send_and_leave_pending(
    redis: Any,
    stream: str,
    numbers: Sequence[int],
    *,
    name: str = "dead",
    times: int = 1,
) -> None:
    """Add messages and deliver them, `times` times, to a consumer that is gone."""
    for number in numbers:
        await redis.xadd(stream, {"msg": number, "key": number % 2})
    await redis.xgroup_create(stream, "g", "0")
    [(_, entries)] = await redis.xreadgroup("g", name, {stream: ">"})
    for _ in range(times - 1):
        await redis.xreadgroup("g", name, {stream: "0"})
    assert len(entries) == len(numbers)


async def counts(redis: Any, stream: str) -> list[int]:
    return list((await deliveries(redis, stream, "g")).values())


async def test_a_queued_message_is_not_counted(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    may_end = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        await may_end.wait()

    async def two_of_six() -> bool:
        return await counts(redis, stream) == [2, 2, 1, 1, 1, 1]

    async with running(Consumer(stream, url=url, group="g"), handle, concurrency=2):
        await eventually(two_of_six)
        may_end.set()
        await eventually(lambda: handled(redis, stream, 6))


async def test_a_queued_message_is_counted_when_it_starts(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(4))
    async with Consumer(stream, url=url, group="g") as consumer:
        for started in range(1, 5):
            message = await consumer.next()
            assert message.attempt == 1
            expected = [2] + [1] * (4 - started)

            async def only_this_one(wanted: list[int] = expected) -> bool:
                await consumer.commit()
                return await counts(redis, stream) == wanted

            await eventually(only_this_one)


async def test_messages_that_a_killed_process_had_started_run_in_parallel_once_counted(
    url: str, stream: str, redis: Any
) -> None:
    await send_and_leave_pending(redis, stream, range(8), times=2)
    attempts: list[int] = []
    counted: list[int] = []
    all_at_once = asyncio.Barrier(4)

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        counted.append((await deliveries(redis, stream, "g"))[str(message.id)])
        await all_at_once.wait()

    consumer = Consumer(stream, url=url, group="g", claim=SHORT)
    async with running(consumer, handle, concurrency=4):
        await eventually(lambda: handled(redis, stream, 8))
    assert attempts == [2] * 8
    assert counted == [3] * 8


async def test_a_message_that_was_delivered_but_never_started_is_on_its_first_attempt(
    url: str, stream: str, redis: Any
) -> None:
    """The same holds for entries that another library has left pending."""
    await send_and_leave_pending(redis, stream, range(4))
    attempts: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)

    consumer = Consumer(stream, url=url, group="g", claim=SHORT)
    async with running(consumer, handle, concurrency=4):
        await eventually(lambda: handled(redis, stream, 4))
    assert attempts == [1] * 4


@pytest.mark.parametrize("most", [2, 3])
async def test_a_redelivered_message_on_its_last_attempt_runs_alone_in_its_process(
    url: str, stream: str, redis: Any, most: int
) -> None:
    """Nothing else starts beside it, not even in another consumer of the process."""
    await send_and_leave_pending(redis, stream, range(4), times=most)
    in_progress: set[tuple[str, bytes]] = set()
    beside: list[int] = []
    attempts: list[int] = []

    async def last(message: Message[bytes]) -> None:
        in_progress.add(("last", message.payload))
        attempts.append(message.attempt)
        await asyncio.sleep(0.05)
        beside.append(len(in_progress))
        in_progress.remove(("last", message.payload))

    async def fresh(message: Message[bytes]) -> None:
        in_progress.add(("fresh", message.payload))
        await asyncio.sleep(0.01)
        in_progress.remove(("fresh", message.payload))

    other = f"{stream}-other"
    await send(url, other, *range(200))
    retry = Retry(max_attempts=most)
    async with (
        running(Consumer(other, url=url, group="g"), fresh, concurrency=4),
        running(
            Consumer(stream, url=url, group="g", claim=SHORT, retry=retry),
            last,
            concurrency=4,
        ),
    ):
        await eventually(lambda: handled(redis, stream, 4))
        await eventually(lambda: handled(redis, other, 200))
    assert attempts == [most] * 4
    assert beside == [1] * 4


@pytest.mark.parametrize("asked", [False, True])
async def test_a_last_attempt_of_a_paused_consumer_holds_no_other_one_up(
    url: str, stream: str, redis: Any, *, asked: bool
) -> None:
    """Neither if it asked to run alone before the pause, nor if it comes later."""
    await send_and_leave_pending(redis, stream, [0], times=2)
    other = f"{stream}-other"
    await send(url, other, 1, 2)
    retry = Retry(max_attempts=2)
    async with (
        Consumer(other, url=url, group="g") as fresh,
        Consumer(stream, url=url, group="g", claim=SHORT, retry=retry) as paused,
    ):
        # As long as this one is handled, the last attempt has to wait.
        assert numbers([await fresh.next()]) == [1]
        if not asked:
            paused.pause()
        waiting = asyncio.create_task(paused.next())
        await eventually(lambda: has_queued(paused))
        await asyncio.sleep(0.05)
        guard = paused._open.parts.entry_queue._guard
        assert (guard.until is not None) is asked
        paused.pause()
        assert await fresh.next(timeout=5)
        paused.resume()
        assert await fresh.next(timeout=0.1) is None  # so the last attempt may run
        assert (await waiting).attempt == 2


async def has_queued(consumer: Consumer[bytes]) -> bool:
    return consumer.statistics().queued == 1


async def test_however_many_messages_wait_for_a_last_attempt_there_is_one_timer(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send_and_leave_pending(redis, stream, [0], times=2)
    await send(url, stream, *range(1, 40))
    active_timers: list[float] = []
    call_later = asyncio.get_running_loop().call_later

    def counted(delay: float, call: Any, *args: Any, **how: Any) -> Any:
        handle = call_later(delay, call, *args, **how)
        if getattr(call, "__name__", "") == "look":
            timers.append(handle)
        return handle

    timers: list[asyncio.TimerHandle] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", counted)

    async def handle(message: Message[bytes]) -> None:
        await asyncio.sleep(0.01)
        active_timers.append(sum(not timer.cancelled() for timer in timers))

    retry = Retry(max_attempts=2)
    consumer = Consumer(stream, url=url, group="g", name="dead", retry=retry)
    async with running(consumer, handle, concurrency=10):
        await eventually(lambda: handled(redis, stream, 40))
    assert timers
    assert max(active_timers) <= 1
    assert all(timer.cancelled() for timer in timers)


async def test_a_last_attempt_that_hangs_holds_up_others_for_no_longer_than_a_lease(
    url: str, stream: str, redis: Any
) -> None:
    await send_and_leave_pending(redis, stream, range(3), times=2)
    await send(url, stream, *range(3, 9))
    may_end = asyncio.Event()
    done: set[bytes] = set()

    async def handle(message: Message[bytes]) -> None:
        if message.payload == b"0":
            await may_end.wait()
        done.add(message.payload)

    consumer = Consumer(
        stream, url=url, group="g", claim=SHORT, retry=Retry(max_attempts=2)
    )
    async with running(consumer, handle, concurrency=4):

        async def all_others() -> bool:
            return len(done) == 8

        await eventually(all_others, within=3)
        may_end.set()
        await eventually(lambda: handled(redis, stream, 9))


@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED])
async def test_a_restart_under_the_same_name_continues_the_order_and_the_counts(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await send_and_leave_pending(redis, stream, range(5), name="me", times=2)
    await send(url, stream, 5, 6)
    async with Consumer(stream, url=url, mode=mode, group="g", name="me") as consumer:
        messages = await read(consumer, 7)
    assert numbers(messages) == list(range(7))
    assert [message.attempt for message in messages] == [2] * 5 + [1] * 2


async def test_ordering_by_key_holds_for_redelivered_messages(
    url: str, stream: str, redis: Any
) -> None:
    await send_and_leave_pending(redis, stream, range(10), name="me")
    async with Producer(url) as producer:
        for number in range(10, 30):
            await producer.enqueue(stream, b"%d" % number, key=str(number % 2))
    order: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        order.append(int(message.payload))
        await asyncio.sleep(0.002)

    consumer = Consumer(stream, url=url, group="g", name="me")
    async with running(consumer, handle, concurrency=8, ordering="key"):
        await eventually(lambda: handled(redis, stream, 30))
    for rest in (0, 1):
        assert [n for n in order if n % 2 == rest] == list(range(rest, 30, 2))


async def test_messages_released_unstarted_are_at_once_redelivered_as_first_attempts(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(8))
    async with Consumer(stream, url=url, group="g") as first:
        await read(first, 1)
        await eventually(lambda: holds(first, 8))
    assert await counts(redis, stream) == [0] * 7
    async with Consumer(stream, url=url, group="g") as second:
        messages = await read(second, 7, within=2)
    assert [message.attempt for message in messages] == [1] * 7


async def test_reconnects_are_not_counted_as_attempts(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    seen: list[tuple[int, int]] = []
    may_end = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        seen.append((int(message.payload), message.attempt))
        await may_end.wait()

    consumer = Consumer(stream, url=url, group="g")
    async with running(consumer, handle, concurrency=2):
        await eventually(lambda: has_length(seen, 2))
        for _ in range(5):
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal")
            await eventually(lambda: reads_again(redis, stream))
        assert await counts(redis, stream) == [2, 2, 1, 1, 1, 1]
        may_end.set()
        await eventually(lambda: handled(redis, stream, 6))
    assert sorted(seen) == [(number, 1) for number in range(6)]


async def has_length(seen: list[Any], count: int) -> bool:
    return len(seen) == count


async def reads_again(redis: Any, stream: str) -> bool:
    clients = await redis.client_list()
    return any(c["cmd"] == "xreadgroup" and "b" in c["flags"] for c in clients)


async def test_a_message_in_a_lost_reply_has_not_been_attempted(
    url: str, stream: str, redis: Any
) -> None:
    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g")
        async with consumer:
            await send(url, stream, 1)
            assert (await consumer.next()).attempt == 1
            between.cut_on, between.cut_next_reply = b"XREADGROUP", True
            await send(url, stream, 2)
            message = await consumer.next()
            assert between.cuts == 1
            assert (message.payload, message.attempt) == (b"2", 1)
            await consumer.next(timeout=0)
    assert await pending(redis, stream, "g") == 0


async def test_a_message_with_no_attempt_left_is_not_started_again(
    url: str, stream: str, redis: Any
) -> None:
    await send_and_leave_pending(redis, stream, [1, 2], name="me", times=4)
    retry = Retry(max_attempts=3)
    async with Consumer(stream, url=url, group="g", name="me", retry=retry) as consumer:
        assert await consumer.next(timeout=0.3) is None
        await consumer.commit()
    dead_letters = await admin.dead.list(stream, url=url)
    assert [dead_letter.attempts for dead_letter in dead_letters] == [3, 3]
    assert "during its last attempt the process ended" in dead_letters[0].reason
    assert await pending(redis, stream, "g") == 0


async def test_a_single_delivery_dead_letters_nothing(
    url: str, stream: str, redis: Any
) -> None:
    """It means that no handler was started, at a rate at which starts are counted."""
    await send_and_leave_pending(redis, stream, [1, 2, 3], name="me")
    once = Retry(max_attempts=1)
    async with Consumer(stream, url=url, group="g", name="me", retry=once) as consumer:
        assert numbers(await read(consumer, 3)) == [1, 2, 3]
    assert not await redis.exists(f"{stream}.dead")


async def test_without_max_attempts_a_message_is_retried_for_ever(
    url: str, stream: str, redis: Any
) -> None:
    await send_and_leave_pending(redis, stream, [1], name="me", times=30)
    tried: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        tried.append(message.attempt)
        if message.attempt < 40:
            raise Boom

    retry = Retry(max_attempts=None, backoff=[0.001])
    consumer = Consumer(stream, url=url, group="g", name="me", retry=retry)
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 1))
    assert tried == list(range(30, 41))


async def test_in_an_outage_suspected_messages_wait_and_others_are_handled(
    url: str, stream: str, redis: Any
) -> None:
    await send_and_leave_pending(redis, stream, range(3), name="me")
    await send(url, stream, *range(3, 8))
    seen: list[int] = []

    async def all_are_read() -> bool:
        # On the server they are delivered before the reply arrives.
        return consumer.statistics().received == 8

    async def handle(message: Message[bytes]) -> None:
        if message.payload == b"0":
            await eventually(all_are_read)
            await between.stop()
        seen.append(int(message.payload))

    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g", name="me")
        async with running(consumer, handle, concurrency=1):
            await eventually(lambda: has_six(seen))  # 0 and the new ones
            # Their start can't be counted now.
            assert not {1, 2} & set(seen)
            await between.start()
            await eventually(lambda: handled(redis, stream, 8))
    assert sorted(seen) == list(range(8))


@pytest.mark.parametrize("receive", ["next", "take"])
async def test_in_an_outage_messages_with_one_attempt_only_wait_without_spinning(
    url: str,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
    receive: str,
) -> None:
    """Their start can't be confirmed, so they start when the server is back."""
    counts = 0
    begin = DeliveryCounts.begin

    async def counted(self: DeliveryCounts, entries: Sequence[Entry]) -> list[Entry]:
        nonlocal counts
        counts += 1
        return await begin(self, entries)

    monkeypatch.setattr(DeliveryCounts, "begin", counted)
    await send(url, stream, *range(4))
    once = Retry(max_attempts=1)
    async with (
        proxy(url) as between,
        Consumer(stream, url=between.url, group="g", retry=once) as consumer,
    ):
        assert numbers(await read(consumer, 1)) == [0]
        await eventually(lambda: holds(consumer, 4))
        await between.stop()
        if receive == "next":
            waiting = asyncio.create_task(read(consumer, 3))
        else:
            waiting = asyncio.create_task(consumer.take(3))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        # One attempt to count them, and some more while connections come and go.
        assert counts < 20
        await between.start()
        got = numbers(await waiting)
        got += numbers(await read(consumer, 3 - len(got)))
        assert got == [1, 2, 3]


async def has_six(seen: list[int]) -> bool:
    return len(seen) == 6


async def test_resumable_keeps_its_order_when_an_attempt_can_t_be_counted(
    url: str, stream: str, redis: Any
) -> None:
    """The first three had been started when their process died."""
    await send(url, stream, *range(8))
    await leave_pending(redis, stream, "g")
    for number, (id_, _) in enumerate(await redis.xrange(stream)):
        count = 1 + (number < 3)
        await redis.xclaim(stream, "g", "g", 0, [id_], retrycount=count, justid=True)
    got: list[int] = []
    async with proxy(url) as between:

        async def handle(message: Message[bytes]) -> None:
            got.append(int(message.payload))
            if got == [0]:
                await between.stop()

        async def has_handled(count: int) -> bool:
            return len(got) >= count

        consumer = Consumer(
            stream, url=between.url, mode=RESUMABLE, group="g", auto_commit=ROLLING
        )
        async with running(consumer, handle):
            await eventually(lambda: has_handled(1))
            await asyncio.sleep(0.3)  # time for an error to show
            await between.start()
            await eventually(lambda: has_handled(8))
    assert got == [*range(8)]
