"""Handlers: callables, context variables, exits, middleware and leases."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from redis import Redis

from penstock import (
    REALTIME,
    ROLLING,
    Claim,
    ConfigurationError,
    Consumer,
    Message,
    Retry,
)
from penstock.middleware import Call
from support.events import Events
from support.failing import Boom, handled, running
from support.waiting import deliveries, eventually, pending, read, send

LEAK: ContextVar[str] = ContextVar("LEAK", default="clean")
QUICK = Retry(max_attempts=3, backoff=[0.02])


# -- not async -------------------------------------------------------------------------


async def test_a_plain_function_runs_in_as_many_threads_as_concurrency_allows(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(30))
    loops, most, now = {threading.get_ident()}, 0, 0
    lock = threading.Lock()

    def handle(message: Message[bytes]) -> None:
        nonlocal most, now
        assert threading.get_ident() not in loops
        assert int(message.payload) in range(30)
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1

    start = time.monotonic()
    consumer = Consumer(stream, url=url, group="g")
    async with running(consumer, handle, concurrency=5):
        await eventually(lambda: handled(redis, stream, 30))
    assert most == 5
    assert time.monotonic() - start < 30 * 0.05


async def test_a_plain_function_may_ack_nack_and_reject(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(3))
    attempts = []

    def handle(message: Message[bytes]) -> None:
        attempts.append((int(message.payload), message.attempt))
        assert 0 < message.lease_left() <= 60
        match message.payload, message.attempt:
            case (b"1", 1):
                message.nack()
            case (b"2", _):
                message.reject("no")
            case _:
                message.ack()

    consumer = Consumer(stream, url=url, group="g", auto_commit=ROLLING, retry=QUICK)
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 3))
    assert sorted(attempts) == [(0, 1), (1, 1), (1, 2), (2, 1)]
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_a_plain_function_that_raises_is_retried(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    attempts = []

    def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        if message.attempt < 3:
            raise Boom

    consumer = Consumer(stream, url=url, group="g", retry=QUICK)
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 1))
    assert attempts == [1, 2, 3]


async def test_a_plain_function_that_takes_too_long_has_failed_when_it_ends(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    running_now, most = 0, 0

    def handle(message: Message[bytes]) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        if message.attempt == 1:
            time.sleep(0.3)
        running_now -= 1

    retry = Retry(timeout=0.1, backoff=[0.01])
    consumer = Consumer(stream, url=url, group="g", retry=retry, on_event=events)
    async with running(consumer, handle, concurrency=4):
        await eventually(lambda: handled(redis, stream, 1))
    assert most == 1
    assert len(events.named("handler_stuck")) == 1
    assert [e.facts["error"] for e in events.named("handler_failed")] == [
        "TimeoutError"
    ]


class Counter:
    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, message: Message[bytes]) -> None:
        self.count += 1

    async def method(self, by: int, message: Message[bytes]) -> None:
        self.count += by


async def test_any_callable_can_be_a_handler(url: str, stream: str, redis: Any) -> None:
    counter = Counter()
    for handler in (
        counter,
        partial(counter.method, 1),
        lambda message: counter.method(1, message),
    ):
        await send(url, stream, 1)
        count = await redis.xlen(stream)
        async with running(Consumer(stream, url=url, group="g"), handler):
            await eventually(partial(handled, redis, stream, count))
    assert counter.count == 3


async def test_a_handler_that_can_t_be_called_is_refused(url: str, stream: str) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(ConfigurationError, match="can't be called"):
            await consumer.run("handler")  # type: ignore[call-overload]


# -- contexts --------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_context_variables_that_a_handler_sets_are_not_seen_by_the_next_one(
    url: str, stream: str, redis: Any, *, fails: bool
) -> None:
    await send(url, stream, *range(50))
    seen = []
    LEAK.set("of the caller")

    async def handle(message: Message[bytes]) -> None:
        seen.append(LEAK.get())
        LEAK.set(f"of {message.id}")
        await asyncio.sleep(0)
        assert LEAK.get() == f"of {message.id}"
        if fails and message.attempt == 1:
            raise Boom

    consumer = Consumer(stream, url=url, group="g", retry=QUICK)
    async with running(consumer, handle, concurrency=3):
        await eventually(lambda: handled(redis, stream, 50))
    assert set(seen) == {"of the caller"}
    assert len(seen) == 50 * (1 + fails)


async def test_handlers_in_threads_do_not_share_a_context(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(20))
    seen = []

    def handle(message: Message[bytes]) -> None:
        seen.append(LEAK.get())
        LEAK.set("leaked")

    async with running(Consumer(stream, url=url, group="g"), handle, concurrency=2):
        await eventually(lambda: handled(redis, stream, 20))
    assert set(seen) == {"clean"}


# -- base exceptions -------------------------------------------------------------------


async def test_a_handler_that_cancels_itself_is_retried_like_any_other(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    attempts = []

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            raise asyncio.CancelledError

    consumer = Consumer(stream, url=url, group="g", retry=QUICK)
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 1))
    assert attempts == [1, 2]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_an_exit_is_raised_from_run_and_its_message_is_redelivered(
    url: str, stream: str, redis: Any, kind: type[BaseException]
) -> None:
    await send(url, stream, 1)

    async def handle(_: Message[bytes]) -> None:
        raise kind

    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(kind):
            await consumer.run(handle, concurrency=3)
    assert list((await deliveries(redis, stream, "g")).values()) == [2]
    async with Consumer(stream, url=url, group="g") as consumer:
        [message] = await read(consumer, 1)
        assert message.attempt == 2


async def test_a_handler_that_swallows_our_cancellation_has_handled_nothing(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    started = asyncio.Event()

    async def ignores_cancellation(_: Message[bytes]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with Consumer(stream, url=url, group="g") as consumer:
        run = asyncio.create_task(consumer.run(ignores_cancellation))
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await consumer.commit()
        assert await pending(redis, stream, "g") == 1
    assert list((await deliveries(redis, stream, "g")).values()) == [0]


# -- middleware ------------------------------------------------------------------------


async def test_middleware_wraps_every_attempt_and_the_first_is_the_outermost(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    trace: list[str] = []

    def named(name: str) -> Any:
        async def around(message: Message[Any], call: Call[Message[Any]]) -> object:
            trace.append(f"{name} {message.attempt}")
            try:
                return await call(message)
            except Boom:
                trace.append(f"{name} saw it")
                raise

        return around

    async def handle(message: Message[bytes]) -> None:
        trace.append("handler")
        if message.attempt == 1:
            raise Boom

    consumer = Consumer(
        stream,
        url=url,
        group="g",
        retry=QUICK,
        middleware=[named("outer"), named("inner")],
    )
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 1))
    first = ["outer 1", "inner 1", "handler", "inner saw it", "outer saw it"]
    assert trace == [*first, "outer 2", "inner 2", "handler"]


async def test_middleware_wraps_handlers_in_threads_and_handlers_of_batches(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10))
    sizes: list[int] = []

    async def measure(messages: Any, call: Call[Any]) -> object:
        sizes.append(len(messages))
        return await call(messages)

    def handle(messages: list[Message[bytes]]) -> None:
        assert threading.current_thread() is not threading.main_thread()

    consumer = Consumer(stream, url=url, group="g", middleware=[measure])
    async with running(consumer, handle, batch=4):
        await eventually(lambda: handled(redis, stream, 10))
    assert sum(sizes) == 10
    assert max(sizes) <= 4


# -- leases ----------------------------------------------------------------------------


async def test_a_message_knows_the_rest_of_its_lease(url: str, stream: str) -> None:
    await send(url, stream, 1)
    lease = Claim(idle=0.6)
    async with Consumer(stream, url=url, group="g", claim=lease) as consumer:
        [message] = await read(consumer, 1)
        left = message.lease_left()
        assert 0.3 < left <= 0.6
        await asyncio.sleep(0.9)
        # It is renewed while the process lives.
        assert message.lease_left() > 0.1
        assert not message.lost
        await consumer.next(timeout=0)
        assert message.lease_left() == 0


async def test_in_realtime_there_is_no_lease(url: str, stream: str) -> None:
    async with Consumer(stream, url=url, mode=REALTIME) as consumer:
        await send(url, stream, 1)
        [message] = await read(consumer, 1)
        assert message.lease_left() == float("inf")
        assert not message.lost


async def test_a_message_that_others_claimed_is_lost_and_its_outcome_does_not_count(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    other = Redis.from_url(url)
    async with Consumer(stream, url=url, group="g", claim=Claim(idle=0.6)) as consumer:
        [message] = await read(consumer, 1)
        # This process stalls for longer than the lease, and another one claims.
        time.sleep(0.7)  # noqa: ASYNC251
        assert other.xautoclaim(stream, "g", "other", min_idle_time=600)[1]
        other.close()

        async def noticed() -> object:
            return message.lost

        await eventually(noticed)
        assert message.lease_left() == 0
        assert await consumer.next(timeout=0) is None  # processes the message
        assert consumer.statistics().late == 1
        await consumer.commit()
        [line] = await redis.xpending_range(stream, "g", "-", "+", 1)
        assert line["consumer"] == b"other"
