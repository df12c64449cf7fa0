"""I11: the content of messages is in no log, repr, event or exception of Penstock.

Payloads, keys, headers and handlers' exceptions contain canaries, with characters that
would end a line or color it. tests/connection/test_secrets.py tests passwords.
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


class Boom(Exception):  # noqa: N818 - raised by handlers
    """The exception of a handler, which quotes the message."""


class Output:
    """Everything that was put out: reprs, exceptions, events and logs."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.texts: list[str] = []
        self.events: list[Event] = []
        self._caplog = caplog

    def hook(self, event: Event) -> None:
        self.events.append(event)
        log_event(event)

    def add_reprs(self, *things: object) -> None:
        self.texts += [repr(thing) for thing in things]
        self.texts += [str(thing) for thing in things]

    def add_exception(self, error: BaseException) -> None:
        """Add an exception of Penstock, with its causes."""
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
def output(caplog: pytest.LogCaptureFixture) -> Iterator[Output]:
    """Provide the output; in the end, check that it contains no canary."""
    for name in ("penstock", "redis", "asyncio", ""):
        caplog.set_level(logging.DEBUG, name or None)
    output = Output(caplog)
    yield output
    found = output.all()
    assert found
    assert not [text for text in found if "canary" in text.lower()]
    assert not [text for text in found if "\x1b" in text or "\x00" in text]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_messages_and_their_handlers_do_not_leak(
    url: str, stream: str, redis: Any, output: Output, *, in_thread: bool
) -> None:
    async with Producer(url, on_event=output.hook) as producer:
        receipt = await producer.send(
            stream, HOSTILE, key=CANARY, headers={"h": CANARY}
        )
        outgoing = Outgoing(HOSTILE, key=CANARY, headers={"h": CANARY})
        outcomes = producer.send_many(stream, [outgoing])
        outlet = producer.to(stream)
        output.add_reprs(producer, receipt, outcomes, outlet, outgoing)
        await outcomes

    def fail(message: Message[bytes]) -> None:
        output.add_reprs(message, message.headers, consumer, consumer.statistics())
        raise Boom(message.payload.decode()) from ValueError(message.key)

    async def fail_here(message: Message[bytes]) -> None:
        fail(message)

    consumer = Consumer(
        stream,
        url=url,
        group="g",
        retry=Retry(max_attempts=2, backoff=[0.01]),
        on_event=output.hook,
    )
    async with running(consumer, fail if in_thread else fail_here):
        await eventually(lambda: _has_dead_letters(redis, stream, 2))
    assert any(isinstance(event.error, Boom) for event in output.events)
    async with Admin(url, on_event=output.hook) as operator:
        dead_letters = await operator.dead.list(stream)
        state = await operator.group_state(stream, "g")
        output.add_reprs(operator, dead_letters, state, operator.dead)
    # By design: the reason is stored beside the message.
    assert "canary" in dead_letters[0].reason
    assert "canary" in dead_letters[0].traceback
    async with replay(stream, url=url, payload=Fields) as messages:
        output.add_reprs(messages)
        async for message in messages:
            output.add_reprs(message, message.payload)


async def _has_dead_letters(redis: Any, stream: str, count: int) -> bool:
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
async def test_messages_that_cannot_be_decoded_do_not_leak(
    url: str, stream: str, redis: Any, output: Output, *, how: Any, body: bytes
) -> None:
    await redis.xadd(stream, {"msg": body, CANARY: CANARY, "key": CANARY})
    given: Any = {"url": url, "on_event": output.hook, **how}
    async with Consumer(stream, mode=REALTIME, start=EARLIEST, **given) as consumer:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await consumer.next()
    async with replay(stream, **given) as messages:
        async for message in messages:
            with pytest.raises(DecodeError) as undecodable:
                _ = message.payload
            output.add_exception(undecodable.value)
    async with Consumer(stream, group="g", **given) as consumer:
        assert await consumer.next(timeout=0.05) is None
    with pytest.raises(GaveUp) as stopped:
        async with Consumer(
            stream, group="h", dead_letters="stop", **given
        ) as consumer:
            await consumer.next()
    output.add_exception(stopped.value)
    assert [event for event in output.events if event.name == "gave_up"]


async def test_messages_that_cannot_be_encoded_do_not_leak(
    url: str, stream: str, output: Output
) -> None:
    async with Producer(url, codec=Quoting(), on_event=output.hook) as producer:
        with pytest.raises(PenstockError) as caught:
            await producer.send(stream, CANARY)
        output.texts.append(str(caught.value))
        [outcome] = await producer.send_many(stream, [CANARY])
        assert isinstance(outcome, PenstockError)
        output.texts.append(str(outcome))


@pytest.mark.parametrize("refused", ["a string", "a command", "an id"])
async def test_commands_that_the_server_refuses_do_not_leak(
    url: str, stream: str, redis: Any, output: Output, refused: str
) -> None:
    given: dict[str, Any] = {"key": CANARY, "headers": {"h": CANARY}}
    if refused == "a string":
        await redis.set(stream, HOSTILE)
    if refused == "an id":
        await redis.xadd(
            stream, {"msg": "x"}, id="18446744073709551615-18446744073709551615"
        )
    async with Producer(url, on_event=output.hook) as producer:
        if refused != "a command":
            with pytest.raises(PenstockError) as caught:
                await producer.send(stream, HOSTILE, **given)
            output.add_exception(caught.value)
    if refused != "a command":
        return
    await redis.xadd(stream, {"msg": HOSTILE})
    await redis.set(f"{stream}.text", "x")
    async with Consumer(stream, url=url, group="g", on_event=output.hook) as consumer:
        message = await consumer.next()
        for effect in (
            ("NONSENSE", f"{stream}.n", CANARY),
            ("HSET", f"{stream}.text", "f", CANARY),
        ):
            with pytest.raises(PenstockError) as caught:
                async with message.transaction() as tx:
                    tx.command(*effect, keys=[f"{stream}.text"])
                    output.add_reprs(tx)
            output.add_exception(caught.value)


@pytest.mark.parametrize("where", ["stream", "group", "name"])
async def test_names_with_control_characters_do_not_break_lines(
    url: str, stream: str, redis: Any, output: Output, where: str
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
    consumer = Consumer(key, url=url, payload=Order, on_event=output.hook, **names)
    async with consumer:
        output.add_reprs(consumer, *consumer.shards)
        assert await consumer.next(timeout=0.05) is None
        await redis.execute_command("XGROUP", "DESTROY", key, names["group"])
        await eventually(lambda: _recreated(output))
    for call in (
        admin.group_state(key, f"{names['group']}\n", url=url),
        admin.reset_group(f"{key}\n", "g", EARLIEST, url=url),
    ):
        with pytest.raises(PenstockError) as caught:
            await call
        output.add_exception(caught.value)
    assert any(event.name == "gave_up" for event in output.events)
    lines = [text for text in output.all() if "CRITICAL \x1b" in text]
    assert not lines


async def _recreated(output: Output) -> bool:
    return any(event.name == "group_recreated" for event in output.events)
