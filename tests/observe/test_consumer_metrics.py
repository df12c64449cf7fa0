"""The metrics of consumers: what they count is what has happened, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from penstock import (
    DISABLED,
    REALTIME,
    Claim,
    Consumer,
    DeadLetters,
    Message,
    Retry,
    Router,
)
from penstock.observe.metrics import Metrics
from support.events import Events
from support.failing import Boom
from support.metrics import by, value
from support.waiting import eventually, leave_pending, pending, send, spread

QUICK = Retry(max_attempts=2, backoff=[0])
HANDLED = "penstock_messages_handled_total"
SECONDS = "penstock_handler_seconds_count"
AGES = "penstock_message_age_seconds_count"
DEAD = "penstock_dead_lettered_total"


@pytest.fixture
def make(url: str, stream: str, events: Events) -> Callable[..., Consumer[bytes]]:
    return partial(Consumer, stream, url=url, group="g", retry=QUICK, on_event=events)


def registered(*things: Any) -> Metrics:
    metrics = Metrics()
    metrics.add(*things)
    return metrics


async def run(
    consumer: Consumer[bytes], handler: Any, redis: Any, **options: Any
) -> None:
    """Run a handler until nothing is pending."""
    await consumer.run(handler, until_caught_up=True, **options)


def name(handler: Any) -> str:
    return f"{__name__}.{handler.__qualname__}"


async def test_a_run_counts_each_message_once(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(_: Message[bytes]) -> None:
        await asyncio.sleep(0)

    await send(url, stream, *range(200))
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis, concurrency=16)
        await consumer.commit()
        labels = {"stream": stream, "group": "g"}
        for family in ("received", "acknowledged"):
            assert value(metrics, f"penstock_messages_{family}_total", **labels) == 200
        labels["handler"] = name(handle)
        assert by(metrics, HANDLED, "handler", "outcome") == {(name(handle), "ok"): 200}
        assert value(metrics, SECONDS, **labels) == 200
        assert value(metrics, AGES, **labels) == 200
        for gauge in ("queued", "uncommitted"):
            assert value(metrics, f"penstock_messages_{gauge}") == 0


async def test_each_outcome_of_an_attempt_is_counted(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(message: Message[bytes]) -> None:
        match int(message.payload):
            case 1:
                raise Boom("canary")
            case 2:
                message.nack()
            case 3:
                message.reject("no")
            case 4:
                message.reject("no")
                raise Boom("canary")
            case 5:
                await asyncio.sleep(60)
            case 6:
                message.ack()

    await send(url, stream, *range(8))
    retry = Retry(max_attempts=2, backoff=[0], timeout=0.05)
    consumer = make(retry=retry)
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis, concurrency=4)
        assert by(metrics, HANDLED, "outcome") == {
            ("ok",): 3,
            ("failed",): 4,
            ("rejected",): 2,
            ("timeout",): 2,
        }
        assert value(metrics, SECONDS) == 11
        assert value(metrics, AGES) == 8, "the first attempts only"
        handler = name(handle)
        assert by(metrics, "penstock_retries_total", "handler") == {(handler,): 3}
        assert by(metrics, DEAD, "handler", "reason") == {
            (handler, "attempts"): 3,
            (handler, "rejected"): 2,
        }
        assert value(metrics, "penstock_events_total", event="handler_failed") == 5


async def test_a_timeout_and_a_slow_handler_are_in_their_buckets(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(_: Message[bytes]) -> None:
        await asyncio.sleep(0.03)

    await send(url, stream, 1)
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
    bucket = "penstock_handler_seconds_bucket"
    assert value(metrics, bucket, le="0.025") == 0
    assert value(metrics, bucket, le="10.0") == 1
    assert value(metrics, bucket, le="+Inf") == 1
    seconds = value(metrics, "penstock_handler_seconds_sum")
    assert seconds is not None
    assert 0.03 <= seconds <= 10


async def test_attempts_that_closing_cancels_are_counted(
    make: Any, url: str, stream: str
) -> None:
    started = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        started.set()
        await asyncio.sleep(60)

    await send(url, stream, 1)
    consumer = make(close_timeout=0.2)
    metrics = registered(consumer)
    async with consumer:
        task = asyncio.create_task(consumer.run(handle))
        await started.wait()
        assert value(metrics, "penstock_handlers_running") == 1
        assert (value(metrics, "penstock_oldest_running_seconds") or 0) > 0
    await task
    assert by(metrics, HANDLED, "outcome") == {("cancelled",): 1}
    assert value(metrics, "penstock_handlers_running") is None


async def test_a_message_that_another_consumer_takes_over_is_lost(
    make: Any, url: str, stream: str, redis: Any, events: Events
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        started.set()
        await go.wait()

    await send(url, stream, 1)
    consumer = make(claim=Claim(idle=0.3))
    metrics = registered(consumer)
    async with consumer:
        task = asyncio.create_task(consumer.run(handle))
        await started.wait()
        [entry] = await redis.xpending_range(stream, "g", "-", "+", 1)
        await redis.xclaim(stream, "g", "other", 0, [entry["message_id"]])

        async def is_lost() -> bool:
            return bool(events.named("lease_lost"))

        await eventually(is_lost)
        go.set()

        async def has_ended() -> bool:
            return bool(by(metrics, HANDLED, "outcome"))

        await eventually(has_ended)
        assert by(metrics, HANDLED, "outcome") == {("lost",): 1}
        assert value(metrics, "penstock_leases_lost_total") == 1
        assert value(metrics, "penstock_outcomes_late_total") == 1
        await redis.xack(stream, "g", entry["message_id"])
    await task


async def test_takeovers_and_poison_messages_are_counted(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    handled = []

    async def handle(message: Message[bytes]) -> None:
        handled.append(message.payload)

    await send(url, stream, 1, 2)
    await leave_pending(redis, stream, "dead")
    first, second = [id_ for id_, _ in await redis.xrange(stream)]
    await redis.xclaim(stream, "g", "dead", 0, [first], idle=60_000, retrycount=3)
    await redis.xclaim(stream, "g", "dead", 0, [second], idle=60_000, retrycount=2)
    consumer = make(claim=Claim(idle=30))
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
        assert handled == [b"2"]
        claimed = value(metrics, "penstock_claimed_total")
        assert claimed == consumer.statistics().claimed
        assert by(metrics, DEAD, "handler", "reason") == {("", "poison"): 1}
        assert value(metrics, AGES) == 0, "it was not its first attempt"


async def test_what_cannot_be_decoded_is_no_attempt(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(_: Message[int]) -> None: ...

    await redis.xadd(stream, {"msg": b"x"})
    await send(url, stream, 7)
    consumer = make(payload=int)
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
        assert by(metrics, HANDLED, "outcome") == {("ok",): 1}
        assert by(metrics, DEAD, "reason") == {("undecodable",): 1}


async def test_messages_without_a_dead_letter_are_counted_as_dropped(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(message: Message[bytes]) -> None:
        message.reject("no")

    await send(url, stream, 1, 2)
    consumer = make(dead_letters=DeadLetters.DROP)
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
        assert value(metrics, "penstock_messages_dropped_total") == 2
        assert by(metrics, HANDLED, "outcome") == {("rejected",): 2}
        assert not by(metrics, DEAD)


async def test_a_batch_counts_each_of_its_messages(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    failed = False

    async def handle(messages: list[Message[bytes]]) -> None:
        nonlocal failed
        if not failed:
            failed = True
            messages[0].reject("no")
            raise Boom("canary")

    await send(url, stream, *range(10))
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis, batch=10)
        found = by(metrics, HANDLED, "outcome")
        assert found[("rejected",)] == 1
        assert found[("ok",)] == 9
        assert found[("failed",)] == consumer.statistics().retried
        assert value(metrics, SECONDS) == sum(found.values())


async def test_a_sync_handler_is_timed(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    def handle(_: Message[bytes]) -> None: ...

    await send(url, stream, 1, 2, 3)
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
    assert by(metrics, HANDLED, "handler", "outcome") == {(name(handle), "ok"): 3}


# -- loops and calls -------------------------------------------------------------------


async def with_loop(consumer: Consumer[bytes]) -> None:
    async for message in consumer.until_caught_up():
        if int(message.payload) == 1:
            message.reject("no")


async def with_next(consumer: Consumer[bytes]) -> None:
    while (message := await consumer.next(timeout=0.2)) is not None:
        if int(message.payload) == 1:
            message.reject("no")


async def with_take(consumer: Consumer[bytes]) -> None:
    while messages := await consumer.take(3, timeout=0.2):
        for message in messages:
            if int(message.payload) == 1:
                message.reject("no")


async def with_batches(consumer: Consumer[bytes]) -> None:
    seen = 0
    async for messages in consumer.batches(3, linger=0):
        for message in messages:
            if int(message.payload) == 1:
                message.reject("no")
        seen += len(messages)
        if seen == 5:
            break


@pytest.mark.parametrize("receive", [with_loop, with_next, with_take, with_batches])
async def test_what_users_loops_and_calls_receive_is_counted(
    make: Any, url: str, stream: str, receive: Any
) -> None:
    await send(url, stream, *range(5))
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await receive(consumer)
    assert by(metrics, HANDLED, "handler", "outcome") == {
        ("loop", "ok"): 4,
        ("loop", "rejected"): 1,
    }
    assert by(metrics, DEAD, "handler", "reason") == {("loop", "rejected"): 1}
    assert value(metrics, SECONDS, handler="loop") == 5
    assert value(metrics, AGES, handler="loop") == 5


async def test_a_message_that_a_loop_is_left_with_counts_as_the_consumer_treats_it(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        async for _ in consumer:
            assert value(metrics, "penstock_handlers_running") == 1
            break
    assert by(metrics, HANDLED, "outcome") == {("ok",): 1}
    metrics.add(consumer)
    with pytest.raises(Boom):
        async with consumer:
            async for _ in consumer:
                raise Boom("canary")
    assert by(metrics, HANDLED, "outcome") == {("ok",): 1, ("cancelled",): 1}
    assert await pending(redis, stream, "g") == 1


async def test_a_message_whose_task_ends_is_cancelled(
    make: Any, url: str, stream: str
) -> None:
    async def fetch() -> None:
        await consumer.next()

    await send(url, stream, 1)
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await asyncio.create_task(fetch())

        async def is_counted() -> bool:
            return by(metrics, HANDLED, "outcome") == {("cancelled",): 1}

        await eventually(is_counted)


async def test_a_message_that_is_nacked_by_hand_later_is_retried_by_its_handler(
    make: Any, url: str, stream: str
) -> None:
    await send(url, stream, 1)
    consumer = make(auto_commit=DISABLED)
    metrics = registered(consumer)
    async with consumer:
        message = await consumer.next()
        await consumer.next(timeout=0)
        message.nack()
        assert by(metrics, HANDLED, "handler", "outcome") == {("loop", "ok"): 1}
        assert by(metrics, "penstock_retries_total", "handler") == {("loop",): 1}


# -- consumers of other kinds ----------------------------------------------------------


async def test_realtime_consumers_have_an_empty_group(url: str, stream: str) -> None:
    async def handle(_: Message[bytes]) -> None: ...

    consumer = Consumer(stream, url=url, mode=REALTIME, start="earliest")
    metrics = registered(consumer)
    await send(url, stream, *range(20))
    async with consumer:
        await consumer.run(handle, until_caught_up=True)
        labels = {"stream": stream, "group": ""}
        assert value(metrics, "penstock_messages_received_total", **labels) == 20
        assert value(metrics, HANDLED, outcome="ok", **labels) == 20
        assert value(metrics, "penstock_messages_queued", **labels) == 0
    assert value(metrics, AGES, **labels) == 20


async def test_owned_shards_are_counted_as_their_stream(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(_: Message[bytes]) -> None: ...

    await spread(url, stream, *range(40), shards=4)
    consumer = make(ownership="owned")
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis, ordering="shard", concurrency=4)
        await consumer.commit()
        assert by(metrics, HANDLED, "stream", "outcome") == {(stream, "ok"): 40}
        acknowledged = "penstock_messages_acknowledged_total"
        assert value(metrics, acknowledged, stream=stream) == 40


async def test_each_stream_of_a_consumer_is_counted_by_itself(
    url: str, stream: str, redis: Any
) -> None:
    other = f"{stream}.other"
    await send(url, stream, 1, 2, 3)
    await send(url, other, 4)

    async def handle(_: Message[bytes]) -> None: ...

    consumer = Consumer(stream, other, url=url, group="g")
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
        await consumer.commit()
        for family in (
            "penstock_messages_received_total",
            HANDLED,
            "penstock_messages_acknowledged_total",
            AGES,
        ):
            assert by(metrics, family, "stream") == {(stream,): 3, (other,): 1}, family


async def test_ids_that_are_no_times_have_no_age(
    make: Any, stream: str, redis: Any
) -> None:
    for number in range(1, 4):
        await redis.xadd(stream, {"msg": b"x"}, id=f"{number}-1")
    nanoseconds = 1_700_000_000_000_000_000
    await redis.xadd(stream, {"msg": b"x"}, id=f"{nanoseconds}-0")

    async def handle(_: Message[bytes]) -> None: ...

    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
    assert value(metrics, SECONDS) == 4
    assert value(metrics, AGES) == 1
    bucket = "penstock_message_age_seconds_bucket"
    assert value(metrics, bucket, le="300.0") == 0, "it is from 2023"


async def test_ages_that_are_recorded_together_are_right(
    make: Any, stream: str, redis: Any
) -> None:
    """Messages of a minute ago, of a second ago and of now, handled at once."""
    seconds, micro = await redis.time()
    now = seconds * 1000 + micro // 1000
    ages = [100_000, 99_990, 40_000, 1_500, 1_499, 0, 0]
    for index, age in enumerate(ages):
        await redis.xadd(stream, {"msg": b"x"}, id=f"{now - age}-{index + 1}")

    async def handle(_: Message[bytes]) -> None: ...

    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
    bucket = "penstock_message_age_seconds_bucket"
    assert value(metrics, bucket, le="300.0") == 7
    assert value(metrics, bucket, le="60.0") == 5
    assert value(metrics, bucket, le="30.0") == 4
    assert value(metrics, bucket, le="1.0") in {0, 1, 2}
    total = value(metrics, "penstock_message_age_seconds_sum")
    expected = sum(ages) / 1000
    assert total is not None
    assert expected * 0.98 <= total <= expected + 7 * 20


# -- routers ---------------------------------------------------------------------------


async def test_the_handlers_of_a_router_are_told_apart(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(url, retry=QUICK)

    @router.handler(stream, group="g", event="created")
    async def created(_: Message[bytes]) -> None: ...

    @router.handler(stream, group="g")
    async def others(_: Message[bytes]) -> None:
        raise Boom("canary")

    @router.handler(f"{stream}.dead", group="h")
    async def letters(_: Message[bytes]) -> None: ...

    metrics = registered(router)
    await redis.xadd(stream, {"msg": b"x", "type": "created"})
    await redis.xadd(stream, {"msg": b"x", "type": "deleted"})
    expected = {
        (stream, "g", name(created), "ok"): 1,
        (stream, "g", name(others), "failed"): 2,
        (f"{stream}.dead", "h", name(letters), "ok"): 1,
    }
    labels = ("stream", "group", "handler", "outcome")

    async def is_done() -> bool:
        return by(metrics, HANDLED, *labels) == expected

    async with router.running():
        await eventually(is_done)
        assert value(metrics, "penstock_connected", role="consumer") == 2
        assert value(metrics, "penstock_events_total", event="opened") == 2
    assert by(metrics, HANDLED, *labels) == expected, "they are kept"
    assert by(metrics, DEAD, "handler", "reason") == {(name(others), "attempts"): 1}
    async with router.running():
        await redis.xadd(stream, {"msg": b"x", "type": "created"})
        expected[(stream, "g", name(created), "ok")] = 2
        await eventually(is_done)


async def test_a_payload_that_a_router_s_handler_cannot_decode_is_no_attempt(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(url, retry=QUICK)

    @router.handler(stream, group="g", event="created")
    async def created(_: int) -> None: ...

    metrics = registered(router)
    await redis.xadd(stream, {"msg": b"x", "type": "created"})
    await redis.xadd(stream, {"msg": b"7", "type": "created"})

    async def is_done() -> bool:
        return bool(by(metrics, DEAD)) and bool(by(metrics, HANDLED))

    async with router.running():
        await eventually(is_done)
    assert by(metrics, HANDLED, "outcome") == {("ok",): 1}
    assert by(metrics, DEAD, "handler", "reason") == {(name(created), "undecodable"): 1}


# -- not registered, closed, too many --------------------------------------------------


async def test_nothing_is_timed_before_it_is_asked_for(
    make: Any, url: str, stream: str
) -> None:
    await send(url, stream, 1, 2)
    async with make() as consumer:
        await consumer.next()
        metrics = registered(consumer)
        await consumer.next()
        await consumer.next(timeout=0)
        assert by(metrics, HANDLED, "outcome") == {("ok",): 1}
        assert value(metrics, "penstock_messages_received_total") == 2


async def test_a_consumer_is_removed_when_it_has_closed_and_its_counts_stay(
    make: Any, url: str, stream: str
) -> None:
    await send(url, stream, 1)
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await consumer.next()
        await consumer.next(timeout=0)
        assert value(metrics, "penstock_connected") == 1
    assert value(metrics, "penstock_connected") is None
    assert value(metrics, HANDLED) == 1
    async with consumer:
        assert value(metrics, "penstock_connected") is None


async def test_reopened_consumers_count_on(make: Any, url: str, stream: str) -> None:
    consumer = make()
    metrics = Metrics()
    for number in (1, 2):
        await send(url, stream, number)
        metrics.add(consumer)
        async with consumer:
            await consumer.next()
            await consumer.next(timeout=0)
            assert value(metrics, HANDLED) == number
        assert value(metrics, "penstock_messages_acknowledged_total") == number


async def test_too_many_streams_are_counted_as_one(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    streams = [f"{stream}.{number}" for number in range(5)]
    for each in streams:
        await send(url, each, 1)

    async def handle(_: Message[bytes]) -> None: ...

    events = Events()
    metrics = Metrics(max_series=20, on_event=events)
    consumer = Consumer(*streams, url=url, group="g")
    metrics.add(consumer)
    async with consumer:
        await run(consumer, handle, redis)
        found = by(metrics, HANDLED, "stream", "group")
        assert found[("_other", "")] == 2
        assert sum(found.values()) == 5
        by(metrics, HANDLED)
    assert [event.name for event in events] == ["metrics_overflow"]


async def test_a_worker_that_waits_runs_nothing(
    make: Any, url: str, stream: str
) -> None:
    async def one(_: Message[bytes]) -> None: ...

    async def many(_: list[Message[bytes]]) -> None: ...

    consumer = make()
    metrics = registered(consumer)

    async def is_counted(number: int) -> bool:
        return value(metrics, HANDLED) == number

    async with consumer, asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer.run(one))
        await send(url, stream, 1)
        await eventually(lambda: is_counted(1))
        assert value(metrics, "penstock_handlers_running") == 0
        await consumer.aclose()
    metrics.add(consumer)
    async with consumer, asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer.run(many, batch=2))
        await send(url, stream, 1, 2)
        await eventually(lambda: is_counted(3))
        assert value(metrics, "penstock_handlers_running") == 0
        await consumer.aclose()


async def test_a_further_attempt_that_is_short_has_no_age(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(message: Message[bytes]) -> None:
        if message.attempt == 1 and int(message.payload) % 2:
            raise Boom("canary")

    await send(url, stream, *range(20))
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis, concurrency=2)
    assert by(metrics, HANDLED, "outcome") == {("ok",): 20, ("failed",): 10}
    assert value(metrics, AGES) == 20


async def test_long_attempts_between_short_ones_are_in_their_bucket(
    make: Any, url: str, stream: str, redis: Any
) -> None:
    async def handle(message: Message[bytes]) -> None:
        if int(message.payload) % 10 == 5:
            await asyncio.sleep(0.06)

    await send(url, stream, *range(30))
    consumer = make()
    metrics = registered(consumer)
    async with consumer:
        await run(consumer, handle, redis)
    bucket = "penstock_handler_seconds_bucket"
    assert value(metrics, bucket, le="+Inf") == 30
    # A slow machine may take longer for some of the others.
    below = value(metrics, bucket, le="0.05")
    assert below is not None
    assert 20 <= below <= 27
    seconds = value(metrics, "penstock_handler_seconds_sum")
    assert seconds is not None
    assert seconds >= 0.18
