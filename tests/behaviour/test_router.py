"""The router: which handler gets which messages, and how handlers run, fail and end."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from penstock import (
    Claim,
    CommandError,
    ConfigurationError,
    Consumer,
    Fields,
    Message,
    Ordering,
    Prefetch,
    Producer,
    Router,
    UsageError,
    json_codec,
    msgpack_codec,
)
from penstock._routing.handlers import specify
from penstock._routing.registry import Registry
from support.events import Events
from support.waiting import deliveries, eventually, pending, send


class Order(msgspec.Struct):
    id: int


class Refund(msgspec.Struct):
    of: int


async def ignore(message: Message[bytes]) -> None: ...
def ignore_sync(message: Message[bytes]) -> None: ...
async def ignore_order(order: Order) -> None: ...
async def ignore_unannotated(body) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


class Seen(list[Any]):
    """The messages that handlers got."""

    async def wait_for(self, count: int) -> None:
        async def enough() -> bool:
            return len(self) >= count

        await eventually(enough)
        assert len(self) == count


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def send_typed(url: str, stream: str, *messages: tuple[str | None, Any]) -> None:
    async with Producer(url) as producer:
        for kind, payload in messages:
            headers = None if kind is None else {"type": kind}
            await producer.enqueue(stream, payload, headers=headers)


async def settled(redis: Any, stream: str, group: str, count: int) -> None:
    """Wait until `count` messages were delivered to the group, and acknowledged."""

    async def done() -> bool:
        facts = (await redis.xinfo_groups(stream))[0]
        assert facts["name"] == group.encode()
        return bool(facts["entries-read"] == count and facts["pending"] == 0)

    await eventually(done)


# -- arguments of handlers -------------------------------------------------------------


def test_the_decorator_returns_the_function_itself() -> None:
    router = Router()
    assert router.handler("orders", group="g")(ignore) is ignore


async def test_a_handler_gets_what_its_annotation_says(
    url: str, stream: str, seen: Seen
) -> None:
    router = Router(url)

    @router.handler(stream, group="message")
    async def _(message: Message[Order]) -> None:
        assert isinstance(message, Message)
        seen.append(message.payload)

    @router.handler(stream, group="payload")
    async def _(order: Order) -> None:
        seen.append(order)

    @router.handler(stream, group="raw")
    async def _(body) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        seen.append(body)

    @router.handler(stream, group="unannotated")
    async def _(message) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        seen.append(message.payload)

    @router.handler(stream, group="entry")
    async def _(entry: Fields) -> None:
        seen.append(entry.get(b"msg"))

    @router.handler(stream, group="named", payload=Order)
    async def _(message) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        seen.append(message.payload)

    class Handler:
        async def __call__(self, order: Order) -> None:
            seen.append(order)

    router.handler(stream, group="object")(Handler())
    async with router.running():
        await send_typed(url, stream, (None, Order(7)))
        await seen.wait_for(7)
    assert seen.count(Order(7)) == 4
    assert seen.count(b'{"id":7}') == 3


async def test_a_codec_takes_precedence_over_the_annotation(
    url: str, stream: str, seen: Seen
) -> None:
    router = Router(url)

    @router.handler(stream, group="g", codec=msgpack_codec(Order))
    async def _(order: Order) -> None:
        seen.append(order)

    async with router.running():
        await send_typed(url, stream, (None, msgpack_codec(Order).encode(Order(7))))
        await seen.wait_for(1)
    assert seen == [Order(7)]


# -- wrong options ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"ordering": "some"}, "ordering='some'"),
        ({"event": ""}, "not an event type"),
        ({"event": b"x"}, "not an event type"),
        ({"event_header": ""}, "not the name of a header"),
        ({"mode": "sometimes"}, "'realtime'"),
        ({"start": "yesterday"}, "entry id"),
        ({"name": ""}, "leave it out"),
        ({"shards": 0}, "shards"),
        ({"close_timeout": -1}, "close_timeout"),
        ({"prefetch": 5}, "is invalid; pass a Prefetch"),
        ({"url": "redis://x"}, "unknown option 'url'"),
        ({"colour": 1}, "unknown option 'colour'; the options are auto_commit, "),
        ({"payload": str}, "leave payload= out"),
        ({"payload": Order, "codec": json_codec(Order)}, "exclude each other"),
        ({"auto_commit": "rolling"}, r"take the message"),
        ({"batch": 10}, r"list\[Message\[Order\]\]"),
        ({"batch": 10, "event": "x"}, "several types"),
    ],
)
def test_the_decorator_refuses_a_wrong_option_and_names_the_handler(
    options: dict[str, Any], words: str
) -> None:
    router = Router()
    with pytest.raises(ConfigurationError, match=words) as caught:
        router.handler("orders", group="g", **options)(ignore_order)
    assert str(caught.value).startswith(f"handler {__name__}.ignore_order: ")
    assert repr(router) == "<Router of 0 handlers, idle>"


def test_the_decorator_refuses_missing_streams_and_invalid_handlers() -> None:
    with pytest.raises(ConfigurationError, match=r"ignore: .*at least one stream"):
        Router().handler(group="g")(ignore)
    with pytest.raises(ConfigurationError, match=r"takes no message; write"):
        Router().handler("orders")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"msgspec"):
        Router().handler("orders", payload=print)(ignore_unannotated)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": "g"}, "no option 'group'"),
        ({"close_timeout": -1}, "a router: close_timeout"),
        ({"middleware": ignore}, "takes a list"),
        ({"middleware": [5]}, "middleware 5 can't be called"),
    ],
)
def test_a_router_refuses_wrong_options_too(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Router(**options)


@pytest.mark.parametrize("event", [None, "created"])
def test_two_handlers_for_the_same_messages_are_refused(event: str | None) -> None:
    router = Router()
    router.handler("orders", group="g", event=event)(ignore)
    with pytest.raises(ConfigurationError) as caught:
        router.handler("orders", group="g", event=event)(ignore_order)
    for name in ("ignore_order and", "ignore both", "'g'", "orders"):
        assert name in str(caught.value)
    # Handlers for other messages are accepted.
    router.handler("orders", group="other", event=event)(ignore)
    router.handler("others", group="g", event=event)(ignore)
    router.handler("orders", group="g", event="deleted")(ignore)
    assert repr(router) == "<Router of 4 handlers, idle>"


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 2},
        {"ordering": "key"},
        {"event_header": "kind"},
        {"prefetch": Prefetch(max_messages=7)},
        {"start": "latest"},
    ],
)
def test_handlers_that_share_a_consumer_must_agree(options: dict[str, Any]) -> None:
    router = Router()
    router.handler("orders", group="g", event="a")(ignore)
    with pytest.raises(ConfigurationError, match="share a consumer") as caught:
        router.handler("orders", group="g", event="b", **options)(ignore_order)
    for name in ("ignore_order", "ignore share", next(iter(options))):
        assert name in str(caught.value)


def test_handlers_of_a_group_share_all_streams_or_none() -> None:
    router = Router()
    router.handler("a", "b", group="g", event="x")(ignore)
    router.handler("b", "a", group="g", event="y")(ignore)
    with pytest.raises(ConfigurationError, match="share only some of their streams"):
        router.handler("b", group="g", event="z")(ignore)


# -- dispatch by event type ------------------------------------------------------------


async def test_each_event_goes_to_its_handler_with_its_own_type(
    url: str, stream: str, redis: Any, seen: Seen
) -> None:
    router = Router(url)

    @router.handler(stream, group="g", event="created")
    async def created(order: Order) -> None:
        seen.append(("created", order))

    @router.handler(stream, group="g", event="refunded")
    async def refunded(message: Message[Refund]) -> None:
        seen.append(("refunded", message.payload, message.headers["type"]))

    @router.handler(stream, group="g")
    async def other(message: Message[bytes]) -> None:
        seen.append(("other", message.payload))

    async with router.running():
        assert len(router.consumers) == 1
        await send_typed(
            *(url, stream, ("created", Order(1)), ("refunded", Refund(2))),
            *(("deleted", b"x"), (None, b"y")),
        )
        await seen.wait_for(4)
        await settled(redis, stream, "g", 4)
    assert seen == [
        ("created", Order(1)),
        ("refunded", Refund(2), "refunded"),
        ("other", b"x"),
        ("other", b"y"),
    ]


async def test_the_event_type_can_be_in_another_header(
    url: str, stream: str, seen: Seen
) -> None:
    router = Router(url)

    @router.handler(stream, group="g", event="created", event_header="kind")
    async def _(message: Message[bytes]) -> None:
        seen.append(message.payload)

    async with router.running(), Producer(url) as producer:
        await producer.send(stream, b"1", headers={"type": "created"})
        await producer.send(stream, b"2", headers={"kind": "created"})
        await seen.wait_for(1)
    assert seen == [b"2"]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("policy", ["processed", "rolling", "disabled", "delayed"])
async def test_messages_without_a_handler_are_acknowledged_and_reported_once_per_type(
    url: str, stream: str, redis: Any, events: Events, policy: str, *, sync: bool
) -> None:
    """With only sync handlers the dispatch runs in a thread."""
    router = Router(url, on_event=events, auto_commit=policy)
    function: Any = ignore_sync if sync else ignore
    router.handler(stream, group="g", event="created")(function)
    async with router.running():
        # The last one is reported, so that the test knows when it was handled.
        kinds = ["deleted", "\x1b[2J", "deleted", "deleted", None]
        await send_typed(url, stream, *((kind, b"x") for kind in kinds))
        if policy not in {"delayed", "disabled"}:  # which acknowledge later
            await settled(redis, stream, "g", 5)

        async def reported() -> bool:
            return len(events.named("unhandled")) == 3

        await eventually(reported)
    assert await pending(redis, stream, "g") == 0
    types = [event.facts["type"] for event in events.named("unhandled")]
    assert types == ["deleted", "\\x1b[2J", "(none)"]
    [total] = events.named("unhandled_in_all")
    assert total.facts["messages"] == 5
    assert total.facts["group"] == "g"


async def test_an_event_that_can_t_be_decoded_fails_and_is_not_quoted(
    url: str, stream: str, events: Events, seen: Seen
) -> None:
    router = Router(url, on_event=events)

    @router.handler(stream, group="g", event="created")
    async def _(order: Order) -> None:
        seen.append(order)

    async with router.running():
        await send_typed(url, stream, ("created", b"secret"), ("created", Order(1)))
        await seen.wait_for(1)
    assert any(event.facts.get("error") == "DecodeError" for event in events)
    assert not any("secret" in f"{event} {event.error}" for event in events)


async def test_every_group_gets_all_messages(url: str, stream: str, seen: Seen) -> None:
    router = Router(url)
    for group in ("a", "b"):

        @router.handler(stream, group=group, event="created")
        async def _(message: Message[bytes]) -> None:
            seen.append(message.payload)

    async with router.running():
        assert {consumer.group for consumer in router.consumers} == {"a", "b"}
        await send_typed(url, stream, ("created", b"x"))
        await seen.wait_for(2)


async def test_without_a_group_each_handler_has_its_own_consumer(
    url: str, stream: str, events: Events, seen: Seen
) -> None:
    router = Router(url, on_event=events)

    @router.handler(stream)
    async def all_of_it(message: Message[bytes]) -> None:
        seen.append(("all", message.payload))

    @router.handler(stream)
    async def all_of_it_too(message: Message[bytes]) -> None:
        seen.append(("all", message.payload))

    @router.handler(stream, event="a")
    async def some(message: Message[bytes]) -> None:
        seen.append(("some", message.payload))

    async with router.running():
        assert len(router.consumers) == 3
        await send_typed(url, stream, ("b", b"2"), ("a", b"1"))
        await seen.wait_for(5)
    assert seen.count(("some", b"1")) == 1
    assert events.named("unhandled") == []


async def test_sync_and_async_handlers_can_share_a_group(
    url: str, stream: str, seen: Seen
) -> None:
    router = Router(url)

    @router.handler(stream, group="g", event="sync")
    def _(order: Order) -> None:
        seen.append((order.id, threading.current_thread() is main))

    @router.handler(stream, group="g", event="async")
    async def _(order: Order) -> None:
        seen.append((order.id, threading.current_thread() is main))

    async def later(order: Order) -> None:
        seen.append((order.id, threading.current_thread() is main))

    @router.handler(stream, group="g", event="late")
    def _(order: Order) -> Any:
        return later(order)  # not recognized as async, and awaited nevertheless

    main = threading.current_thread()
    async with router.running():
        await send_typed(
            *(url, stream, ("sync", Order(1)), ("async", Order(2))),
            ("late", Order(3)),
        )
        await seen.wait_for(3)
    assert seen == [(1, False), (2, True), (3, True)]


async def test_sync_handlers_of_events_stay_one_sync_function(stream: str) -> None:
    """So the consumer runs it in a thread."""
    done: list[object] = []

    def handle(message: Message[bytes]) -> None:
        done.append(message.payload)

    def unhandled(message: object, kind: str | None) -> None:
        done.append((kind, threading.current_thread() is threading.main_thread()))

    given = {"group": "g"}, {"event": "a", "header": "type", "concurrency": 1}
    how: dict[str, Any] = {**given[1], "ordering": "none", "batch": None}
    registry = Registry({}, ())
    registry.add(specify(handle, (stream,), given[0], middleware=(), **how))
    [shared] = registry.shared
    call = shared.dispatch(anyio.CapacityLimiter(1), unhandled)
    assert not inspect.iscoroutinefunction(call)
    for kind in ("a", "b"):
        message: Any = Typed(kind)
        await asyncio.to_thread(call, message)
    await asyncio.sleep(0)
    assert done == [b"x", ("b", True)]


@pytest.mark.parametrize("sync", [False, True])
async def test_the_options_of_the_decorator_are_passed_to_the_consumer_s_run(
    stream: str, monkeypatch: pytest.MonkeyPatch, seen: Seen, *, sync: bool
) -> None:
    """Batches too; a sync function stays sync, so that `run` chooses a thread."""

    async def run(_: object, handler: Callable[[Any], Any], **how: Any) -> None:
        seen.append(how)
        done = handler([Typed("a"), Typed("b")])
        assert inspect.isawaitable(done) is not sync
        if not sync:
            await done

    monkeypatch.setattr(Consumer, "run", run)
    router = Router()
    decorate = router.handler(
        stream, group="g", batch=10, concurrency=3, ordering="key"
    )

    def handle(bodies: list[bytes]) -> None:
        seen.append(bodies)

    async def handle_async(bodies: list[bytes]) -> None:
        seen.append(bodies)

    decorate(handle if sync else handle_async)
    [shared] = router._registry.shared
    await shared.part(None).run()
    how = {"concurrency": 3, "ordering": Ordering.KEY, "batch": 10}
    assert seen == [how, [b"x", b"x"]]


class Typed:
    """The attributes of a message that dispatching reads."""

    payload = b"x"

    def __init__(self, kind: str) -> None:
        self.headers = {"type": kind}


# -- running and ending ----------------------------------------------------------------


async def test_stop_lets_running_handlers_finish_and_starts_no_others(
    url: str, stream: str, redis: Any, seen: Seen
) -> None:
    await send(url, stream, *range(10))
    router = Router(url)
    started = asyncio.Semaphore(0)
    go = asyncio.Event()

    @router.handler(stream, group="g", concurrency=2)
    async def _(message: Message[bytes]) -> None:
        started.release()
        await go.wait()
        seen.append(message.payload)

    run = asyncio.create_task(router.run())
    await started.acquire()
    await started.acquire()
    assert router.ready
    router.stop()
    assert not router.ready
    go.set()
    await run
    assert len(seen) == 2
    facts = (await redis.xinfo_groups(stream))[0]
    assert facts["entries-read"] - facts["pending"] == 2
    # Released messages count as never delivered; and the router can run again.
    async with router.running():
        await seen.wait_for(10)
    assert sorted(seen) == [b"%d" % number for number in range(10)]


async def test_a_handler_that_outlasts_close_timeout_is_cancelled(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(url, close_timeout=0.1)
    started = asyncio.Event()
    ended = asyncio.Event()

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with router.running():
        await send(url, stream, 1)
        await started.wait()
    assert ended.is_set()
    assert list((await deliveries(redis, stream, "g")).values()) == [0]


async def test_cancelling_run_cancels_handlers_and_keeps_their_messages(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(url)
    started = asyncio.Event()
    cancelled = asyncio.Event()

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    run = asyncio.create_task(router.run())
    await send(url, stream, 1)
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert cancelled.is_set()
    assert await pending(redis, stream, "g") == 1
    assert not router.ready


def stop_in_the_handler(router: Router) -> None:
    router.stop()


def stop_in_a_thread(router: Router) -> None:
    thread = threading.Thread(target=router.stop)
    thread.start()
    thread.join()


@pytest.mark.parametrize("stop", [stop_in_the_handler, stop_in_a_thread])
async def test_a_router_can_be_stopped_from_handlers_and_threads(
    url: str, stream: str, redis: Any, stop: Callable[[Router], None]
) -> None:
    router = Router(url)
    router.stop()  # no effect, since it does not run yet

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        stop(router)

    await send(url, stream, 1)
    async with asyncio.timeout(10):
        await router.run()
    assert await pending(redis, stream, "g") == 0


async def test_a_router_can_be_stopped_while_it_opens(stream: str) -> None:
    """No server listens there, and the router would try for an hour."""
    router = Router("redis://127.0.0.1:1", open_timeout=3600)
    router.handler(stream, group="g")(ignore)
    ready: list[bool] = []
    run = asyncio.create_task(router.run(on_ready=lambda: ready.append(True)))
    await asyncio.sleep(0.05)
    assert not run.done()
    router.stop()
    start = time.monotonic()
    await run
    assert time.monotonic() - start < 1
    assert ready == []


async def test_if_a_consumer_can_not_be_opened_no_message_is_handled(
    url: str, stream: str, redis: Any, events: Events, seen: Seen
) -> None:
    """The consumers that are open are closed, and the error is raised."""
    broken = f"{stream}-broken"
    await redis.set(broken, "no stream")
    await send(url, stream, 1)
    router = Router(url, on_event=events)

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        seen.append(message)

    router.handler(broken, group="g")(ignore)
    with pytest.raises(CommandError, match="WRONGTYPE"):
        await router.run()
    assert seen == []
    assert not router.consumers
    [failed] = events.named("consumer_failed")
    assert failed.facts == {
        "streams": (broken,),
        "group": "g",
        "error": "CommandError",
    }


class FailingRouter:
    """Two handlers: a slow one, and one that raises SystemExit at its first message."""

    def __init__(self, url: str, stream: str, **options: Any) -> None:
        self.url, self.stream = url, stream
        self.router = Router(url, **options)
        self.slow_started = asyncio.Event()
        self.slow_done = False
        self.router.handler(stream, group="slow")(self.slow)
        self.router.handler(stream, group="exits")(self.exits)

    async def slow(self, message: Message[bytes]) -> None:
        self.slow_started.set()
        await asyncio.sleep(0.1)
        self.slow_done = True

    async def exits(self, message: Message[bytes]) -> None:
        await self.slow_started.wait()
        raise SystemExit(3)


async def test_when_a_consumer_fails_for_good_the_others_drain(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    failing = FailingRouter(url, stream, on_event=events)
    with pytest.raises(SystemExit) as caught:
        await failing.router.run()
    assert caught.value.code == 3
    assert failing.slow_done
    assert await pending(redis, stream, "slow") == 0
    assert await pending(redis, stream, "exits") == 1
    assert len(events.named("consumer_failed")) == 1


async def test_when_a_consumer_fails_for_good_the_block_of_running_is_cancelled(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    failing = FailingRouter(url, stream)
    with pytest.raises(SystemExit):
        async with failing.router.running():
            with pytest.raises(asyncio.CancelledError) as caught:
                await asyncio.Event().wait()
            assert not failing.router.ready
            raise caught.value
    assert failing.slow_done
    current = asyncio.current_task()
    assert current is not None
    assert not current.cancelling()


async def test_an_exception_that_the_cancelled_block_raises_is_noted(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    failing = FailingRouter(url, stream)
    with pytest.raises(SystemExit) as caught:
        async with failing.router.running():
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("in cleaning up")
    assert caught.value.__notes__ == [
        "and then the block raised ValueError('in cleaning up')"
    ]


@pytest.mark.parametrize("error", [ValueError, TimeoutError])
async def test_handlers_finish_when_the_block_raises(
    url: str, stream: str, redis: Any, error: type[Exception]
) -> None:
    router = Router(url)
    started = asyncio.Event()

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        started.set()
        await asyncio.sleep(0.05)

    with pytest.raises(error, match="from the block"):
        async with router.running():
            await send(url, stream, 1)
            await started.wait()
            raise error("from the block")
    assert await pending(redis, stream, "g") == 0


async def test_a_router_runs_once_at_a_time_and_takes_no_handlers_then(
    url: str, stream: str
) -> None:
    router = Router(url)
    router.handler(stream, group="g")(ignore)
    async with router.running():
        with pytest.raises(UsageError, match="running already"):
            await router.run()
        with pytest.raises(UsageError, match="add handlers before it runs"):
            router.handler(stream, group="other")(ignore)
        assert router.ready
        assert repr(router) == "<Router of 1 handlers, running>"


async def test_a_router_without_handlers_refuses_to_run(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"@router\.handler"):
        await Router(url).run()


async def test_a_wrong_or_missing_url_is_a_configuration_error(stream: str) -> None:
    router = Router()
    router.handler(stream, group="g")(ignore)
    with pytest.raises(ConfigurationError, match="http"):
        await router.run("http://localhost")
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        await router.run()


async def test_health_probes_can_inspect_the_consumers(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(url)
    router.handler(stream, group="g")(ignore)
    assert not router.consumers
    async with router.running():
        await send(url, stream, *range(7))
        consumer = router.consumers[0]

        async def done() -> bool:
            return consumer.statistics().acknowledged == 7

        await eventually(done)
        assert set((await consumer.lag()).values()) == {0}
    assert not router.consumers
    assert not router.ready


async def test_a_router_runs_in_an_asgi_lifespan(
    url: str, stream: str, redis: Any, seen: Seen
) -> None:
    router = Router(url)

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        seen.append(message.payload)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with router.running():
            yield

    async def app(
        scope: dict[str, str], receive: asyncio.Queue[str], send: asyncio.Queue[str]
    ) -> None:
        """Run the lifespan as an ASGI framework does."""
        assert scope["type"] == "lifespan"
        assert await receive.get() == "lifespan.startup"
        async with lifespan(app):
            await send.put("lifespan.startup.complete")
            assert await receive.get() == "lifespan.shutdown"
        await send.put("lifespan.shutdown.complete")

    to_app: asyncio.Queue[str] = asyncio.Queue()
    from_app: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(app({"type": "lifespan"}, to_app, from_app))
    await to_app.put("lifespan.startup")
    assert await from_app.get() == "lifespan.startup.complete"
    assert router.ready
    await send(url, stream, 1, 2, 3)
    await seen.wait_for(3)
    await to_app.put("lifespan.shutdown")
    assert await from_app.get() == "lifespan.shutdown.complete"
    await serving
    assert await pending(redis, stream, "g") == 0


# -- routers of several modules --------------------------------------------------------


async def test_a_router_includes_others(url: str, stream: str, seen: Seen) -> None:
    mine, theirs = Router(url, close_timeout=3), Router(close_timeout=4)

    @mine.handler(stream, group="g", event="a", close_timeout=5)
    async def _(order: Order) -> None:
        seen.append(order)

    @theirs.handler(stream, group="g", event="b", close_timeout=5)
    async def _(refund: Refund) -> None:
        seen.append(refund)

    mine.include(theirs)
    async with mine.running():
        assert len(mine.consumers) == 1
        await send_typed(url, stream, ("a", Order(1)), ("b", Refund(2)))
        await seen.wait_for(2)
    assert seen == [Order(1), Refund(2)]


def test_options_that_an_included_router_leaves_out_come_from_the_including_one() -> (
    None
):
    mine, theirs = Router(close_timeout=3, mkstream=False), Router(close_timeout=4)
    theirs.handler("orders", group="g", event="a")(ignore)
    mine.include(theirs)
    with pytest.raises(ConfigurationError, match=r"close_timeout=3 and 4"):
        mine.handler("orders", group="g", event="b")(ignore)
    mine.handler("orders", group="g", event="b", close_timeout=4)(ignore)


def test_include_refuses_what_the_decorator_refuses() -> None:
    mine, theirs = Router(), Router()
    mine.handler("orders", group="g")(ignore)
    theirs.handler("others", group="g")(ignore)
    theirs.handler("orders", group="g")(ignore_order)
    with pytest.raises(ConfigurationError, match=r"ignore_order and .*ignore both"):
        mine.include(theirs)
    assert repr(mine) == "<Router of 1 handlers, idle>"
    with pytest.raises(ConfigurationError, match="include itself"):
        mine.include(mine)
    rolling = Router(auto_commit="rolling")
    with pytest.raises(ConfigurationError, match="take the message"):
        rolling.include(theirs)


def test_an_included_router_accepts_no_more_handlers() -> None:
    mine, theirs = Router(), Router()
    theirs.handler("orders", group="g")(ignore)
    mine.include(theirs)
    with pytest.raises(UsageError, match="included in another one"):
        theirs.handler("others", group="g")(ignore)
    Router().include(theirs)  # another router may include it too


@pytest.mark.parametrize("ordering", ["key", "shard"])
@pytest.mark.parametrize("why", [{"ownership": "shared"}, {"claim": Claim(idle=5)}])
def test_an_order_in_shared_shards_is_refused_for_several_workers(
    ordering: str, why: dict[str, Any]
) -> None:
    router, anywhere = Router(), Router()

    @router.handler("orders", group="billing", ordering=ordering, **why)
    async def charge(message: Message[bytes]) -> None:
        """Do nothing."""

    # Without a group each worker handles all messages, in order. In a group it depends
    # on whether the stream has shards.
    @anywhere.handler("shards", group="billing", ordering=ordering)
    @anywhere.handler("orders", ordering=ordering)
    async def count(message: Message[bytes]) -> None:
        """Do nothing."""

    router.check_workers(1)
    anywhere.check_workers(4)
    with pytest.raises(ConfigurationError, match=r"charge.*has ordering=") as caught:
        router.check_workers(2)
    assert "run one worker" in str(caught.value)
