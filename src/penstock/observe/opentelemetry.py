"""Traces for OpenTelemetry; needs the extra `otel`.

See docs/how-to/tracing.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from penstock._core.ledger.failure_policy import Disposition
from penstock._version import __version__
from penstock.errors import ConfigurationError
from penstock.message import Message, Receipt
from penstock.middleware import Call
from penstock.observe import _semantic_conventions as names
from penstock.observe._span_ending import SpanEnding
from penstock.outgoing import ManyMessages, OnOutcome, Outgoing

try:
    from opentelemetry import context, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import (
        Link,
        Span,
        SpanKind,
        StatusCode,
        TracerProvider,
        set_span_in_context,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tracing needs opentelemetry-api, which is not installed; "
        "install it with: pip install 'penstock[otel]'",
        name=error.name,
    ) from None

__all__ = ["Tracing"]

_Messages: TypeAlias = Sequence[Message[Any]]
_Attributes: TypeAlias = dict[str, str | int]

# The most links of a span, as the SDK has it by default.
_MAX_LINKS: Final = 128
# Does not depend on what the caller sends or on where a message comes from.
_ALWAYS: Final[_Attributes] = {names.SYSTEM: names.REDIS}
# A header of these is independent of the others that a propagator writes.
_INDEPENDENT: Final = frozenset(("baggage",))


class Tracing:
    """Makes spans for the messages of producers and routers.

    Nothing is traced but what its parts are passed to: `sending` to `on_send=`, which
    makes the spans of sends and writes the context into the messages' headers;
    `handling` to `middleware=`, which makes a span for each attempt of a handler; and
    `processing` is called in loops.

    Args:
        tracer_provider: Makes the spans; default: the global provider.
        propagator: Writes the context into headers and reads it; default: the global
            propagator, which by default has the headers `traceparent`, `tracestate` and
            `baggage`.
        parent: Where the span of an attempt belongs. With `"message"` (default) it is a
            child of the span that sent the message. With `"link"` it begins a trace of
            its own, with a link to that span. Batches are always linked.
        create_spans: Whether each message of a `send_many` has a span of its own, to
            which the span of the call is linked; default: the call's span only.
        record_exceptions: Whether spans have the texts and tracebacks of exceptions,
            which may quote payloads; default: only their types.

    Raises:
        ConfigurationError: `parent` is neither of the two.

    Example:
        ```python
        from penstock.observe.opentelemetry import Tracing

        tracing = Tracing()
        producer = Producer("redis://localhost", on_send=[tracing.sending])
        router = Router(middleware=[tracing.handling], on_send=[tracing.sending])
        ```
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        propagator: TextMapPropagator | None = None,
        parent: Literal["message", "link"] = "message",
        *,
        create_spans: bool = False,
        record_exceptions: bool = False,
    ) -> None:
        if parent not in {"message", "link"}:
            raise ConfigurationError(
                f"parent={parent!r:.60} is invalid; pass 'message' or 'link'"
            )
        self._tracer = trace.get_tracer(
            "penstock", __version__, tracer_provider=tracer_provider
        )
        self._propagator = propagator
        self._links_only = parent == "link"
        self._create_spans = create_spans
        self._record_exceptions = record_exceptions
        # The last global propagator, and the headers that it uses.
        self._known: tuple[TextMapPropagator | None, frozenset[str]] = None, frozenset()
        self._batches: dict[ManyMessages, _SentBatch] = {}

    def sending(self, outgoing: Outgoing[Any]) -> OnOutcome | None:
        """Make the span of a message that is sent; pass this to `on_send=`.

        Headers that the caller has set are left as they are.
        """
        if outgoing.many is not None:
            return self._send_among(outgoing, outgoing.many)
        span = self._start_send(outgoing)
        self._inject(outgoing.headers, span)
        return partial(self._sent, span) if span.is_recording() else None

    def _start_send(
        self,
        outgoing: Outgoing[Any],
        kind: SpanKind = SpanKind.PRODUCER,
        name: str = names.SEND,
    ) -> Span:
        attributes = _attributes(name, outgoing.stream)
        if outgoing.server is not None:
            _add_server(attributes, *outgoing.server)
        return self._tracer.start_span(
            f"{name} {outgoing.stream}", kind=kind, attributes=attributes
        )

    def _sent(self, span: Span, outcome: Receipt | Exception) -> None:
        if isinstance(outcome, Receipt):
            span.set_attribute(names.MESSAGE_ID, str(outcome.id))
        else:
            self._fail(span, outcome)
        span.end()

    def _send_among(
        self, outgoing: Outgoing[Any], many: ManyMessages
    ) -> OnOutcome | None:
        batch = self._batches.get(many)
        if batch is None:
            kind = SpanKind.CLIENT if self._create_spans else SpanKind.PRODUCER
            batch = _SentBatch(self._start_send(outgoing, kind))
            self._batches[many] = batch
            many.on_end(partial(self._end_batch, many))
        if not self._create_spans:
            self._inject(outgoing.headers, batch.span)
            return batch.heard if batch.span.is_recording() else None
        span = self._start_send(outgoing, name=names.CREATE)
        self._inject(outgoing.headers, span)
        span.end()
        if many.count <= _MAX_LINKS:
            batch.span.add_link(span.get_span_context())
        return batch.heard

    def _end_batch(self, many: ManyMessages) -> None:
        batch = self._batches.pop(many)
        batch.span.set_attribute(names.BATCH_MESSAGE_COUNT, many.count)
        if batch.error is not None:
            self._fail(batch.span, batch.error)
        batch.span.end()

    async def handling(self, message: Any, call: Call[Any]) -> object:
        """Make the span of an attempt; pass this to `middleware=`.

        The span is the current one while the handler runs, and in the tasks that it
        starts. With a handler of batches, there is one span for the batch.
        """
        messages = message if isinstance(message, list) else [message]
        span, scope = self._start_process(messages, batch=messages is message)
        token = context.attach(scope)
        try:
            result = await call(message)
        except BaseException as error:
            context.detach(token)
            self._end_process(span, messages, error, messages)
            raise
        context.detach(token)
        refused = [each for each in messages if _disposition(each) is not None]
        self._end_process(span, messages, None, refused)
        return result

    @contextmanager
    def processing(self, message: Message[Any] | list[Message[Any]]) -> Iterator[Span]:
        """Make the span of a message, or of a batch, for the time of a block.

        It is for `async for`, `next`, `take` and `batches`, which make no spans.

        Example:
            ```python
            from penstock.observe.opentelemetry import Tracing

            tracing = Tracing()
            async with Consumer("orders", group="billing") as consumer:
                async for message in consumer:
                    with tracing.processing(message):
                        bill(message.payload)
            ```
        """
        messages = message if isinstance(message, list) else [message]
        span, scope = self._start_process(messages, batch=messages is message)
        token = context.attach(scope)
        failure: BaseException | None = None
        try:
            yield span
        except BaseException as error:
            failure = error
            raise
        finally:
            context.detach(token)
            refused = [each for each in messages if _disposition(each) is not None]
            self._end_process(span, messages, failure, refused)

    def _start_process(
        self, messages: _Messages, *, batch: bool
    ) -> tuple[Span, Context]:
        if not messages:
            raise ConfigurationError("there is no message; pass at least one")
        first = messages[0]
        attributes = _attributes(names.PROCESS, first.stream)
        _add_consumer(attributes, first)
        if batch:
            attributes[names.BATCH_MESSAGE_COUNT] = len(messages)
            scope, links = Context(), self._links(messages)
        else:
            _add_message(attributes, first)
            scope = self._extract(first)
            links = self._links(messages) if self._links_only else []
        span = self._tracer.start_span(
            f"{names.PROCESS} {first.stream}",
            context=Context() if self._links_only else scope,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
        )
        return span, set_span_in_context(span, scope)

    def _links(self, messages: _Messages) -> list[Link]:
        links = []
        for message in messages[:_MAX_LINKS]:
            sent = trace.get_current_span(self._extract(message)).get_span_context()
            if sent.is_valid:
                links.append(Link(sent, {names.MESSAGE_ID: str(message.id)}))
        return links

    def _end_process(
        self,
        span: Span,
        messages: _Messages,
        error: BaseException | None,
        unsettled: _Messages,
    ) -> None:
        """End a span, once it is known what becomes of its unsettled messages."""
        if not span.is_recording():
            return
        if error is None and not unsettled:
            span.end()
            return
        ending = SpanEnding(span, error, self._fail, several=len(messages) > 1)
        ending.waits_for(unsettled)

    def _fail(self, span: Span, error: BaseException | None, reason: str = "") -> None:
        """Record a failure: an exception, or the reason if there was none."""
        span.set_status(StatusCode.ERROR)
        kind = reason if error is None else _type_of(error)
        span.set_attribute(names.ERROR_TYPE, kind)
        if error is not None and self._record_exceptions:
            span.record_exception(error)

    def _inject(self, headers: dict[str, str], span: Span) -> None:
        carrier: dict[str, str] = {}
        propagator = self._propagator or propagate.get_global_textmap()
        propagator.inject(carrier, set_span_in_context(span))
        # If the caller has set one of the headers, the others belong to it.
        foreign = (carrier.keys() | self._fields()) - _INDEPENDENT & headers.keys()
        for name, value in carrier.items():
            if name not in headers and (name in _INDEPENDENT or not foreign):
                headers[name] = value

    def _extract(self, message: Message[Any]) -> Context:
        headers = message.headers
        if self._fields().isdisjoint(headers):
            return Context()
        propagator = self._propagator or propagate.get_global_textmap()
        return propagator.extract(headers, Context())

    def _fields(self) -> frozenset[str]:
        """Return the headers that the propagator uses."""
        propagator = self._propagator or propagate.get_global_textmap()
        if self._known[0] is not propagator:
            self._known = propagator, frozenset(propagator.fields)
        return self._known[1]


class _SentBatch:
    """The span of one `send_many`.

    Attributes:
        span: The span.
        error: The first exception of a message.
    """

    __slots__ = ("error", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.error: Exception | None = None

    def heard(self, outcome: Receipt | Exception) -> None:
        if self.error is None and isinstance(outcome, Exception):
            self.error = outcome


def _attributes(name: str, stream: str) -> _Attributes:
    return {
        **_ALWAYS,
        names.OPERATION_NAME: name,
        names.OPERATION_TYPE: name,
        names.DESTINATION_NAME: stream,
    }


def _add_consumer(attributes: _Attributes, message: Message[Any]) -> None:
    """Add which consumer has received a message, and from which server."""
    settler: Any = message._settler  # noqa: SLF001 - no one else needs it
    identity = getattr(settler, "identity", None)
    if identity is not None:
        group, consumer, host, port = identity
        if group:
            attributes[names.CONSUMER_GROUP_NAME] = group
            attributes[names.CLIENT_ID] = consumer
        if host:
            _add_server(attributes, host, port)


def _add_server(attributes: _Attributes, host: str, port: int) -> None:
    attributes[names.SERVER_ADDRESS] = host
    if port:
        attributes[names.SERVER_PORT] = port


def _add_message(attributes: _Attributes, message: Message[Any]) -> None:
    shard = message._entry.shard  # noqa: SLF001 - no one else needs it
    if shard.key != shard.stream.encode():
        attributes[names.PARTITION_ID] = str(shard.number)
    attributes[names.MESSAGE_ID] = str(message.id)
    attributes[names.DELIVERY_ATTEMPT] = message.attempt


def _disposition(message: Message[Any]) -> Disposition | None:
    entry: Any = message._entry  # noqa: SLF001 - no one else needs it
    found: Disposition | None = getattr(entry, "disposition", None)
    return found


def _type_of(error: BaseException) -> str:
    # Of Penstock's own, which stands for it.
    name = type(error).__qualname__
    return "TimeoutError" if name == "HandlerTimeout" else name
