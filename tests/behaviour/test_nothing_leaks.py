"""I11: what passes through is in no log, repr, event or exception of Penstock's.

Canaries lie in payloads, keys, headers and handlers' exceptions, with what would end a
line or paint it. Passwords are the matter of tests/connection/test_secrets.py.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from penstock import (
    EARLIEST,
    REALTIME,
    Consumer,
    DecodeError,
    Fields,
    GaveUp,
    Message,
    Outgoing,
    PenstockError,
    Producer,
    Retry,
    admin,
    replay,
)
from penstock.admin import Admin
from penstock.events import Event, log_event
from support.failing import running
from support.waiting import eventually

CANARY = "canary\r\n\x1b[31m\x00\u202e"
HOSTILE = CANARY.encode()


class Boom(Exception):  # noqa: N818 - what handlers say
    """A handler's, which quotes what it was given."""


class Told:
    """What has been told, of all kinds."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.texts: list[str] = []
        self.events: list[Event] = []
        self._caplog = caplog

    def hook(self, event: Event) -> None:
        self.events.append(event)
        log_event(event)

    def repr_of(self, *things: object) -> None:
        self.texts += [repr(thing) for thing in things]
        self.texts += [str(thing) for thing in things]

    def raised(self, error: BaseException) -> None:
        """Take an exception of ours: all that it and those behind it can tell."""
        assert isinstance(error, PenstockError)
        self.texts += [str(error), repr(error)]
        self.texts.append("".join(traceback.format_exception(error)))

    def all(self) -> list[str]:
        for event in self.events:
            self.texts += [str(event), repr(event), repr(dict(event.facts))]
        logs = [record.getMessage() for record in self._caplog.records]
        assert all(text.isprintable() for text in logs)
        logs += [self._caplog.text]
        return [*self.texts, *logs]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    """In the end nothing that was told has a canary."""
    for name in ("penstock", "redis", "asyncio", ""):
        caplog.set_level(logging.DEBUG, name or None)
    told = Told(caplog)
    yield told
    found = told.all()
    assert found
    assert not [text for text in found if "canary" in text.lower()]
    assert not [text for text in found if "\x1b" in text or "\x00" in text]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_of_messages_and_what_handles_them(
    url: str, stream: str, redis: Any, told: Told, *, in_thread: bool
) -> None:
    async with Producer(url, on_event=told.hook) as producer:
        receipt = await producer.send(
            stream, HOSTILE, key=CANARY, headers={"h": CANARY}
        )
        outgoing = Outgoing(HOSTILE, key=CANARY, headers={"h": CANARY})
        outcomes = producer.send_many(stream, [outgoing])
        outlet = producer.to(stream)
        told.repr_of(producer, receipt, outcomes, outlet, outgoing)
        await outcomes

    def fail(message: Message[bytes]) -> None:
        told.repr_of(message, message.headers, consumer, consumer.statistics())
        raise Boom(message.payload.decode()) from ValueError(message.key)

    async def fail_here(message: Message[bytes]) -> None:
        fail(message)

    consumer = Consumer(
        stream,
        url=url,
        group="g",
        retry=Retry(max_attempts=2, backoff=[0.01]),
        on_event=told.hook,
    )
    async with running(consumer, fail if in_thread else fail_here):
        await eventually(lambda: _buried(redis, stream, 2))
    assert any(isinstance(event.error, Boom) for event in told.events)
    async with Admin(url, on_event=told.hook) as operator:
        letters = await operator.dead.list(stream)
        state = await operator.group_state(stream, "g")
        told.repr_of(operator, letters, state, operator.dead)
    # By design: it lies beside the message.
    assert "canary" in letters[0].reason
    assert "canary" in letters[0].traceback
    async with replay(stream, url=url, payload=Fields) as messages:
        told.repr_of(messages)
        async for message in messages:
            told.repr_of(message, message.payload)


async def _buried(redis: Any, stream: str, count: int) -> bool:
    return bool(await redis.xlen(f"{stream}.dead") == count)


class Order(msgspec.Struct):
    id: int


class Quoting:
    """A codec whose exceptions quote what they are given."""

    content_type = "text/plain"

    def encode(self, value: object) -> bytes:
        raise ValueError(f"no {value}")

    def decode(self, data: bytes) -> object:
        raise ValueError(f"no {data.decode()}")


@pytest.mark.parametrize("how", [{"payload": Order}, {"codec": Quoting()}])
@pytest.mark.parametrize("body", [HOSTILE, b'{"id":"%b"}' % b"canary", b'{"canary'])
async def test_of_what_cannot_be_decoded(
    url: str, stream: str, redis: Any, told: Told, *, how: Any, body: bytes
) -> None:
    await redis.xadd(stream, {"msg": body, CANARY: CANARY, "key": CANARY})
    given: Any = {"url": url, "on_event": told.hook, **how}
    async with Consumer(stream, mode=REALTIME, start=EARLIEST, **given) as consumer:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await consumer.next()
    async with replay(stream, **given) as messages:
        async for message in messages:
            with pytest.raises(DecodeError) as undecodable:
                _ = message.payload
            told.raised(undecodable.value)
    async with Consumer(stream, group="g", **given) as consumer:
        assert await consumer.next(timeout=0.05) is None
    with pytest.raises(GaveUp) as stopped:
        async with Consumer(
            stream, group="h", dead_letters="stop", **given
        ) as consumer:
            await consumer.next()
    told.raised(stopped.value)
    assert [event for event in told.events if event.name == "gave_up"]


async def test_of_what_cannot_be_encoded(url: str, stream: str, told: Told) -> None:
    async with Producer(url, codec=Quoting(), on_event=told.hook) as producer:
        with pytest.raises(PenstockError) as caught:
            await producer.send(stream, CANARY)
        told.texts.append(str(caught.value))
        [outcome] = await producer.send_many(stream, [CANARY])
        assert isinstance(outcome, PenstockError)
        told.texts.append(str(outcome))


@pytest.mark.parametrize("refused", ["a string", "a command", "an id"])
async def test_of_what_a_server_refuses(
    url: str, stream: str, redis: Any, told: Told, refused: str
) -> None:
    given: dict[str, Any] = {"key": CANARY, "headers": {"h": CANARY}}
    if refused == "a string":
        await redis.set(stream, HOSTILE)
    if refused == "an id":
        await redis.xadd(
            stream, {"msg": "x"}, id="18446744073709551615-18446744073709551615"
        )
    async with Producer(url, on_event=told.hook) as producer:
        if refused != "a command":
            with pytest.raises(PenstockError) as caught:
                await producer.send(stream, HOSTILE, **given)
            told.raised(caught.value)
    if refused != "a command":
        return
    await redis.xadd(stream, {"msg": HOSTILE})
    await redis.set(f"{stream}.text", "x")
    async with Consumer(stream, url=url, group="g", on_event=told.hook) as consumer:
        message = await consumer.next()
        for effect in (
            ("NONSENSE", f"{stream}.n", CANARY),
            ("HSET", f"{stream}.text", "f", CANARY),
        ):
            with pytest.raises(PenstockError) as caught:
                async with message.transaction() as tx:
                    tx.command(*effect, keys=[f"{stream}.text"])
                    told.repr_of(tx)
            told.raised(caught.value)


@pytest.mark.parametrize("where", ["stream", "group", "name"])
async def test_names_with_control_characters_end_no_line(
    url: str, stream: str, redis: Any, told: Told, where: str
) -> None:
    hostile = f"{stream}\r\nCRITICAL \x1b[31m\x00"
    names: dict[str, Any] = {
        "stream": stream,
        "group": "g",
        "name": "n",
        where: hostile,
    }
    key = names.pop("stream")
    await redis.xadd(key, {"msg": "not json"})
    consumer = Consumer(key, url=url, payload=Order, on_event=told.hook, **names)
    async with consumer:
        told.repr_of(consumer, *consumer.shards)
        assert await consumer.next(timeout=0.05) is None
        await redis.execute_command("XGROUP", "DESTROY", key, names["group"])
        await eventually(lambda: _recreated(told))
    for call in (
        admin.group_state(key, f"{names['group']}\n", url=url),
        admin.reset_group(f"{key}\n", "g", EARLIEST, url=url),
    ):
        with pytest.raises(PenstockError) as caught:
            await call
        told.raised(caught.value)
    assert any(event.name == "gave_up" for event in told.events)
    lines = [text for text in told.all() if "CRITICAL \x1b" in text]
    assert not lines


async def _recreated(told: Told) -> bool:
    return any(event.name == "group_recreated" for event in told.events)
