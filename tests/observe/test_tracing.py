"""Traces: spans of sends and attempts, on a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from penstock import (
    DROP,
    Backoff,
    ConfigurationError,
    Consumer,
    Message,
    Outgoing,
    Producer,
    Retry,
    Router,
)
from penstock.admin import Admin
from penstock.observe.opentelemetry import Tracing
from penstock.testing import RecordingProducer, deliver
from support.events import Events
from support.waiting import eventually

FOREIGN = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
AT_ONCE = Retry(max_attempts=2, backoff=Backoff(first=0, jitter=0))


class Traces:
    """An SDK that keeps its spans in memory, and tracing that uses it."""

    def __init__(self, sampler: Any = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def tracing(self, **options: Any) -> Tracing:
        return Tracing(self.provider, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their beginning."""
        ended = self.exporter.get_finished_spans()
        return sorted(ended, key=lambda span: span.start_time or 0)

    async def until(self, count: int) -> list[ReadableSpan]:
        async def enough() -> bool:
            return len(self.spans) >= count

        await eventually(enough)
        assert len(self.spans) == count
        return self.spans


def identity(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan, spans: list[ReadableSpan]) -> str | None:
    """Return the name of a span's parent; None for a root."""
    if span.parent is None:
        return None
    return next(each.name for each in spans if identity(each) == span.parent.span_id)


@pytest.fixture
def traces() -> Iterator[Traces]:
    made = Traces()
    yield made
    made.provider.shutdown()


async def test_a_request_its_messages_retries_and_redrive_are_one_tree(
    url: str, stream: str, traces: Traces
) -> None:
    tracing, out = traces.tracing(), f"{stream}.out"
    router = Router(
        url, middleware=[tracing.handling], on_send=[tracing.sending], retry=AT_ONCE
    )
    mended = False

    @router.handler(stream, group="first")
    async def first(message: Message[bytes]) -> None:
        async with message.transaction() as tx:
            tx.send(out, b"second", key=message.key)

    @router.handler(out, group="second")
    async def second(message: Message[bytes]) -> None:
        if not mended:
            raise ValueError("a secret")

    async with Producer(url, on_send=[tracing.sending]) as producer, router.running():
        with traces.tracer.start_as_current_span("POST /orders", kind=SpanKind.SERVER):
            sent = await producer.send(stream, b"first", key="k")
        await traces.until(6)
        mended = True
        async with Admin(url) as admin:
            await admin.dead.redrive(out)
        spans = await traces.until(7)

    names = [(span.name, span.kind, parent_of(span, spans)) for span in spans]
    process = (f"process {out}", SpanKind.CONSUMER, f"send {out}")
    assert names == [
        ("POST /orders", SpanKind.SERVER, None),
        (f"send {stream}", SpanKind.PRODUCER, "POST /orders"),
        (f"process {stream}", SpanKind.CONSUMER, f"send {stream}"),
        (f"send {out}", SpanKind.PRODUCER, f"process {stream}"),
        process,
        process,
        process,
    ]
    assert len({trace_of(span) for span in spans}) == 1
    _, send, handled, output, failed, dead, redriven = spans
    sending = attributes_of(send)
    server = urlsplit(url)
    assert sending.pop("server.address") == (server.hostname or server.path)
    assert sending.pop("server.port", None) == server.port
    assert sending == {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": stream,
        "messaging.message.id": str(sent.id),
    }
    group = attributes_of(handled)
    assert group.pop("messaging.client.id")
    assert group.pop("server.address")
    group.pop("server.port", None)
    assert group == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": stream,
        "messaging.consumer.group.name": "first",
        "messaging.message.id": str(sent.id),
        "messaging.redis.message.delivery_attempt": 1,
    }
    assert attributes_of(output)["messaging.message.id"]
    assert attributes_of(output)["server.address"] == (server.hostname or server.path)
    for attempt, span in enumerate((failed, dead), 1):
        found = attributes_of(span)
        assert found["messaging.redis.message.delivery_attempt"] == attempt
        assert found["error.type"] == "ValueError"
        assert span.status.status_code is StatusCode.ERROR
        assert "secret" not in span.to_json()
    [retry], [letter] = failed.events, dead.events
    assert (retry.name, dict(retry.attributes or {})) == (
        "retry",
        {"messaging.redis.retry.delay": 0.0},
    )
    assert letter.name == "dead_lettered"
    assert redriven.status.status_code is StatusCode.UNSET


async def test_the_event_of_a_dead_letter_has_its_id(
    url: str, stream: str, redis: Any, traces: Traces
) -> None:
    tracing = traces.tracing()
    router = Router(url, middleware=[tracing.handling])

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        message.reject("a secret")

    await redis.xadd(stream, {"msg": b"1"})
    async with router.running():
        [span] = await traces.until(1)
    [(letter, _)] = await redis.xrange(f"{stream}.dead")
    [event] = span.events
    assert event.name == "dead_lettered"
    assert (event.attributes or {})["messaging.redis.dead_letter.id"] == letter.decode()
    assert attributes_of(span)["error.type"] == "rejected"
    assert "secret" not in span.to_json()
    assert span.parent is None


async def test_a_nack_is_a_failed_attempt(
    url: str, stream: str, redis: Any, traces: Traces
) -> None:
    tracing = traces.tracing()
    router = Router(url, middleware=[tracing.handling])

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        if message.attempt == 1:
            message.nack(delay=0)

    await redis.xadd(stream, {"msg": b"1"})
    async with router.running():
        first, second = await traces.until(2)
    assert [event.name for event in first.events] == ["retry"]
    assert first.status.status_code is StatusCode.ERROR
    assert not second.events


async def test_a_handler_that_takes_too_long_has_a_timeout(
    url: str, stream: str, redis: Any, traces: Traces
) -> None:
    tracing = traces.tracing()
    retry = Retry(max_attempts=1, timeout=0.02)
    router = Router(url, middleware=[tracing.handling], retry=retry, dead_letters=DROP)

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        await asyncio.sleep(60)

    await redis.xadd(stream, {"msg": b"1"})
    async with router.running():
        [span] = await traces.until(1)
    assert attributes_of(span)["error.type"] == "TimeoutError"
    assert [event.name for event in span.events] == ["dropped"]


async def test_texts_of_exceptions_are_recorded_only_if_asked_for(
    url: str, stream: str, redis: Any, traces: Traces
) -> None:
    tracing = traces.tracing(record_exceptions=True)
    router = Router(url, middleware=[tracing.handling], retry=Retry(max_attempts=1))

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        raise ValueError("the text")

    await redis.xadd(stream, {"msg": b"1"})
    async with router.running():
        [span] = await traces.until(1)
    assert {event.name for event in span.events} == {"exception", "dead_lettered"}
    assert "the text" in span.to_json()


async def test_an_exception_that_middleware_keeps_ends_the_span(
    url: str, stream: str, redis: Any, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock._tasks.handling.attempt_watches._PATIENCE", 0.01)
    tracing = traces.tracing()

    async def keeps(message: Any, call: Any) -> None:
        with pytest.raises(ValueError, match="kept"):
            await call(message)

    router = Router(url, middleware=[keeps, tracing.handling])

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        raise ValueError("kept")

    await redis.xadd(stream, {"msg": b"1"})
    async with router.running():
        [span] = await traces.until(1)
    assert attributes_of(span)["error.type"] == "ValueError"
    assert not span.events


async def test_parent_link_begins_a_trace_of_its_own(
    url: str, stream: str, traces: Traces
) -> None:
    tracing = traces.tracing(parent="link")
    router = Router(url, middleware=[tracing.handling])

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None: ...

    async with router.running():
        async with Producer(url, on_send=[tracing.sending]) as producer:
            await producer.send(stream, b"1")
        send, process = await traces.until(2)
    assert process.parent is None
    assert trace_of(process) != trace_of(send)
    assert [link.context.span_id for link in process.links] == [identity(send)]


async def test_a_batch_is_linked_to_the_sends_of_its_messages(
    url: str, stream: str, traces: Traces
) -> None:
    tracing = traces.tracing()
    router = Router(url, middleware=[tracing.handling])
    async with Producer(url, on_send=[tracing.sending]) as producer:
        receipts = [await producer.send(stream, b"%d" % n) for n in range(3)]

    @router.handler(stream, group="g", batch=3)
    async def handle(messages: list[Message[bytes]]) -> None:
        raise ValueError

    async with router.running():
        *sends, process = await traces.until(4)
    assert process.name == f"process {stream}"
    assert process.parent is None
    assert attributes_of(process)["messaging.batch.message_count"] == 3
    linked = [
        (link.context.span_id, (link.attributes or {})["messaging.message.id"])
        for link in process.links
    ]
    assert linked == [
        (identity(send), str(receipt.id))
        for send, receipt in zip(sends, receipts, strict=True)
    ]
    assert [event.name for event in process.events] == ["retry"] * 3
    assert {
        (event.attributes or {})["messaging.message.id"] for event in process.events
    } == {str(receipt.id) for receipt in receipts}


async def test_a_send_many_has_one_span_which_knows_of_failures(
    url: str, stream: str, redis: Any, traces: Traces
) -> None:
    tracing = traces.tracing()
    async with Producer(url, on_send=[tracing.sending]) as producer:
        with traces.tracer.start_as_current_span("job"):
            await producer.send_many(stream, [b"1", object(), b"2"])
        await producer.send_many(stream, [b"3"])
    job, failed, whole = traces.spans
    assert failed.parent is not None
    assert failed.parent.span_id == identity(job)
    assert attributes_of(failed)["messaging.batch.message_count"] == 3
    assert attributes_of(failed)["error.type"] == "ConfigurationError"
    assert whole.status.status_code is StatusCode.UNSET
    headers = [fields[b"traceparent"] for _, fields in await redis.xrange(stream)]
    assert [int(each.split(b"-")[2], 16) for each in headers] == [
        identity(failed),
        identity(failed),
        identity(whole),
    ]


async def test_create_spans_makes_one_for_each_message_of_a_send_many(
    url: str, stream: str, redis: Any, traces: Traces
) -> None:
    tracing = traces.tracing(create_spans=True)
    async with Producer(url, on_send=[tracing.sending]) as producer:
        await producer.send_many(stream, [b"1", b"2"])
    batch, *created = traces.spans
    assert (batch.name, batch.kind) == (f"send {stream}", SpanKind.CLIENT)
    assert [span.name for span in created] == [f"create {stream}"] * 2
    assert [link.context.span_id for link in batch.links] == [*map(identity, created)]
    headers = [fields[b"traceparent"] for _, fields in await redis.xrange(stream)]
    parents = [int(each.split(b"-")[2], 16) for each in headers]
    assert parents == [*map(identity, created)]


async def test_a_foreign_context_is_left_alone_and_continued(
    url: str, stream: str, redis: Any, traces: Traces
) -> None:
    tracing = traces.tracing()
    own = {"traceparent": FOREIGN, "tracestate": "their=1"}
    async with Producer(url, on_send=[tracing.sending]) as producer:
        await producer.send(stream, b"1", headers=own)
    [(_, fields)] = await redis.xrange(stream)
    assert fields[b"traceparent"].decode() == FOREIGN
    assert fields[b"tracestate"] == b"their=1"
    router = Router(url, middleware=[tracing.handling])

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None: ...

    async with router.running():
        _, process = await traces.until(2)
    assert process.parent is not None
    assert f"{process.parent.trace_id:032x}-{process.parent.span_id:016x}" in FOREIGN


async def test_only_a_foreign_traceparent_gets_no_tracestate_of_ours(
    url: str, stream: str, traces: Traces
) -> None:
    tracing = traces.tracing()
    message = Outgoing(b"1", headers={"traceparent": FOREIGN}, stream=stream)
    ours = trace.SpanContext(
        *(1, 2, False, trace.TraceFlags(1), trace.TraceState([("ours", "1")])),
    )
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(ours)))
    try:
        tracing.sending(message)
        plain = Outgoing(b"2", stream=stream)
        tracing.sending(plain)
    finally:
        context.detach(token)
    assert plain.headers["tracestate"] == "ours=1"
    assert message.headers == {"traceparent": FOREIGN}


async def test_the_span_of_an_attempt_is_current_in_the_handler_and_its_tasks(
    url: str, stream: str, traces: Traces
) -> None:
    tracing = traces.tracing()
    router = Router(url, middleware=[tracing.handling])

    async def child() -> None:
        with traces.tracer.start_as_current_span("task"):
            await asyncio.sleep(0)

    @router.handler(stream, group="async")
    async def with_tasks(message: Message[bytes]) -> None:
        assert baggage.get_baggage("tenant") == "7"
        task = asyncio.create_task(child())
        await asyncio.to_thread(work, "thread of its own")
        await task

    def work(name: str) -> None:
        with traces.tracer.start_as_current_span(name):
            pass

    @router.handler(stream, group="sync")
    def in_thread(message: Message[bytes]) -> None:
        work("handler in a thread")

    async with router.running(), Producer(url, on_send=[tracing.sending]) as producer:
        token = context.attach(baggage.set_baggage("tenant", "7"))
        await producer.send(stream, b"1")
        context.detach(token)
        spans = await traces.until(6)
    parents = {span.name: parent_of(span, spans) for span in spans}
    for name in ("task", "thread of its own", "handler in a thread"):
        assert parents[name] == f"process {stream}"
    assert len({trace_of(span) for span in spans}) == 1


async def test_a_worker_goes_on_with_a_clean_context(
    url: str, stream: str, redis: Any, traces: Traces, events: Events
) -> None:
    tracing = traces.tracing()
    router = Router(url, middleware=[tracing.handling], on_event=events)
    tasks = set()

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        tasks.add(asyncio.current_task())

    for number in range(20):
        await redis.xadd(stream, {"msg": b"%d" % number})
    with traces.tracer.start_as_current_span("start-up"):
        async with router.running():
            spans = await traces.until(20)
    assert all(span.parent is None for span in spans)
    assert len(tasks) == 1


async def test_a_loop_makes_spans_where_it_asks_for_them(
    url: str, stream: str, traces: Traces
) -> None:
    tracing = traces.tracing()
    async with (
        Consumer(stream, url=url, group="g") as consumer,
        Producer(url, on_send=[tracing.sending]) as producer,
    ):
        await producer.send(stream, b"1")
        message = await consumer.next()
        assert message is not None
        with tracing.processing(message) as span:
            assert trace.get_current_span() is span
        with pytest.raises(KeyError), tracing.processing(message):
            raise KeyError
        with tracing.processing([message]):
            pass
        with pytest.raises(ConfigurationError), tracing.processing([]):
            pass
    send, whole, failed, batch = traces.spans
    assert whole.parent is not None
    assert failed.parent is not None
    assert whole.parent.span_id == failed.parent.span_id == identity(send)
    assert attributes_of(failed)["error.type"] == "KeyError"
    assert [link.context.span_id for link in batch.links] == [identity(send)]


async def test_a_cancelled_send_ends_its_span(
    url: str, stream: str, traces: Traces
) -> None:
    tracing = traces.tracing()
    async with Producer(url, on_send=[tracing.sending]) as producer:
        task = asyncio.create_task(producer.send(stream, b"1"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await producer.enqueue(stream, b"2")  # its future is dropped
    cancelled, dropped = traces.spans
    assert attributes_of(cancelled)["error.type"] == "SendUnknown"
    assert attributes_of(dropped)["messaging.message.id"]


async def test_a_trace_that_is_not_sampled_is_passed_on(
    url: str, stream: str, redis: Any
) -> None:
    traces = Traces(ALWAYS_OFF)
    tracing = traces.tracing()
    router = Router(url, middleware=[tracing.handling], on_send=[tracing.sending])

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        async with message.transaction() as tx:
            tx.send(f"{stream}.out", b"2")

    async def has_output() -> bool:
        return bool(await redis.xlen(f"{stream}.out"))

    async with router.running(), Producer(url, on_send=[tracing.sending]) as producer:
        await producer.send(stream, b"1")
        await eventually(has_output)
    [(_, sent)] = await redis.xrange(stream)
    [(_, output)] = await redis.xrange(f"{stream}.out")
    assert not int(sent[b"traceparent"].split(b"-")[3], 16) & 1  # not sampled
    assert output[b"traceparent"].split(b"-")[1] == sent[b"traceparent"].split(b"-")[1]
    assert not traces.spans


async def test_without_an_sdk_no_header_is_written() -> None:
    tracing = Tracing()
    producer = RecordingProducer(on_send=[tracing.sending])
    await producer.send("orders", b"1")
    assert producer.sent[0].headers == {}


async def test_delivering_in_a_test_makes_the_spans_of_the_router(
    traces: Traces,
) -> None:
    tracing = traces.tracing()
    producer = RecordingProducer(on_send=[tracing.sending])
    router = Router(middleware=[tracing.handling], retry=Retry(max_attempts=1))

    @router.handler("orders", group="g")
    async def handle(message: Message[bytes]) -> None:
        raise ValueError

    await producer.send("orders", b"1")
    [sent] = producer.sent
    await deliver(router, "orders", b"1", headers=sent.headers, catch=True)
    send, process = traces.spans
    assert process.parent is not None
    assert process.parent.span_id == identity(send)
    assert [event.name for event in process.events] == ["dead_lettered"]


def test_a_parent_is_checked() -> None:
    wrong: Any = "messages"
    with pytest.raises(ConfigurationError, match="'message' or 'link'"):
        Tracing(parent=wrong)


def test_the_names_are_those_of_the_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import (
        error_attributes,
        messaging_attributes,
        server_attributes,
    )

    from penstock.observe import _semantic_conventions as names

    known: set[str] = set()
    for module in (error_attributes, messaging_attributes, server_attributes):
        known |= {value for value in vars(module).values() if isinstance(value, str)}
    types = {each.value for each in messaging_attributes.MessagingOperationTypeValues}
    ours = {names.DELIVERY_ATTEMPT, names.RETRY_DELAY, names.LETTER_ID, names.REDIS}
    for name, value in vars(names).items():
        if name.isupper() and value not in ours:
            assert value in known | types, name
    assert not ours & known


def test_without_the_extra_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from penstock.observe.opentelemetry import Tracing\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        "ModuleNotFoundError: tracing needs opentelemetry-api, which is not installed; "
        "install it with: pip install 'penstock[otel]'\n"
    )
