"""Lifetimes: opened in one task, closed in another, in any order."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
import pytest_asyncio

from penstock import (
    AccessError,
    ClosedError,
    CommandError,
    ConfigurationError,
    ConnectError,
    Consumer,
    Message,
    Producer,
    Router,
    UsageError,
)
from penstock.admin import Admin
from support.proxy import proxy
from support.server import with_login
from support.storm import nothing_left
from support.waiting import eventually, numbers, pending, read, send


@pytest_asyncio.fixture
async def producer(url: str) -> AsyncIterator[Producer]:
    """Set up in one task and torn down in another, as pytest-asyncio does it."""
    async with Producer(url) as opened:
        yield opened


@pytest_asyncio.fixture
async def consumer(url: str, stream: str) -> AsyncIterator[Consumer[bytes]]:
    async with Consumer(stream, url=url, group="g") as opened:
        yield opened


@pytest_asyncio.fixture
async def handled(url: str, stream: str) -> AsyncIterator[asyncio.Queue[bytes]]:
    router = Router()
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    @router.handler(stream, group="routed")
    async def handle(message: Message[bytes]) -> None:
        await queue.put(message.payload)

    async with router.running(url):
        yield queue


@pytest.mark.parametrize("turn", range(3))
async def test_fixtures_open_and_close_in_their_own_tasks(
    producer: Producer,
    consumer: Consumer[bytes],
    handled: asyncio.Queue[bytes],
    stream: str,
    turn: int,
) -> None:
    await producer.send(stream, b"%d" % turn)
    assert numbers(await read(consumer, 1)) == [turn]
    async with asyncio.timeout(10):
        assert await handled.get() == b"%d" % turn


async def in_a_task(work: Any) -> Any:
    return await asyncio.create_task(work)


def create(kind: str, url: str, stream: str) -> Any:
    if kind == "producer":
        return Producer(url)
    if kind == "consumer":
        return Consumer(stream, url=url, group="g")
    if kind == "owned":
        return Consumer(stream, url=url, group="g", ownership="owned")
    if kind == "realtime":
        return Consumer(stream, url=url)
    if kind == "admin":
        return Admin(url)
    router = Router(url)

    @router.handler(stream, group="g")
    async def handle(_: bytes) -> None: ...

    return router if kind == "router" else router.running()


KINDS = ("producer", "consumer", "owned", "realtime", "admin", "router", "running")
BLOCKS = tuple(kind for kind in KINDS if kind != "router")


@pytest.mark.parametrize("kind", KINDS)
async def test_start_and_stop_hooks_run_in_their_own_tasks(
    url: str, stream: str, redis: Any, kind: str
) -> None:
    async with nothing_left(redis):
        openable = create(kind, url, stream)
        for _ in range(3):
            await in_a_task(openable.start())
            await in_a_task(openable.aclose())
            await in_a_task(openable.aclose())


@pytest.mark.parametrize("kind", KINDS)
async def test_an_open_object_can_not_be_opened_again_before_it_has_closed(
    url: str, stream: str, kind: str
) -> None:
    openable = create(kind, url, stream)
    await openable.start()
    with pytest.raises(UsageError, match=r"already open|running already"):
        await in_a_task(openable.start())
    closing = asyncio.create_task(openable.aclose())
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match=r"closing|running already"):
        await openable.start()
    await closing
    await openable.start()
    await openable.aclose()


@pytest.mark.parametrize("kind", BLOCKS)
async def test_an_exit_stack_is_entered_and_left_by_different_tasks(
    url: str, stream: str, redis: Any, kind: str
) -> None:
    async with nothing_left(redis):
        stack = AsyncExitStack()
        openable = create(kind, url, stream)
        await in_a_task(stack.enter_async_context(openable))
        await in_a_task(stack.aclose())


@pytest.mark.parametrize("kind", BLOCKS)
async def test_blocks_are_left_in_the_order_of_their_opening(
    url: str, stream: str, kind: str
) -> None:
    first, second = create(kind, url, stream), create(kind, url, stream)
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    await second.__aexit__(None, None, None)


async def test_producers_are_closed_in_the_order_of_their_opening(
    url: str, stream: str, redis: Any
) -> None:
    first, second = Producer(url), Producer(url)
    await first.start()
    await second.start()
    await first.aclose()
    await second.send(stream, b"1")
    await second.aclose()
    assert await redis.xlen(stream) == 1


@pytest.mark.parametrize("kind", BLOCKS)
async def test_scopes_of_anyio_may_cross_a_lifetime(
    url: str, stream: str, kind: str
) -> None:
    openable = create(kind, url, stream)
    with anyio.CancelScope():
        await openable.start()
    with anyio.CancelScope():
        await openable.aclose()


async def test_an_abandoned_generator_is_closed_by_the_event_loop(
    url: str, stream: str, redis: Any
) -> None:
    """Its `finally` runs in a task that the loop creates when Python drops it."""
    await send(url, stream, 1, 2, 3)

    async def messages() -> AsyncIterator[Message[bytes]]:
        async with Consumer(stream, url=url, group="g") as consumer:
            async for message in consumer:
                yield message

    async with nothing_left(redis):
        async for message in messages():
            assert message.payload == b"1"
            break

        async def is_released() -> bool:
            gc.collect()
            # The loop was left by GeneratorExit, so its message is not acknowledged.
            lines = await redis.xpending_range(stream, "g", "-", "+", 10)
            idle = [line["time_since_delivered"] >= 60_000 for line in lines]
            return idle == [True] * 3

        await eventually(is_released)


async def test_queued_messages_are_sent_when_another_task_closes(
    url: str, stream: str, redis: Any
) -> None:
    producer = Producer(url)
    await in_a_task(producer.start())
    futures = [await producer.enqueue(stream, b"x") for _ in range(1000)]
    await in_a_task(producer.aclose())
    assert all(future.done() and not future.exception() for future in futures)
    assert await redis.xlen(stream) == 1000


async def test_closing_by_another_task_acknowledges_and_releases(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10))
    consumer = Consumer(stream, url=url, group="g")
    await in_a_task(consumer.start())
    messages = await read(consumer, 5)
    for message in messages:
        message.ack()
    await in_a_task(consumer.aclose())
    group = (await redis.xinfo_groups(stream))[0]
    assert group["entries-read"] - group["pending"] == 5


async def test_a_task_that_closes_its_consumer_acknowledges_the_message_that_it_holds(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    consumer = Consumer(stream, url=url, group="g")
    await consumer.start()
    await read(consumer, 1)
    await consumer.aclose()
    assert await pending(redis, stream, "g") == 0


async def test_messages_stay_pending_if_their_block_is_left_by_an_exception(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    with pytest.raises(ValueError, match="mine"):
        async with Consumer(stream, url=url, group="g") as consumer:
            await read(consumer, 1)
            raise ValueError("mine")
    assert await pending(redis, stream, "g") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_start_raises_the_error_of_opening(kind: str, stream: str) -> None:
    openable = create(kind, "redis://127.0.0.1:1", stream)
    with pytest.raises(ConnectError):
        await openable.start()
    await openable.aclose()
    with pytest.raises(ConnectError):
        await openable.start()


async def test_start_raises_for_a_wrong_url(stream: str) -> None:
    with pytest.raises(ConfigurationError):
        await Producer("nonsense://").start()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turns", [0, 1, 5, 20])
async def test_cancelling_start_leaves_nothing_open(
    url: str, stream: str, redis: Any, kind: str, turns: int
) -> None:
    async with nothing_left(redis):
        openable = create(kind, url, stream)
        task = asyncio.create_task(openable.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.cancel():
            await openable.aclose()
        await asyncio.wait([task])
        before = asyncio.all_tasks()
        assert {each for each in before if "penstock" in each.get_name()} == set()
        await openable.start()
        await openable.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_start_while_the_server_is_silent_leaves_nothing_open(
    url: str, stream: str, kind: str
) -> None:
    async with proxy(url) as between:
        between.drop_replies = True
        openable = create(kind, between.url, stream)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await openable.start()
        assert not [each for each in asyncio.all_tasks() if "penstock" in repr(each)]
        between.drop_replies = False
        await openable.start()
        await openable.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_closing_during_the_opening_ends_the_opening(
    url: str, stream: str, kind: str
) -> None:
    async with proxy(url) as between:
        between.drop_replies = True
        openable = create(kind, between.url, stream)
        opening = asyncio.create_task(openable.start())
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await openable.aclose()
        with pytest.raises(ClosedError):
            await opening


async def test_a_failure_in_the_background_is_raised_by_aclose_once(
    url: str, stream: str, redis: Any
) -> None:
    user = f"u-{stream}"
    await redis.acl_setuser(
        user, enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"]
    )
    try:
        consumer = Consumer(stream, url=with_login(url, user, "pw"), group="g")
        await consumer.start()
        await redis.acl_setuser(user, commands=["-xreadgroup"])
        session: Any = consumer._session
        await eventually(lambda: failed(session))
        with pytest.raises((AccessError, CommandError), match=r"XREADGROUP|NOPERM"):
            await in_a_task(consumer.aclose())
        await consumer.aclose()
    finally:
        await redis.acl_deluser(user)


async def failed(session: Any) -> bool:
    return session.gate.error is not None


async def test_a_failure_that_next_has_raised_is_not_raised_again(
    url: str, stream: str, redis: Any
) -> None:
    user = f"u-{stream}"
    await redis.acl_setuser(
        user, enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"]
    )
    try:
        consumer = Consumer(stream, url=with_login(url, user, "pw"), group="g")
        await consumer.start()
        await redis.acl_setuser(user, commands=["-xreadgroup"])
        with pytest.raises((AccessError, CommandError)):
            await in_a_task(consumer.next())
        await consumer.aclose()
    finally:
        await redis.acl_deluser(user)


@pytest.mark.parametrize("way", ["next", "loop", "run", "block", "start"])
async def test_a_defect_in_the_background_is_raised_as_one_plain_exception(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    consumer = Consumer(stream, url=url, group="g")
    if way == "block":
        await consumer.__aenter__()
    else:
        await consumer.start()
    session: Any = consumer._session

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    async def use() -> None:
        if way == "next":
            await consumer.next()
        elif way == "loop":
            async for _ in consumer:
                pass
        elif way == "run":
            await consumer.run(lambda _: None)

    using = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    monkeypatch.setattr(type(session.ledger.deliveries), "received", broken)
    await redis.xadd(stream, {"msg": "1"})
    async with asyncio.timeout(10):
        if way in {"next", "loop", "run"}:
            with pytest.raises(ZeroDivisionError, match="a defect"):
                await using
            await consumer.aclose()
        elif way == "start":
            await eventually(lambda: failed(session))
            with pytest.raises(ZeroDivisionError, match="a defect"):
                await consumer.aclose()
        else:
            await eventually(lambda: failed(session))
            await consumer.aclose()
            with pytest.raises(ZeroDivisionError, match="a defect"):
                await consumer.__aexit__(None, None, None)
    await asyncio.wait([using])


async def test_an_event_hook_that_exits_does_not_stop_the_event_loop(
    url: str, stream: str
) -> None:
    """Asyncio lets SystemExit out of a task by stopping the whole loop."""
    reported: list[object] = []

    def hook(event: object) -> None:
        reported.append(event)
        if len(reported) == 1:
            raise SystemExit(3)

    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g", on_event=hook)
        await consumer.start()
        between.cut()
        with pytest.raises(SystemExit):
            async with asyncio.timeout(10):
                await consumer.next()
        await consumer.aclose()


async def test_background_tasks_run_in_the_context_of_the_task_that_opened(
    url: str, stream: str
) -> None:
    tenant = contextvars.ContextVar[str]("tenant")
    seen = []

    def hook(_: object) -> None:
        seen.append(tenant.get())

    async def opens(consumer: Consumer[bytes]) -> None:
        tenant.set("mine")
        await consumer.start()

    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g", on_event=hook)
        await asyncio.create_task(opens(consumer))
        between.cut()

        async def reported() -> bool:
            return bool(seen)

        await eventually(reported)
        await consumer.aclose()
    assert set(seen) == {"mine"}


async def test_the_exception_of_a_block_notes_that_its_consumer_has_failed_too(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError) as raised:
        async with Consumer(stream, url=url, group="g") as consumer:
            session: Any = consumer._session
            monkeypatch.setattr(
                type(session.ledger.deliveries), "received", lambda *_, **__: 1 // 0
            )
            await redis.xadd(stream, {"msg": "1"})
            await eventually(lambda: failed(session))
            raise KeyError("mine")
    assert any("ZeroDivisionError" in note for note in raised.value.__notes__)


async def test_a_started_router_drains_and_raises_the_failure(
    url: str, stream: str, redis: Any
) -> None:
    user = f"u-{stream}"
    await redis.acl_setuser(
        user, enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"]
    )
    router = Router(with_login(url, user, "pw"))

    @router.handler(stream, group="g")
    async def handle(_: bytes) -> None: ...

    try:
        await in_a_task(router.start())
        assert router.ready
        await redis.acl_setuser(user, commands=["-xreadgroup"])

        async def is_over() -> bool:
            return not router.ready and not router.consumers

        await eventually(is_over)
        with pytest.raises((AccessError, CommandError)):
            await in_a_task(router.aclose())
        await router.aclose()
    finally:
        await redis.acl_deluser(user)


async def test_a_started_router_finishes_its_handlers_on_aclose(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(url)
    started, done = asyncio.Event(), []

    @router.handler(stream, group="g")
    async def handle(payload: bytes) -> None:
        started.set()
        await asyncio.sleep(0.1)
        done.append(payload)

    await router.start()
    await send(url, stream, 1)
    await started.wait()
    await in_a_task(router.aclose())
    assert done == [b"1"]
    assert await pending(redis, stream, "g") == 0
    assert not router.ready


async def test_a_router_whose_block_is_cancelled_cancels_its_handlers(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(url)
    started, cancelled = asyncio.Event(), asyncio.Event()

    @router.handler(stream, group="g")
    async def handle(_: bytes) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def serve() -> None:
        async with router.running():
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await send(url, stream, 1)
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
    assert await pending(redis, stream, "g") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_opened_and_closed_by_any_task_on_uvloop(
    url: str, stream: str, kind: str
) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def hooks() -> None:
        first, second = create(kind, url, stream), create(kind, url, stream)
        await in_a_task(first.start())
        await in_a_task(second.start())
        await in_a_task(first.aclose())
        await in_a_task(second.aclose())
        if kind in BLOCKS:
            stack = AsyncExitStack()
            await in_a_task(stack.enter_async_context(first))
            await in_a_task(stack.aclose())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(hooks())
