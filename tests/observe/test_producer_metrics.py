"""The metrics of producers: what they count is what has become of messages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import NotDurable, Producer, Router, SendFailed, SendUnknown
from penstock.observe import _numbers
from penstock.observe.metrics import Metrics
from support.events import Events
from support.metrics import by, value
from support.proxy import proxy
from support.waiting import eventually

SENT = "penstock_sent_total"
SECONDS = "penstock_send_seconds_count"


def registered(*things: Any) -> Metrics:
    metrics = Metrics()
    metrics.add(*things)
    return metrics


async def test_stored_messages_are_counted_by_stream_and_timed(
    url: str, stream: str, redis: Any
) -> None:
    other = f"{stream}.other"
    async with Producer(url) as producer:
        metrics = registered(producer)
        await producer.send(stream, b"x", key="a", headers={"b": "c"})
        await producer.send(stream, b"x", timeout=10)
        await producer.send_many(stream, [b"x"] * 50)
        await producer.to(other).send(b"x")
        for _ in range(10):
            await producer.enqueue(other, b"x")
        producer.enqueue_nowait(other, b"x")
        await producer.flush()
        expected = {(stream, "stored"): 52, (other, "stored"): 12}
        assert by(metrics, SENT, "stream", "outcome") == expected
        assert by(metrics, SECONDS, "stream") == {(stream,): 52, (other,): 12}
        assert await redis.xlen(stream) == 52
    assert by(metrics, SENT, "stream", "outcome") == expected, "they are kept"


async def test_refused_messages_are_counted_as_failed(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.set(stream, "no stream")
    async with Producer(url, on_event=events) as producer:
        metrics = registered(producer)
        with pytest.raises(SendFailed):
            await producer.send(stream, b"x")
        assert by(metrics, SENT, "outcome") == {("failed",): 1}
        assert value(metrics, SECONDS) == 0
        assert value(metrics, "penstock_events_total", event="send_failed") == 1


async def test_messages_on_too_few_replicas_are_counted_as_not_durable(
    url: str, stream: str, events: Events
) -> None:
    async with Producer(url, on_event=events) as producer:
        metrics = registered(producer)
        with pytest.raises(NotDurable):
            await producer.send(stream, b"x", replicas=1, timeout=0.2)
        assert by(metrics, SENT, "outcome") == {("not_durable",): 1}


async def test_messages_without_a_reply_are_counted_as_unknown_once(
    url: str, stream: str, events: Events
) -> None:
    async with proxy(url) as between:
        async with Producer(between.url, on_event=events) as producer:
            metrics = registered(producer)
            between.drop_replies = True
            with pytest.raises(SendUnknown):
                await producer.send(stream, b"x", timeout=0.1)
            waiting = await producer.enqueue(stream, b"x")
            between.drop_replies = False
            between.cut()
            with pytest.raises(SendUnknown):
                await waiting
            await producer.send(stream, b"x")
            found = by(metrics, SENT, "outcome")
            assert found == {("unknown",): 2, ("stored",): 1}
            assert by(metrics, "penstock_reconnects_total", "role") == {
                ("producer",): 1
            }


async def test_messages_that_are_never_written_are_counted_as_failed(
    url: str, stream: str, events: Events
) -> None:
    async with proxy(url) as between:
        options: dict[str, Any] = {"max_in_flight": 1, "max_messages": 2}
        async with Producer(between.url, on_event=events, **options) as producer:
            metrics = registered(producer)
            between.drop_replies = True
            first = await producer.enqueue(stream, b"x")
            await asyncio.sleep(0)
            late = producer.send(stream, b"x", timeout=0.1)
            full = producer.send(stream, b"x", timeout=0.1)
            outcomes = await asyncio.gather(late, full, return_exceptions=True)
            assert [type(each) for each in outcomes] == [SendFailed] * 2
            assert by(metrics, SENT, "outcome") == {("failed",): 2}
            assert value(metrics, "penstock_send_queue_messages") == 1
            assert (value(metrics, "penstock_send_queue_bytes") or 0) > 0
            between.drop_replies = False
            between.cut()
            await asyncio.wait([first])
            assert by(metrics, SENT, "outcome") == {("failed",): 2, ("unknown",): 1}


async def test_a_call_that_gives_up_waiting_is_counted_by_what_becomes_of_its_message(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        metrics = registered(producer)
        task = asyncio.create_task(producer.send(stream, b"x"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await producer.flush()
        assert by(metrics, SENT, "outcome") == {("stored",): 1}


async def test_an_outage_that_lasts_is_no_connection(
    url: str, stream: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(url) as between:
        async with Producer(between.url, on_event=events) as producer:
            metrics = registered(producer)
            assert value(metrics, "penstock_connected", role="producer") == 1
            await between.stop()

            async def is_lost() -> bool:
                return producer._meter.lost_for() > 0

            await eventually(is_lost)
            assert value(metrics, "penstock_connected", role="producer") == 1
            monkeypatch.setattr(_numbers, "LONGEST_SILENCE", 0)
            assert value(metrics, "penstock_connected", role="producer") == 0
            await between.start()
            await producer.send(stream, b"x")
            assert value(metrics, "penstock_connected", role="producer") == 1


async def test_the_producer_that_a_router_gives_its_handlers_counts_in_all_runs(
    url: str, stream: str
) -> None:
    router, metrics = Router(url), Metrics()
    metrics.add(router)

    @router.handler(stream, group="g")
    async def copy(payload: bytes, producer: Producer) -> None:
        await producer.send(f"{stream}-copy", payload)

    for run in (1, 2):
        async with router.running(), Producer(url) as other:
            await other.send(stream, b"x")

            async def is_counted(number: int = run) -> bool:
                return by(metrics, SENT, "outcome") == {("stored",): number}

            await eventually(is_counted)
    assert by(metrics, SENT, "stream") == {(f"{stream}-copy",): 2}
