"""Shared consumers: a router's consumers, and the choice of a message's handler."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from penstock._core.handling.dispatch import Dispatch, PayloadReader, Route, Unhandled
from penstock._core.handling.signature import is_async, name_of
from penstock._routing.handlers import HandlerSpec, unordered
from penstock._routing.injecting import NO_SOURCES, Filled, Sources, Values, injecting
from penstock._tasks.consumer_set import SetMember
from penstock._tasks.handling.handler_call import ThreadSettler, in_thread
from penstock.consumer import Consumer
from penstock.durations import seconds
from penstock.errors import ConfigurationError
from penstock.events import Event
from penstock.message import Message
from penstock.middleware import wrap
from penstock.options import Claim, Ownership

__all__ = ["SharedConsumer"]


@dataclass(frozen=True, slots=True)
class SharedConsumer:
    """A consumer to be created, and the handlers that share it.

    Attributes:
        group: The consumer's group; None in REALTIME.
        handlers: The handlers, at least one.
    """

    group: str | None
    handlers: tuple[HandlerSpec, ...]

    @property
    def first(self) -> HandlerSpec:
        """The handler whose options the consumer has; the others' are equal."""
        return self.handlers[0]

    @property
    def _dispatches(self) -> bool:
        """Whether the handler of a message is chosen by its type."""
        return self.first.event is not None or len(self.handlers) > 1

    def consumer(self, url: str | None) -> Consumer[Any]:
        """Create the consumer.

        Args:
            url: The server; None for the default.
        """
        return self.first.consumer(url, raw=self._dispatches)

    def handler(
        self,
        limit: anyio.CapacityLimiter,
        report: Callable[[Message[Any], str | None], None],
        sources: Sources,
    ) -> Callable[[Any], Any]:
        """Return the handler for the consumer to run; needs a running event loop.

        Args:
            limit: Bounds the threads that the handlers may use.
            report: Called, in the event loop, with messages that have no handler.
            sources: Where further arguments of the handlers are from.
        """
        if self._dispatches:
            return self.dispatch(limit, report, sources)
        return _call(self.first, limit, sources)

    def part(
        self, url: str | None, workers: int = 1, sources: Sources = NO_SOURCES
    ) -> SetMember:
        """Create the consumer and its run; needs a running event loop.

        Args:
            url: The server; None for the default.
            workers: The number of processes that run the handlers.
            sources: Where further arguments of the handlers are from.
        """
        first = self.first
        consumer = self.consumer(url)
        # The same as the consumer's, which counts them.
        on_event = consumer._config.on_event  # noqa: SLF001 - its own router
        facts = {"streams": first.streams, "group": self.group}
        limit = anyio.CapacityLimiter(first.run_options["concurrency"])
        unhandled = Unhandled()

        def report(message: Message[Any], kind: str | None) -> None:
            shown = unhandled.seen(kind)
            # Without a group, others read the message too, and nothing is acknowledged.
            if shown is not None and self.group is not None:
                tell = {**facts, "type": shown, "id": message.id}
                on_event(Event("unhandled", logging.INFO, tell))

        handler = self.handler(limit, report, sources)

        def on_open() -> None:
            shared = consumer.ownership is Ownership.SHARED
            if workers > 1 and first.is_ordered and shared:
                raise ConfigurationError(unordered(first, workers))
            on_event(self._opened(len(consumer.shards)))

        async def run() -> None:
            try:
                await consumer.run(handler, **first.run_options)
            finally:
                if unhandled.messages and self.group is not None:
                    tell = {**facts, "messages": unhandled.messages}
                    on_event(Event("unhandled_in_all", logging.INFO, tell))

        return SetMember(
            *(consumer, run, first.streams, self.group),
            *(self._lease(), on_event, on_open),
            consumer._config.meter.oldest_running,  # noqa: SLF001
        )

    def _lease(self) -> float | None:
        if self.group is None:
            return None
        claim: Claim = self.first.options.get("claim", Claim())
        return seconds(claim.idle, "idle")

    def _opened(self, shards: int) -> Event:
        options = self.first.run_options
        facts = {
            "streams": self.first.streams,
            "shards": shards,
            "group": self.group,
            "handlers": tuple(name_of(spec.function) for spec in self.handlers),
            "concurrency": options["concurrency"],
            "ordering": options["ordering"].value,
        }
        return Event("opened", logging.INFO, facts)

    def dispatch(
        self,
        limit: anyio.CapacityLimiter,
        report: Callable[[Message[Any], str | None], None],
        sources: Sources = NO_SOURCES,
    ) -> Callable[[Message[Any]], Any]:
        """Return one handler for all messages; a sync one if all handlers are sync.

        A message that has no handler is acknowledged where its handler would run,
        because a message records its outcome in one way in the event loop and in
        another way in a thread.

        Args:
            limit: Bounds the threads that the handlers may use.
            report: Called, in the event loop, with messages that have no handler.
            sources: Where further arguments of the handlers are from.
        """
        calls = [_call(handler, limit, sources) for handler in self.handlers]
        sync = not any(map(is_async, calls))
        if not sync:
            calls = [_in_thread(call, limit) for call in calls]
        routes = {
            handler.event: Route(
                PayloadReader(handler.codec), call, name_of(handler.function)
            )
            for handler, call in zip(self.handlers, calls, strict=True)
        }
        # Reports belong into the event loop, and sync handlers run in threads.
        loop = asyncio.get_running_loop()

        def tell(message: Message[Any], kind: str | None) -> None:
            if sync:
                loop.call_soon_threadsafe(report, message, kind)
            else:
                report(message, kind)

        acks = self.first.acks_manually

        def skip(message: Message[Any], kind: str | None) -> None:
            if acks:
                message.ack()
            tell(message, kind)

        dispatch = Dispatch(self.first.header, routes, skip)
        return dispatch.call_sync if sync else dispatch.call


def _call(
    spec: HandlerSpec, limit: anyio.CapacityLimiter, sources: Sources
) -> Callable[[Any], Any]:
    """Return the function to call with a message, or with a list of them."""
    function: Callable[[Any], Any] = spec.function
    if is_async(function) and not inspect.iscoroutinefunction(function):
        # A callable object: return its async method, so that it is recognized as async.
        function = function.__call__  # type: ignore[operator]
    unpack = None
    if not spec.argument.whole:
        unpack = _payloads if spec.argument.batch else _payload
    if spec.injected.names:
        filled = _filled(function, unpack or _itself, limit)
        function = injecting(filled, spec.injected, spec.services, sources)
    elif unpack is not None:
        function = _with(unpack, function)
    if spec.middleware:
        function = wrap(_in_thread(function, limit), spec.middleware)
    if inspect.isfunction(function) and function is not spec.function:
        # Reports name a handler by these two, see `name_of`.
        function.__module__, function.__qualname__ = "", name_of(spec.function)
    return function


def _payload(message: Message[Any]) -> Any:
    return message.payload


def _payloads(messages: list[Message[Any]]) -> list[Any]:
    return [message.payload for message in messages]


def _with(unpack: Callable[[Any], Any], function: Callable[[Any], Any]) -> Any:
    """Return a function that unpacks the message first; async if `function` is."""
    if is_async(function):

        async def handle(message: Any) -> object:
            return await function(unpack(message))

        return handle
    return lambda message: function(unpack(message))


def _filled(
    function: Callable[..., Any],
    unpack: Callable[[Any], Any],
    limit: anyio.CapacityLimiter,
) -> Filled:
    """Return a call of a handler whose further arguments are given by their names."""
    if is_async(function):

        async def call(given: Any, values: Values) -> object:
            return await function(unpack(given), **values)

        return call

    async def call_in_thread(given: Any, values: Values) -> object:
        def handle(remote: Any) -> object:
            there = {
                name: remote if value is given else value
                for name, value in values.items()
            }
            return function(unpack(remote), **there)

        return await _in_thread(handle, limit)(given)

    return call_in_thread


def _itself(given: Any) -> Any:
    return given


def _in_thread(
    function: Callable[[Any], Any], limit: anyio.CapacityLimiter
) -> Callable[[Any], Any]:
    """Make a sync function async; a cancelled call waits for the function's end."""
    if is_async(function):
        return function
    call = in_thread(function, limit)

    async def handle(given: Any) -> object:
        several = isinstance(given, list)
        return await call([*map(_remote, given)] if several else _remote(given))

    return handle


def _remote(message: Message[Any]) -> Message[Any]:
    """Return the same message for use in a thread."""
    settler: Any = message._settler  # noqa: SLF001 - a copy of the message
    entry, fields = message._entry, message._fields  # noqa: SLF001
    return Message(entry, ThreadSettler.of(settler), fields)
