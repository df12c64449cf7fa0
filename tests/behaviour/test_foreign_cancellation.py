"""Foreign cancellation: it fails the handler, and ends nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest

from penstock import Consumer, Message, Retry, Router, UsageError
from support.events import Events
from support.failing import handled, running
from support.waiting import eventually, pending, send

QUICK = Retry(max_attempts=3, backoff=[0.02])

Handle: TypeAlias = Callable[[Message[bytes]], Awaitable[None]]


def limit(seconds: float) -> asyncio.TimerHandle:
    """Start a custom time limit for the running task."""
    task = asyncio.current_task()
    assert task is not None
    return asyncio.get_running_loop().call_later(seconds, task.cancel)


async def cancelled_by_its_timer(_: Message[bytes]) -> None:
    limit(0.01)
    await asyncio.Event().wait()


async def cancelled_by_itself(_: Message[bytes]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def awaits_its_own_cancellation(_: Message[bytes]) -> None:
    task: Any = asyncio.current_task()
    await task.cancel()  # a bool can't be awaited; the cancellation is yet to come


async def cancelled_and_fails_without_an_await(_: Message[bytes]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise LookupError


async def turns_the_cancellation_into_a_timeout(_: Message[bytes]) -> None:
    limit(0.01)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise TimeoutError from None


async def turns_the_cancellation_into_a_timeout_and_uncancels(
    _: Message[bytes],
) -> None:
    task = asyncio.current_task()
    assert task is not None
    limit(0.01)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task.uncancel()
        raise TimeoutError from None


FAILING: list[Handle] = [
    cancelled_by_its_timer,
    cancelled_by_itself,
    awaits_its_own_cancellation,
    cancelled_and_fails_without_an_await,
    turns_the_cancellation_into_a_timeout,
    turns_the_cancellation_into_a_timeout_and_uncancels,
]


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("fails", FAILING, ids=lambda each: str(each.__name__))
async def test_a_custom_time_limit_fails_its_own_message_and_no_other(
    url: str, stream: str, redis: Any, fails: Handle, batch: int | None
) -> None:
    events, tried = Events(), dict[int, list[int]]()

    async def handle(given: Any) -> None:
        message = given[0] if batch else given
        number = int(message.payload)
        tried.setdefault(number, []).append(message.attempt)
        if number % 2 == 0 and message.attempt == 1:
            await fails(message)

    await send(url, stream, *range(10))
    consumer = Consumer(stream, url=url, group="g", retry=QUICK, on_event=events)
    async with consumer:
        run = asyncio.create_task(consumer.run(handle, batch=batch, concurrency=2))
        await eventually(lambda: handled(redis, stream, 10))
        assert not run.done()
        await send(url, stream, *range(10, 14))
        await eventually(lambda: handled(redis, stream, 14))
        await consumer.aclose()
        await run
    assert tried == {n: [1] if n % 2 else [1, 2] for n in range(14)}
    assert len(events.named("handler_failed")) == 7


async def swallows_the_cancellation(_: Message[bytes]) -> None:
    limit(0.01)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def returns_before_the_cancellation(_: Message[bytes]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize(
    "handle", [swallows_the_cancellation, returns_before_the_cancellation]
)
async def test_a_handler_that_returns_despite_a_cancellation_has_handled_its_message(
    url: str, stream: str, redis: Any, handle: Handle, events: Events
) -> None:
    await send(url, stream, *range(5))
    consumer = Consumer(stream, url=url, group="g", on_event=events)
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 5))
        assert consumer.statistics().acknowledged == 5
    assert not events.named("handler_failed")


@pytest.mark.parametrize("batch", [None, 10])
async def test_a_timer_that_outlives_its_handler_stops_no_worker(
    url: str, stream: str, redis: Any, events: Events, batch: int | None
) -> None:
    """It cancels the worker while the worker waits for its next message."""
    fired = asyncio.Event()

    async def handle(_: Any) -> None:
        task = asyncio.current_task()
        assert task is not None

        def fire() -> None:
            task.cancel()
            fired.set()

        asyncio.get_running_loop().call_later(0.02, fire)

    consumer = Consumer(stream, url=url, group="g", on_event=events)
    async with running(consumer, handle, batch=batch):
        for count in range(1, 6):
            await send(url, stream, 1)
            await eventually(lambda count=count: handled(redis, stream, count))  # type: ignore[misc]
            await fired.wait()
            fired.clear()
    assert not events.named("handler_failed")


async def test_scopes_of_anyio_and_asyncio_work_in_handlers(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    done: list[str] = []

    async def handle(message: Message[bytes]) -> None:
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await anyio.sleep_forever()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anyio.sleep_forever()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.cancel_scope.cancel()
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(anyio.sleep_forever())
                await asyncio.sleep(0)
                raise LookupError
        done.append(str(message.id))

    await send(url, stream, *range(4))
    consumer = Consumer(stream, url=url, group="g", on_event=events)
    async with running(consumer, handle, concurrency=2):
        await eventually(lambda: handled(redis, stream, 4))
    assert len(done) == 4
    assert not events.named("handler_failed")


@pytest.mark.parametrize("how", ["task", "scope", "timeout"])
async def test_cancelling_run_still_ends_it_promptly_and_acknowledges_nothing(
    url: str, stream: str, redis: Any, how: str
) -> None:
    started = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        limit(30)
        started.set()
        await asyncio.Event().wait()

    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        if how == "task":
            run = asyncio.create_task(consumer.run(handle, concurrency=3))
            await started.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        elif how == "scope":
            with anyio.move_on_after(0.2):
                await consumer.run(handle, concurrency=3)
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await consumer.run(handle, concurrency=3)
        assert started.is_set()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 1


# -- with a router ---------------------------------------------------------------------


async def test_a_handler_s_own_cancellation_stops_no_consumer_of_a_router(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    router = Router(url, retry=QUICK, on_event=events)

    @router.handler(stream, group="g")
    async def cancels(message: Message[bytes]) -> None:
        if message.attempt == 1:
            await cancelled_by_its_timer(message)

    @router.handler(f"{stream}-b", group="g")
    async def other(message: Message[bytes]) -> None: ...

    await send(url, stream, 1, 2, 3)
    async with router.running():
        await eventually(lambda: handled(redis, stream, 3))
        assert router.ready
    assert len(events.named("handler_failed")) == 3
    assert not events.named("consumer_failed")


async def test_a_consumer_that_ends_alone_ends_its_router_and_is_reported(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    router, drained = Router(url, on_event=events), asyncio.Event()
    closing = asyncio.Event()

    @router.handler(stream, group="g")
    async def slow(message: Message[bytes]) -> None:
        closing.set()
        await asyncio.sleep(0.1)
        drained.set()

    @router.handler(f"{stream}-b", group="g")
    async def other(message: Message[bytes]) -> None: ...

    async def close() -> None:
        await closing.wait()
        await router.consumers[1].aclose()

    await send(url, stream, 1)
    task = asyncio.create_task(close())
    with pytest.raises(UsageError, match=r"router\.stop\(\)"):
        await router.run()
    await task
    assert drained.is_set()
    assert await pending(redis, stream, "g") == 0
    [event] = events.named("consumer_failed")
    assert f"{stream}-b" in str(event.facts["streams"])


async def test_a_consumer_whose_task_is_cancelled_ends_its_router_and_is_reported(
    url: str, stream: str, events: Events
) -> None:
    router = Router(url, on_event=events)

    @router.handler(stream, group="g")
    async def cancels(message: Message[bytes]) -> None:
        for task in asyncio.all_tasks():
            if task.get_name().endswith("ConsumerSet._serve"):
                task.cancel()

    await send(url, stream, 1)
    async with asyncio.timeout(10):
        with pytest.raises(UsageError, match="cancelled"):
            await router.run()
    assert len(events.named("consumer_failed")) == 1
