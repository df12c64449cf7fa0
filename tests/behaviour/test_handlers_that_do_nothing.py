"""Handlers that do nothing: they are refused, or their messages have failed."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from penstock import (
    ConfigurationError,
    Consumer,
    Message,
    Producer,
    Retry,
    Router,
)
from support.events import Events
from support.failing import handled, running
from support.waiting import eventually, pending, send

ONCE = Retry(max_attempts=1)


async def agen(message: Message[bytes]) -> AsyncIterator[int]:
    yield 1


def gen(message: Message[bytes]) -> Iterator[int]:
    yield 1


async def none() -> None: ...
async def two(message: Message[bytes], other: object) -> None: ...
async def named_only(*, message: Message[bytes]) -> None: ...


class Sync:
    def __init__(self, message: Message[bytes] | None = None) -> None: ...

    def __call__(self, message: Message[bytes]) -> None: ...

    def generate(self, message: Message[bytes]) -> Iterator[int]:
        yield 1


class Generates:
    async def __call__(self, message: Message[bytes]) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (agen, r"agen: it is a generator.*remove `yield`"),
        (gen, "it is a generator"),
        (functools.partial(gen), "it is a generator"),
        (Sync().generate, "it is a generator"),
        (Generates(), "it is a generator"),
        (Sync, "a class"),
        (functools.partial(Sync), "a class"),
        (none, "called with one argument"),
        (two, r"called with one argument.*'other'"),
        (named_only, "called with one argument"),
        (functools.partial(named_only), "called with one argument"),
        (lambda: None, "called with one argument"),
        ("text", "can't be called"),
    ],
)
@pytest.mark.parametrize("batch", [None, 10])
async def test_a_handler_that_can_t_be_run_is_refused_when_it_is_passed(
    url: str, stream: str, handler: Any, words: str, batch: int | None
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        with pytest.raises(ConfigurationError, match=words):
            await consumer.run(handler, batch=batch)


async def one(message: Message[bytes]) -> None: ...
async def optional(message: Message[bytes], other: int = 1) -> None: ...
async def star(*messages: Message[bytes]) -> None: ...


def passes_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(message: Any) -> Any:
        return function(message, None)

    return wrapper


class Async:
    async def __call__(self, message: Message[bytes]) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        one,
        optional,
        star,
        functools.partial(two, other=1),
        Sync(),
        Async(),
        Async().__call__,
        passes_on(two),
        lambda _: None,
        lambda message: one(message),  # noqa: PLW0108 - a function that is not async
        Mock(return_value=None),
        MagicMock(return_value=None),
        AsyncMock(return_value=None),
        [].append,
        print,
    ],
)
async def test_any_callable_that_takes_one_message_is_run(
    url: str, stream: str, redis: Any, handler: Any
) -> None:
    await send(url, stream, 1)
    async with running(Consumer(stream, url=url, group="g"), handler):
        await eventually(lambda: handled(redis, stream, 1))


def makes_a_generator(message: Any) -> Any:
    return gen(message)


def makes_an_async_generator(message: Any) -> Any:
    return agen(message)


async def forgets_to_iterate(message: Any) -> Any:
    return agen(message)


async def forgets_to_await(message: Any) -> Any:
    return one(message)


async def discards_the_result(message: Any, call: Any) -> None:
    """Discard what the call returned, as middleware usually does."""
    await call(message)


@pytest.mark.parametrize(
    ("batch", "middleware"), [(None, []), (10, []), (None, [discards_the_result])]
)
@pytest.mark.parametrize(
    "handler",
    [
        makes_a_generator,
        makes_an_async_generator,
        forgets_to_iterate,
        forgets_to_await,
    ],
)
async def test_a_call_that_returns_an_unawaited_coroutine_or_a_generator_has_failed(  # noqa: PLR0917
    url: str, stream: str, redis: Any, handler: Any, batch: Any, middleware: Any
) -> None:
    events = Events()
    await send(url, stream, 1)
    consumer: Consumer[bytes] = Consumer(
        stream, url=url, group="g", retry=ONCE, on_event=events, middleware=middleware
    )
    async with running(consumer, handler, batch=batch):
        await eventually(lambda: handled(redis, stream, 1))
    [event] = events.named("handler_failed")
    assert event.facts["error"] == "UsageError"
    [(_, fields)] = await redis.xrange(f"{stream}.dead")
    reason = b" ".join(fields.values())
    assert b"nobody awaited" in reason or b"runs only if it is iterated" in reason


async def test_middleware_that_returns_an_unawaited_call_has_failed(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async def forgets(message: Any, call: Any) -> Any:
        return call(message)

    await send(url, stream, 1)
    consumer = Consumer(
        stream,
        url=url,
        group="g",
        retry=ONCE,
        on_event=events,
        middleware=[forgets],
        dead_letters="drop",
    )
    async with running(consumer, one):
        await eventually(lambda: handled(redis, stream, 1))
    assert len(events.named("handler_failed")) == 1


@pytest.mark.parametrize("event", [None, "created"])
@pytest.mark.parametrize("middleware", [[], [discards_the_result]])
async def test_a_handler_of_a_router_that_returns_a_generator_has_failed(
    url: str, stream: str, redis: Any, event: str | None, middleware: Any
) -> None:
    events, router = Events(), Router(url, retry=ONCE)

    @router.handler(
        stream, group="g", event=event, middleware=middleware, on_event=events
    )
    async def handle(message: Message[bytes]) -> Any:
        return agen(message)

    async with Producer(url) as producer:
        await producer.send(stream, b"1", headers={"type": "created"})
    async with router.running():
        await eventually(lambda: handled(redis, stream, 1))
    assert len(events.named("handler_failed")) == 1
    assert await redis.xlen(f"{stream}.dead") == 1
    assert await pending(redis, stream, "g") == 0


async def generates(message: Any, call: Any) -> AsyncIterator[int]:
    await call(message)
    yield 1


class Middle:
    def __init__(self, message: Any, call: Any) -> None: ...


@pytest.mark.parametrize("middleware", [generates, Middle])
def test_middleware_that_does_nothing_is_refused(middleware: Any) -> None:
    with pytest.raises(ConfigurationError, match="a class or a generator"):
        Consumer("orders", group="g", middleware=[middleware])
    with pytest.raises(ConfigurationError, match="a class or a generator"):
        Router(middleware=[middleware])
