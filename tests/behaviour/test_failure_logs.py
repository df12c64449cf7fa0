"""The log of failing handlers and of connections: found from the log alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from penstock import Consumer, Message, Producer, Retry, Router
from penstock.embedded import EmbeddedServer
from support.events import Events
from support.failing import running
from support.server import free_port
from support.waiting import eventually, send

HERE = "behaviour/test_failure_logs.py:"


async def fails(message: Message[bytes]) -> None:
    raise KeyError("canary")


async def misuses(message: Message[bytes]) -> None:
    message.nack(-1)


async def takes_too_long(message: Message[bytes]) -> None:
    await asyncio.sleep(30)


fails_too: Any = lambda message: fails(message)  # noqa: E731, PLW0108


class Service:
    async def handle(self, message: Message[bytes]) -> None:
        raise ValueError("canary")


async def logged(
    url: str, stream: str, handler: Any, caplog: pytest.LogCaptureFixture, **retry: Any
) -> list[Any]:
    """Return the log records of a handler that fails twice."""
    await send(url, stream, 5)
    consumer = Consumer(
        stream, url=url, group="g", retry=Retry(2, backoff=[0.01], **retry)
    )

    def found() -> list[Any]:
        return [
            r for r in caplog.records if getattr(r, "event", "") == "handler_failed"
        ]

    async def twice() -> bool:
        return len(found()) == 2

    async with running(consumer, handler):
        await eventually(twice)
    return found()


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (fails, "fails"),
        (Service().handle, "Service.handle"),
        (fails_too, "<lambda>"),
    ],
)
async def test_a_failing_handler_is_found_by_the_log_alone(
    url: str, stream: str, caplog: pytest.LogCaptureFixture, handler: Any, name: str
) -> None:
    first, last = await logged(url, stream, handler, caplog)
    assert first.facts["handler"] == f"{__name__}.{name}"
    assert first.facts["at"].startswith(HERE)
    assert first.facts["stream"] == stream
    assert f"handler={__name__}.{name} " in first.getMessage()
    # The traceback comes with the last attempt, and has no texts.
    form = logging.Formatter("%(message)s")
    assert "\n" not in form.format(first)
    frames = form.format(last).splitlines()
    assert frames[1].startswith(f'  File "{__file__}", line ')
    assert frames[-1] in {"KeyError", "ValueError"}
    assert last.levelno == logging.ERROR
    assert "canary" not in form.format(first) + form.format(last)
    assert last.exc_info is None


async def test_a_timeout_is_located_where_the_handler_was(
    url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = await logged(url, stream, takes_too_long, caplog, timeout=0.1)
    assert first.facts["at"].startswith(HERE)
    assert first.facts["error"] == "TimeoutError"


async def test_a_misuse_in_a_handler_is_logged_with_penstock_s_own_text(
    url: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its place is the line of the handler, and not one of Penstock's files."""
    first, _ = await logged(url, stream, misuses, caplog)
    assert first.facts["at"].startswith(HERE)
    assert first.facts["text"]
    assert f"text={first.facts['text']}" in first.getMessage()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("never", [False, False]), ("last", [False, True]), ("always", [True, True])],
)
async def test_when_tracebacks_are_logged_can_be_chosen(
    url: str,
    stream: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    value: str,
    expected: list[bool],
) -> None:
    monkeypatch.setenv("PENSTOCK_TRACEBACKS", value)
    records = await logged(url, stream, fails, caplog)
    assert [bool(record.exc_text) for record in records] == expected


async def test_texts_of_exceptions_are_logged_on_request(
    url: str,
    stream: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_LOG_ERRORS", "1")
    first, last = await logged(url, stream, fails, caplog)
    assert "text='canary" in first.getMessage().replace('"', "'")
    assert "canary" in last.exc_text


@pytest.mark.parametrize("sync", [False, True])
async def test_a_router_names_the_handler_of_the_event(
    url: str, stream: str, events: Events, *, sync: bool
) -> None:
    router = Router(url, on_event=events, retry=Retry(1))

    def fail(payload: bytes) -> None:
        raise ValueError

    async def first(payload: bytes) -> None:
        fail(payload)

    async def second(payload: bytes) -> None:
        fail(payload)

    def first_sync(payload: bytes) -> None:
        fail(payload)

    def second_sync(payload: bytes) -> None:
        fail(payload)

    of_a, of_b = (first_sync, second_sync) if sync else (first, second)
    router.handler(stream, group="g", event="a")(of_a)
    router.handler(stream, group="g", event="b")(of_b)

    @router.handler(stream, group="all")
    async def every(payload: bytes) -> None:
        raise ValueError

    async def failed() -> bool:
        return len(events.named("handler_failed")) == 4

    async with router.running(), Producer(url) as producer:
        for kind in ("a", "b"):
            await producer.send(stream, b"x", headers={"type": kind})
        await eventually(failed)
    names = [str(event.facts["handler"]) for event in events.named("handler_failed")]
    short = sorted(name.rpartition(".")[2] for name in names)
    assert short == sorted(["every", "every", of_a.__name__, of_b.__name__])
    places = {str(event.facts["at"]) for event in events.named("handler_failed")}
    assert all(place.startswith(HERE) for place in places)


async def test_a_middleware_of_a_handler_does_not_hide_its_name(
    url: str, stream: str, events: Events
) -> None:
    async def around(message: Any, call: Any) -> None:
        await call(message)

    router = Router(url, on_event=events, retry=Retry(1), middleware=[around])

    @router.handler(stream, group="g")
    async def charge(payload: bytes) -> None:
        raise ValueError

    async def failed() -> bool:
        return bool(events.named("handler_failed"))

    await send(url, stream, 5)
    async with router.running():
        await eventually(failed)
    [event] = events.named("handler_failed")
    assert str(event.facts["handler"]).endswith(".charge")


async def test_a_lost_connection_says_whose_it_is(stream: str) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    events, others = Events(), Events()
    with EmbeddedServer(port=port):
        consumer = Consumer(
            stream, url=url, group="g", name="me", on_event=events, close_timeout=0
        )
        producer = Producer(url, on_event=others, close_timeout=0)
        await consumer.start()
        await producer.start()
    # A producer that has nothing to send need not notice.
    queued = producer.enqueue_nowait(stream, b"x")

    async def lost() -> bool:
        return all(each.named("connection_lost") for each in (events, others))

    await eventually(lost)
    [event] = events.named("connection_lost")
    assert event.facts["client"] == "consumer"
    assert event.facts["streams"] == (stream,)
    assert event.facts["group"] == "g"
    assert event.facts["consumer"] == "me"
    [other] = others.named("connection_lost")
    assert other.facts["client"] == "producer"
    queued.cancel()
    await producer.aclose()
    await consumer.aclose()
