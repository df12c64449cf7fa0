"""Waiting calls: each ends at the latest when its consumer or producer has closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import from_thread

from penstock import (
    EARLIEST,
    LATEST,
    ROLLING,
    ClosedError,
    CommandError,
    ConfigurationError,
    Consumer,
    Message,
    Mode,
    Producer,
    Retry,
    Router,
    SendFailed,
    SendUnknown,
)
from support.events import Events
from support.proxy import proxy
from support.server import with_login
from support.waiting import eventually, pending, read, send


@pytest.mark.parametrize("close_timeout", [0, 0.4])
async def test_commit_during_an_outage_ends_when_the_consumer_has_closed(
    url: str, stream: str, close_timeout: float
) -> None:
    await send(url, stream, 1)
    async with proxy(url) as between:
        consumer = Consumer(
            stream, url=between.url, group="g", close_timeout=close_timeout
        )
        await consumer.start()
        [message] = await read(consumer, 1)
        await between.stop()
        message.ack()
        committing = asyncio.create_task(consumer.commit())
        await asyncio.sleep(0.05)
        assert not committing.done()
        await consumer.aclose()
        async with asyncio.timeout(5):
            with pytest.raises(ClosedError) as raised:
                await committing
    assert "connection" in str(raised.value.__cause__)


async def test_a_refused_commit_ends_when_the_consumer_has_closed(
    url: str, stream: str, redis: Any
) -> None:
    user = f"u-{stream}"
    await redis.acl_setuser(
        user,
        enabled=True,
        passwords=["+pw"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-xack"],
    )
    try:
        await send(url, stream, 1)
        limited = with_login(url, user, "pw")
        consumer = Consumer(stream, url=limited, group="g", close_timeout=0.4)
        await consumer.start()
        [message] = await read(consumer, 1)
        message.ack()
        committing = asyncio.create_task(consumer.commit())
        await asyncio.sleep(0.05)
        await consumer.aclose()
        async with asyncio.timeout(5):
            with pytest.raises(ClosedError) as raised:
                await committing
        assert "NOPERM" in str(raised.value.__cause__)
    finally:
        await redis.acl_deluser(user)


async def test_a_transaction_during_an_outage_ends_with_its_consumer(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g", close_timeout=0.3)
        await consumer.start()
        [message] = await read(consumer, 1)
        await between.stop()

        async def apply() -> None:
            async with message.transaction() as tx:
                tx.command("SET", f"{stream}:done", "1")

        applying = asyncio.create_task(apply())
        await asyncio.sleep(0.1)
        await consumer.aclose()
        async with asyncio.timeout(5):
            with pytest.raises(ClosedError):
                await applying
        # And no task is left that would connect as soon as that is possible again.
        await between.start()
        before = between.accepted
        await asyncio.sleep(1.5)
        assert between.accepted == before
    assert not await redis.exists(f"{stream}:done")
    assert await pending(redis, stream, "g") == 1


async def test_a_transaction_without_a_reply_ends_with_its_consumer(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g", close_timeout=0.3)
        await consumer.start()
        [message] = await read(consumer, 1)
        between.drop_replies = True

        async def apply() -> None:
            async with message.transaction() as tx:
                tx.command("SET", f"{stream}:done", "1")

        applying = asyncio.create_task(apply())
        await asyncio.sleep(0.05)
        await consumer.aclose()
        async with asyncio.timeout(5):
            with pytest.raises(ClosedError):
                await applying


WAITS: dict[str, Callable[[Consumer[bytes], str], Awaitable[object]]] = {
    "seek": lambda it, _: it.seek(EARLIEST),
    "seek to the end": lambda it, _: it.seek(LATEST),
    "assign": lambda it, stream: it.assign(f"{stream}-2"),
    "unassign": lambda it, stream: it.unassign(stream),
    "lag": lambda it, _: it.lag(),
    "next": lambda it, _: it.next(),
    "take": lambda it, _: it.take(5, timeout=30),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("fault", ["outage", "silence"])
async def test_calls_that_wait_for_the_server_end_when_the_consumer_closes(
    url: str, stream: str, name: str, fault: str
) -> None:
    await send(url, stream, *range(3))
    async with proxy(url) as between:
        consumer = Consumer(
            stream,
            url=between.url,
            group="g",
            mode=Mode.RESUMABLE,
            close_timeout=0.3,
        )
        await consumer.start()
        await read(consumer, 3)
        if fault == "silence":
            between.drop_replies = True
        else:
            await between.stop()
        waiting = asyncio.create_task(outcome(WAITS[name](consumer, stream)))
        await asyncio.sleep(0.05)
        await consumer.aclose()
        async with asyncio.timeout(3):
            error = await waiting
        lost_at_once = fault == "outage" and name in {"lag", "assign"}
        assert isinstance(error, ClosedError) or lost_at_once, error


async def outcome(call: Awaitable[object]) -> object:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - checked by the test
        return error


@pytest.mark.parametrize("step", ["close", "release", "flush"])
async def test_closing_ends_and_raises_any_error_that_occurs(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whether a defect of Penstock causes it, a hook or a codec."""
    await send(url, stream, *range(5))

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in closing")

    consumer = Consumer(stream, url=url, group="g", auto_commit=ROLLING)
    await consumer.start()
    [message] = await read(consumer, 1)
    session: Any = consumer._session
    message.ack()
    owners = {
        "close": session.checkouts,
        "release": session.ledger.removals,
        "flush": session.parts.group.committer,
    }
    monkeypatch.setattr(type(owners[step]), step, broken)
    committing = asyncio.create_task(outcome(consumer.commit()))
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError, match="in closing"):
            await consumer.aclose()
        await committing
    with pytest.raises(ClosedError):
        await consumer.next()
    monkeypatch.undo()
    await consumer.start()
    await consumer.aclose()


@pytest.mark.parametrize("way", ["group", "name", "HOST_ID"])
def test_a_name_that_can_not_be_encoded_is_refused_by_the_constructor(
    stream: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    options: dict[str, Any] = {"group": "g"}
    if way == "HOST_ID":
        monkeypatch.setenv("HOST_ID", "host-\udcff")
    else:
        options[way] = "\udcff"
    with pytest.raises(ConfigurationError, match="surrogate"):
        Consumer(stream, **options)


async def by_gather(close: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(close(), asyncio.sleep(0))


async def by_task(close: Callable[[], Awaitable[None]]) -> None:
    await asyncio.create_task(wrapped(close))


async def wrapped(close: Callable[[], Awaitable[None]]) -> None:
    await close()


async def by_asyncio_group(close: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wrapped(close))


async def by_anyio_group(close: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(wrapped, close)


async def by_wait_for(close: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait_for(wrapped(close), 20)


async def by_thread(close: Callable[[], Awaitable[None]]) -> None:
    await anyio.to_thread.run_sync(lambda: from_thread.run(wrapped, close))


WAYS = [
    wrapped,
    by_gather,
    by_task,
    by_asyncio_group,
    by_anyio_group,
    by_wait_for,
    by_thread,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [None, 3])
async def test_a_handler_may_close_its_consumer_in_any_way_of_waiting(
    url: str, stream: str, redis: Any, way: Any, batch: int | None
) -> None:
    await send(url, stream, 1)
    consumer = Consumer(stream, url=url, group="g")
    await consumer.start()

    async def handle(_: Any) -> None:
        await way(consumer.aclose)

    start = time.monotonic()
    await consumer.run(handle, batch=batch)
    await consumer.aclose()
    assert time.monotonic() - start < 3
    assert await pending(redis, stream, "g") == 0
    with pytest.raises(ClosedError):
        consumer.statistics()


async def test_a_handler_in_a_thread_may_close_its_consumer(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    loop = asyncio.get_running_loop()
    start = time.monotonic()

    def handle(message: Message[bytes]) -> None:
        asyncio.run_coroutine_threadsafe(consumer.aclose(), loop).result(20)

    async with Consumer(stream, url=url, group="g") as consumer:
        await consumer.run(handle)
    assert time.monotonic() - start < 3
    assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_handler_may_close_its_router(
    url: str, stream: str, redis: Any, way: Any
) -> None:
    await send(url, stream, 1)
    router = Router(url)

    @router.handler(stream, group="g")
    async def handle(_: bytes) -> None:
        await way(router.aclose)

    start = time.monotonic()
    await router.run()
    assert time.monotonic() - start < 3
    assert await pending(redis, stream, "g") == 0
    assert not router.ready


async def test_a_handler_of_a_consumer_within_a_handler_may_close_the_outer_one(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    await send(url, f"{stream}-2", 1)

    async def inner_handler(_: Message[bytes]) -> None:
        await outer.aclose()
        await inner.aclose()

    async def handle(_: Message[bytes]) -> None:
        await inner.start()
        await inner.run(inner_handler)

    inner = Consumer(f"{stream}-2", url=url, group="g")
    start = time.monotonic()
    async with Consumer(stream, url=url, group="g") as outer:
        await outer.run(handle)
    await inner.aclose()
    assert time.monotonic() - start < 3
    assert await pending(redis, stream, "g") == 0


async def test_a_task_of_a_handler_that_has_ended_waits_until_the_consumer_has_closed(
    url: str, stream: str
) -> None:
    """A task that outlives the run does not count as a handler."""
    await send(url, stream, 1)
    go = asyncio.Event()
    closers: list[asyncio.Task[None]] = []

    async def closer() -> None:
        await go.wait()
        await consumer.aclose()

    async def handle(_: Message[bytes]) -> None:
        closers.append(asyncio.create_task(closer()))
        running.cancel()

    consumer = Consumer(stream, url=url, group="g")
    await consumer.start()
    running = asyncio.create_task(consumer.run(handle))
    await asyncio.wait([running])
    go.set()
    await closers[0]
    with pytest.raises(ClosedError):
        consumer.statistics()


async def test_close_timeout_applies_to_handlers_although_one_of_them_is_closing(
    url: str, stream: str
) -> None:
    """Closing from a handler sets no limit; closing from outside sets one."""
    await send(url, stream, 1, 2)
    both = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        if message.payload == b"1":
            await both.wait()
            await consumer.aclose()
        else:
            both.set()
            await asyncio.Event().wait()

    consumer = Consumer(stream, url=url, group="g", close_timeout=0.5)
    await consumer.start()
    running = asyncio.create_task(consumer.run(handle, concurrency=2))
    await both.wait()
    await asyncio.sleep(0.01)
    start = time.monotonic()
    await consumer.aclose()
    assert 0.2 < time.monotonic() - start < 1.0
    await running


async def test_senders_do_not_wait_for_a_task_that_has_failed(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer(url, max_messages=2)
    await producer.start()
    sender: Any = producer._sender

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(type(sender.accumulator), "batch", broken)
    sends = [
        asyncio.create_task(outcome(producer.send(stream, b"x"))) for _ in "123456"
    ]
    flushing = asyncio.create_task(outcome(producer.flush()))
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*sends)
        await flushing
        for error in outcomes:
            assert isinstance(error, SendFailed | SendUnknown | ClosedError)
        with pytest.raises(ClosedError):
            await producer.send(stream, b"x")
        with pytest.raises(ZeroDivisionError, match="a defect"):
            await producer.aclose()


async def test_senders_that_wait_for_buffer_space_end_when_the_producer_closes(
    url: str, stream: str
) -> None:
    async with proxy(url) as between:
        producer = Producer(between.url, max_messages=2, close_timeout=0.3)
        await producer.start()
        await between.stop()
        sends = [
            asyncio.create_task(outcome(producer.send(stream, b"x"))) for _ in "123456"
        ]
        many = asyncio.create_task(
            outcome(wait_for_all(producer.send_many(stream, [b"x"])))
        )
        flushing = asyncio.create_task(outcome(producer.flush()))
        await asyncio.sleep(0.05)
        await producer.aclose()
        async with asyncio.timeout(3):
            for error in await asyncio.gather(*sends):
                assert isinstance(error, SendFailed | SendUnknown | ClosedError)
            await many
            await flushing


async def wait_for_all(outcomes: Any) -> object:
    return await outcomes


async def test_starting_a_router_ends_when_a_consumer_can_not_be_opened(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(f"{stream}-bad", "no stream")
    router = Router(url)

    @router.handler(stream, group="g")
    async def handle(_: bytes) -> None: ...

    @router.handler(f"{stream}-bad", group="g")
    async def handle_bad(_: bytes) -> None: ...

    async with asyncio.timeout(5):
        with pytest.raises(CommandError):
            await router.start()
        assert not router.ready
        with pytest.raises(CommandError):
            await router.run()


async def test_refused_dead_letters_do_not_delay_closing(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.set(f"{stream}.dead", "no stream")
    await send(url, stream, *range(5))

    async def handle(message: Message[bytes]) -> None:
        if message.payload == b"4":
            message.reject("no good")

    consumer = Consumer(
        stream,
        url=url,
        group="g",
        retry=Retry(max_attempts=1),
        close_timeout=0.5,
        on_event=events,
    )
    await consumer.start()
    running = asyncio.create_task(consumer.run(handle))

    async def refused() -> bool:
        return bool(events.named("dead_letters_refused"))

    await eventually(refused)
    start = time.monotonic()
    await consumer.aclose()
    assert time.monotonic() - start < 0.8
    await running
    [event] = events.named("close_incomplete")
    assert event.facts == {"uncommitted": 0, "dying": 1}
    # It was released nevertheless.
    reply = await redis.xautoclaim(stream, "g", "other", 60_000)
    assert len(reply[1]) == 1
