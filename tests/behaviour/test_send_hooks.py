"""Functions of `on_send=` see each message before it is encoded, and its outcome."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from penstock import (
    BufferFull,
    ConfigurationError,
    Consumer,
    Message,
    Outgoing,
    Producer,
    Receipt,
    Router,
    SendFailed,
    SendUnknown,
    sync,
)
from penstock.outgoing import OnSend
from penstock.testing import RecordingProducer, Sent, deliver, message
from support.events import Events
from support.waiting import eventually

Outcome = Receipt | Exception
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


class Hook:
    """A hook that adds a header, and keeps what it sees and hears."""

    def __init__(self, name: str = "seen") -> None:
        self.name = name
        self.seen: list[Outgoing[Any]] = []
        self.heard: list[Outcome] = []

    def __call__(self, outgoing: Outgoing[Any]) -> Callable[[Outcome], None]:
        self.seen.append(outgoing)
        outgoing.headers[self.name] = WHO.get()
        return self.heard.append

    @property
    def kinds(self) -> list[type]:
        return [type(outcome) for outcome in self.heard]


@pytest.fixture
def hook() -> Hook:
    return Hook()


async def headers_in(redis: Any, stream: str) -> list[str]:
    return [f.get(b"seen", b"").decode() for _, f in await redis.xrange(stream)]


async def test_every_way_of_sending_calls_the_hooks(
    url: str, stream: str, redis: Any, hook: Hook
) -> None:
    WHO.set("caller")
    async with Producer(url, on_send=[hook]) as producer:
        receipt = await producer.send(stream, b"1", key="k", headers={"own": "x"})
        assert hook.heard == [receipt]
        await (await producer.enqueue(stream, b"2"))
        await producer.enqueue_nowait(stream, b"3")
        await producer.send_many(stream, [b"4", Outgoing(b"5", key="5")])
        await producer.to(stream).send(b"6")
    assert [each.payload for each in hook.seen] == [b"%d" % n for n in range(1, 7)]
    assert {each.stream for each in hook.seen} == {stream}
    assert hook.seen[0].key == "k"
    assert hook.kinds == [Receipt] * 6
    assert await headers_in(redis, stream) == ["caller"] * 6


async def test_an_outlet_adds_hooks_to_those_of_its_producer(
    url: str, stream: str, redis: Any
) -> None:
    first, second = Hook("first"), Hook("second")
    producer = Producer(url, on_send=[first])
    outlet = producer.to(stream, on_send=[second])
    async with producer:
        await outlet.send(b"1")
        await producer.send(stream, b"2")
    assert (len(first.heard), len(second.heard)) == (2, 1)
    assert list(second.seen[0].headers) == ["first", "second"]


async def test_what_a_caller_passes_is_not_changed(
    url: str, stream: str, hook: Hook
) -> None:
    own = {"own": "x"}
    one = Outgoing(b"1", headers=own)
    async with Producer(url, on_send=[hook]) as producer:
        await producer.send(stream, b"0", headers=own)
        await producer.send_many(stream, [one, one])
    assert own == one.headers == {"own": "x"}


async def test_messages_of_one_send_many_are_known_as_such(
    url: str, stream: str, hook: Hook
) -> None:
    ended: list[int] = []

    def note(outgoing: Outgoing[Any]) -> None:
        many = outgoing.many
        assert many is not None
        if many.count == 1:
            many.on_end(lambda: ended.append(many.count))

    async with Producer(url, on_send=[note]) as producer:
        await producer.send_many(stream, [b"1", b"2", object(), b"3"])
        assert ended == [4]


async def test_a_message_that_cannot_be_sent_is_heard_of(
    url: str, stream: str, hook: Hook
) -> None:
    async with Producer(url, on_send=[hook]) as producer:
        with pytest.raises(ConfigurationError):
            await producer.send(stream, object())
        outcomes = await producer.send_many(stream, [b"1", object(), b"2"])
    assert hook.kinds[0] is ConfigurationError
    assert [type(each) for each in outcomes][1] is ConfigurationError
    assert sorted(kind.__name__ for kind in hook.kinds[1:]) == [
        "ConfigurationError",
        "Receipt",
        "Receipt",
    ]


async def test_a_refusal_of_the_server_is_heard_of(
    url: str, stream: str, redis: Any, hook: Hook
) -> None:
    await redis.set(stream, "no stream")
    async with Producer(url, on_send=[hook]) as producer:
        with pytest.raises(SendFailed):
            await producer.send(stream, b"1")
        ticket = await producer.enqueue(stream, b"2")
        del ticket  # nobody waits for it
        await producer.flush()
    assert hook.kinds == [SendFailed, SendFailed]


async def test_a_cancelled_send_is_unknown_to_the_hook(
    url: str, stream: str, redis: Any, hook: Hook
) -> None:
    async with Producer(url, on_send=[hook]) as producer:
        task = asyncio.create_task(producer.send(stream, b"1"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await producer.flush()
    assert hook.kinds == [SendUnknown]
    assert await redis.xlen(stream) == 1


async def test_a_full_buffer_is_heard_of(url: str, stream: str, hook: Hook) -> None:
    async with Producer(url, on_send=[hook], max_messages=1, linger=60) as producer:
        first = producer.enqueue_nowait(stream, b"1")
        with pytest.raises(BufferFull):
            producer.enqueue_nowait(stream, b"2")
        await first
        await eventually(lambda: _true(len(hook.heard) == 2))
    assert set(hook.kinds) == {Receipt, BufferFull}


async def _true(value: bool) -> bool:  # noqa: FBT001
    return value


async def test_a_call_cancelled_while_it_waits_for_space_is_heard_of(
    url: str, stream: str, redis: Any, hook: Hook
) -> None:
    producer = Producer(url, on_send=[hook], max_messages=1, close_timeout=0.2)
    async with producer:
        await redis.client_pause(10_000)
        try:
            await producer.enqueue(stream, b"1")
            waiting = asyncio.create_task(producer.enqueue(stream, b"2"))
            late = asyncio.create_task(producer.send(stream, b"3", timeout=0.05))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(SendFailed, match="timeout"):
                await late
            closed = asyncio.create_task(producer.enqueue(stream, b"4"))
            await asyncio.sleep(0)
        finally:
            await redis.client_unpause()
            await redis.ping()
        await asyncio.wait([closed])
    found = {each.payload: each for each in hook.seen}
    assert set(found) == {b"1", b"2", b"3", b"4"}
    assert [
        str(e) for e in hook.heard if isinstance(e, SendFailed) and "CANC" in e.code
    ]
    assert len(hook.heard) == 4


async def test_a_hook_that_raises_is_reported_and_the_message_is_sent(
    url: str, stream: str, redis: Any, hook: Hook, events: Events
) -> None:
    def broken(outgoing: Outgoing[Any]) -> None:
        outgoing.headers["half"] = "added"
        raise KeyError("secret")

    async with Producer(url, on_send=[broken, hook], on_event=events) as producer:
        await producer.send(stream, b"1", headers={"own": "x"})
    [(_, fields)] = await redis.xrange(stream)
    assert fields == {b"msg": b"1", b"own": b"x", b"seen": b"nobody"}
    [event] = events.named("on_send_failed")
    assert event.facts["error"] == "KeyError"
    assert "broken" in event.facts["hook"]
    assert "secret" not in str(event)


async def test_what_hears_the_outcome_may_raise(
    url: str, stream: str, hook: Hook, events: Events
) -> None:
    def fail(outcome: Outcome) -> None:
        raise ValueError

    hooks: list[OnSend] = [lambda _: fail, hook]
    async with Producer(url, on_send=hooks, on_event=events) as producer:
        await producer.send(stream, b"1")
    assert hook.kinds == [Receipt]
    assert events.named("on_send_failed")[0].facts["error"] == "ValueError"


@pytest.mark.parametrize("hooks", [[5], print, [asyncio.sleep]])
def test_hooks_are_checked(hooks: Any) -> None:
    for make in (Producer, Router):
        with pytest.raises(ConfigurationError, match="on_send="):
            make("redis://localhost", on_send=hooks)
    with pytest.raises(ConfigurationError, match="on_send="):
        Producer("redis://localhost").to("orders", on_send=hooks)


async def test_outputs_of_a_transaction_call_the_hooks(
    url: str, stream: str, redis: Any, hook: Hook
) -> None:
    router = Router(url, on_send=[hook])
    target = f"{stream}.out"

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        if message.payload == b"raises" and message.attempt == 1:
            async with message.transaction() as tx:
                tx.send(target, b"lost")
                raise ValueError
        async with message.transaction() as tx:
            tx.send(target, b"kept")

    async with router.running():
        await redis.xadd(stream, {"msg": b"raises"})
        await eventually(lambda: _true(len(hook.heard) == 2))
    assert hook.kinds == [SendFailed, Receipt]
    assert await headers_in(redis, target) == ["nobody"]


async def test_a_transaction_that_is_not_applied_is_heard_of(
    url: str, stream: str, redis: Any, hook: Hook
) -> None:
    await redis.xadd(stream, {"msg": b"1"})
    async with Consumer(stream, url=url, group="g", on_send=[hook]) as consumer:
        got = await consumer.next()
        assert got is not None
        await redis.xack(stream, "g", str(got.id))
        async with got.transaction() as tx:
            tx.send(f"{stream}.out", b"2")
            with pytest.raises(ConfigurationError):
                tx.send(f"{stream}.out", object())
        assert tx.applied is False
    assert hook.kinds == [ConfigurationError, SendFailed]


async def test_a_recording_producer_calls_the_hooks(hook: Hook) -> None:
    producer = RecordingProducer(on_send=[hook])
    await producer.send("orders", b"1", key="k")
    await producer.to("orders").send(b"2")
    producer.enqueue_nowait("orders", b"3")
    assert producer.sent[0] == Sent("orders", b"1", "k", {"seen": "nobody"})
    assert hook.kinds[:2] == [Receipt, Receipt]
    producer.fail_next(BufferFull(1, 1))
    with pytest.raises(BufferFull):
        producer.enqueue_nowait("orders", b"4")
    producer.fail_next(SendFailed("orders", "OOM", "full"))
    with pytest.raises(SendFailed):
        await producer.send("orders", b"5")
    assert set(hook.kinds) == {Receipt, BufferFull, SendFailed}
    assert len(producer.sent) == 3


async def test_a_delivered_message_calls_the_hooks_of_its_router(hook: Hook) -> None:
    router = Router(on_send=[hook])

    @router.handler("orders", group="g")
    async def handle(message: Message[bytes]) -> None:
        async with message.transaction() as tx:
            tx.send("out", b"2")

    await deliver(router, "orders", b"1")
    assert hook.kinds == [Receipt]
    order = message(b"1")
    await handle(order)
    assert order.transactions[0].sent[0].headers == {}


def test_synchronous_code_sends_in_its_own_context(url: str, stream: str) -> None:
    hook = Hook()
    WHO.set("view")
    with sync.Producer(url, on_send=[hook]) as producer:
        producer.send(stream, b"1")
    assert hook.seen[0].headers == {"seen": "view"}
    WHO.set("nobody")
