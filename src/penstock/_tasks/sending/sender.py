"""Sender: takes messages from callers, as far as the buffer has space for them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Mapping
from math import inf
from threading import get_ident
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from penstock import _clock
from penstock._connection.fork import notify_on_fork
from penstock._core.messages import envelope, shard_keys
from penstock._core.protocol import commands
from penstock._core.protocol.trimming import trim_arguments
from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.idempotence import MOST_WORDS
from penstock._core.sending.requests import SendRequest
from penstock._tasks.loop_binding import LoopBinding
from penstock._tasks.reporting import report_sends
from penstock._tasks.sending.deadlines import Deadlines
from penstock._tasks.sending.outcomes import Ticket, fail
from penstock._tasks.sending.send_defaults import MessageChoices, SendDefaults, choose
from penstock._tasks.sending.send_meter import SendMeter
from penstock._tasks.sending.shard_choice import ShardChoice
from penstock._tasks.unbounded_streams import UnboundedStreams
from penstock._tasks.wakeups import AutoResetEvent, Generation
from penstock.codecs import unencodable
from penstock.errors import (
    BufferFull,
    ClosedError,
    ConfigurationError,
    MessageTooLarge,
    SendFailed,
    SendUnknown,
    UsageError,
)
from penstock.events import OnEvent
from penstock.message import Shard
from penstock.outgoing import ManyMessages, MessageOptions, SendOptions
from penstock.sharding import Spread

__all__ = ["BufferLimits", "Sender"]

# No thread has this number.
_NO_THREAD: Final = -1
# The approximate bytes that an XADD takes on the network and in memory besides its
# fields.
_OVERHEAD = 64


class BufferLimits(Struct, frozen=True):
    """The bounds of the buffer, of a write and of a message.

    Attributes:
        max_messages: The most messages without an outcome.
        max_bytes: The most bytes of messages without an outcome.
        max_batch: The most messages in one write.
        max_message_bytes: The most bytes of one message.
    """

    max_messages: int
    max_bytes: int
    max_batch: int
    max_message_bytes: int


class Sender:
    """Packs messages and queues them, in the order of the calls.

    Args:
        spread: How streams are spread over keys; None: a stream is one key.
        limits: The bounds of the buffer.
        on_event: Called with the number of messages that timed out.
        idempotent: Whether a script stores messages only once, which bounds the number
            of their words.
        meter: Counts and times messages.

    Attributes:
        meter: Counts and times messages.
        server: The host and port of the server, once it is known.
    """

    def __init__(
        self,
        spread: Spread | None,
        limits: BufferLimits,
        on_event: OnEvent,
        *,
        idempotent: bool = False,
        meter: SendMeter | None = None,
    ) -> None:
        self.meter = meter or SendMeter()
        self.server: tuple[str, int] | None = None
        self._limits = limits
        self._max_batch = limits.max_batch
        self._on_event = on_event
        self._idempotent = idempotent
        self._shards = ShardChoice(spread, on_event)
        self._unbounded = UnboundedStreams(on_event)
        # The event loop of the producer, and the thread that may call; none while it is
        # closed.
        self._binding: LoopBinding | None = None
        self._thread = _NO_THREAD
        self.reset()

    def reset(self) -> None:
        """Start over, with no messages."""
        self._shards.reset()
        self.shard_checks = self._shards.checks
        # Messages until their outcome is known.
        self.accumulator: Accumulator[Ticket] = Accumulator(
            self._limits.max_messages, self._limits.max_bytes, whole=self._idempotent
        )
        # Messages for which there was no space, in the order of their calls. Each is
        # added to the accumulator in its turn, and then its future is done. A message
        # whose caller gave up is removed at once: it must not take memory while a
        # server hangs.
        self._waiting: OrderedDict[SendRequest[Ticket], asyncio.Future[None]] = (
            OrderedDict()
        )
        self.queued = AutoResetEvent()
        self._settled = Generation()

    def open(self, binding: LoopBinding) -> None:
        """Accept messages from now on, in that event loop."""
        self._binding, self._thread, self._loop = binding, binding.thread, binding.loop
        self._deadlines = Deadlines(binding.loop, self._expire)
        notify_on_fork(self)

    def forked(self) -> None:
        """Accept no more messages: this is a forked child, where none would be sent."""
        self.shut()

    def shut(self) -> None:
        """Accept no more messages: the producer is being closed."""
        self._binding, self._thread = None, _NO_THREAD

    @property
    def opened(self) -> bool:
        """Whether messages are accepted."""
        return self._binding is not None

    def check_open(self) -> None:
        """Check that messages are accepted, and from this event loop.

        Raises:
            ClosedError: The producer is not open.
            UsageError: The producer was opened in another event loop or thread.
        """
        if self._binding is None:
            raise ClosedError("producer")
        self._binding.check()

    def close(self) -> None:
        """Accept no more messages, and refuse those that wait for space."""
        self.shut()
        self._deadlines.stop()
        while self._waiting:
            request, turn = self._waiting.popitem(last=False)
            self.meter.record((request,), "failed")
            fail(request.ticket, ClosedError("producer"))
            if not turn.done():
                turn.set_exception(ClosedError("producer"))

    @property
    def max_messages(self) -> int:
        """The most messages without an outcome."""
        return self._limits.max_messages

    def check(self, defaults: SendDefaults, stream: str, choices: SendOptions) -> None:
        """Check that messages with these options can be accepted for that stream.

        Raises:
            ClosedError: The producer is not open.
            ConfigurationError: The name of the stream or an option is invalid.
        """
        self.check_open()
        shard_keys.single(stream)
        choose(defaults, **choices)

    def pack(  # noqa: C901 - calls would cost each message
        self,
        defaults: SendDefaults,
        stream: str,
        payload: Any,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        choices: MessageOptions | None = None,
        many: ManyMessages | None = None,
    ) -> SendRequest[Ticket]:
        """Pack a message.

        Raises:
            ClosedError: The producer is not open.
            UsageError: The producer was opened in another event loop or thread.
            ConfigurationError: Something in the message cannot be sent.
        """
        if defaults.hooks is not None:
            return self._announce(
                defaults, stream, payload, key, headers, choices=choices, many=many
            )
        # To find out which loop is running takes longer, so only the first message of a
        # batch does that check.
        if get_ident() != self._thread or not self.accumulator.held:
            self.check_open()
        try:
            body, kind = defaults.encode(payload)
        except UsageError:
            raise
        except Exception as error:
            raise unencodable(payload, error) from error
        if key is None and not headers and kind is None:
            fields: tuple[bytes, ...] = (defaults.field, body)
            size = len(body)
        else:
            fields = envelope.pack(body, key, headers, kind, defaults.field)
            size = envelope.size(fields, defaults.field)
            if self._idempotent and len(fields) > MOST_WORDS:
                raise ConfigurationError(
                    f"a message of {len(fields) // 2} fields is too large for the "
                    f"script of idempotent=True; send at most {MOST_WORDS // 2} fields"
                )
        if size > self._limits.max_message_bytes:
            raise MessageTooLarge(size, self._limits.max_message_bytes)
        size += _OVERHEAD
        shard = self._shards.single.get(stream)
        if shard is None:
            shard = self._shard(stream, key, body, defaults, choices)
        if choices or defaults.special:
            chosen = choose(defaults, **(choices or {}))
            return self._special(shard, fields, size, chosen)
        command = commands.xadd(shard.key, fields)
        request = SendRequest(shard, command, size, self._loop.create_future())
        if self.meter.on:
            self.meter.begin(request)
        return request

    def _announce(
        self,
        defaults: SendDefaults,
        stream: str,
        payload: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
        *,
        choices: MessageOptions | None,
        many: ManyMessages | None,
    ) -> SendRequest[Ticket]:
        """Pack a message after the hooks have seen it, and have them hear of it."""
        assert defaults.hooks is not None  # noqa: S101 - see `pack`
        announced = defaults.hooks.announce(
            stream, payload, key, headers, many=many, server=self.server
        )
        defaults = replace(defaults, hooks=None)
        headers = announced.outgoing.headers
        try:
            request = self.pack(
                defaults, stream, payload, key, headers, choices=choices
            )
        except BaseException as error:
            announced.settle(error)
            raise
        announced.settle_with(request.ticket)
        return request

    def _special(
        self, shard: Shard, fields: tuple[bytes, ...], size: int, chosen: MessageChoices
    ) -> SendRequest[Ticket]:
        limit, retention, durability, id_, ms = chosen
        now = int(_clock.wall() * 1000) if ms is None else ms
        command = commands.xadd(shard.key, fields, id_, trim_arguments(retention, now))
        deadline = inf
        if limit is not None:
            deadline = self._loop.time() + limit
            self._deadlines.watch(deadline)
        if durability is not None:
            self.accumulator.needs_durability = True
        ticket = self._loop.create_future()
        request = SendRequest(shard, command, size, ticket, deadline, durability)
        if self.meter.on:
            self.meter.begin(request)
        return request

    def _shard(
        self,
        stream: str,
        key: str | None,
        body: bytes,
        defaults: SendDefaults,
        choices: MessageOptions | None,
    ) -> Shard:
        shard, first = self._shards.choose(stream, key, body)
        if first:
            kept = (choices or {}).get("retention") or defaults.retention
            self._unbounded.check(stream, kept)
        return shard

    def refused(self, stream: str) -> None:
        """Record that a stream is spread in another way; its next message is compared.

        Args:
            stream: The stream's name.
        """
        waiting = any(one.shard.stream == stream for one in self._waiting)
        self._shards.refused(stream, waiting=waiting)

    def put(self, request: SendRequest[Ticket]) -> Awaitable[None] | None:
        """Queue a message in its turn; return what to await first, if anything."""
        accumulator = self.accumulator
        if self._waiting or not accumulator.fits(request.size):
            return self._wait_for_space(request)
        queued = accumulator.add(request)
        if 1 < queued < self._max_batch:
            # The flusher was woken by the first message of the queue. Either it has
            # enough writes in flight, or it has not run yet, or it lingers.
            return None
        self.queued.set()
        # A caller that never awaits anything else would fill the buffer before the
        # flusher gets to run.
        return asyncio.sleep(0) if queued >= self._max_batch else None

    def put_now(self, request: SendRequest[Ticket]) -> None:
        """Queue a message if there is space for it.

        Raises:
            BufferFull: There is no space.
        """
        accumulator = self.accumulator
        if self._waiting or not accumulator.fits(request.size):
            self._hurry()
            # Another exception than the one that is raised: that one holds this frame,
            # which holds the message.
            fail(request.ticket, BufferFull(accumulator.held, accumulator.size))
            raise BufferFull(accumulator.held, accumulator.size)
        accumulator.add(request)
        self.queued.set()

    async def _wait_for_space(self, request: SendRequest[Ticket]) -> None:
        turn = self._waiting[request] = self._loop.create_future()
        self._hurry()
        try:
            await turn
        finally:
            # The future holds the exception that it raises, which holds this frame,
            # which holds the message.
            del turn
            # The message is still waiting if its caller was cancelled.
            if self._waiting.pop(request, None) is not None:
                fail(request.ticket, _withdrawn(request))
                self._admit_waiting()

    def on_settled(self) -> None:
        """Queue waiting messages for which there is space now, and wake `drain`."""
        self._admit_waiting()
        self._settled.advance()

    def _admit_waiting(self) -> None:
        waiting, accumulator = self._waiting, self.accumulator
        while waiting:
            request, turn = next(iter(waiting.items()))
            if not turn.done():  # otherwise its caller was cancelled
                if not accumulator.fits(request.size):
                    self._hurry()
                    return
                accumulator.add(request)
                turn.set_result(None)
                self.queued.set()
            else:
                fail(request.ticket, _withdrawn(request))
            del waiting[request]

    def _expire(self, now: float) -> float:
        """Fail the messages whose deadline has passed, and return the next deadline."""
        late = [one for one in self._waiting if one.deadline <= now]
        for request in late:
            turn = self._waiting.pop(request)
            fail(request.ticket, _too_late(request))
            if not turn.done():
                turn.set_exception(_too_late(request))
        unwritten, in_flight = self.accumulator.overdue(now)
        for request in unwritten:
            fail(request.ticket, _too_late(request))
        self.meter.record((*late, *unwritten), "failed")
        self.meter.record(in_flight, "unknown")
        in_flight = [request for request in in_flight if not request.ticket.done()]
        for request in in_flight:
            stream = request.shard.stream
            fail(request.ticket, SendUnknown(stream, "no reply before its timeout"))
        on_event, reason = self._on_event, "not written before its timeout"
        report_sends(on_event, "send_failed", unwritten, reason)
        reason = "no reply before its timeout"
        report_sends(on_event, "send_unknown", in_flight, reason)
        if late or unwritten:
            self.on_settled()
        waiting = min((one.deadline for one in self._waiting), default=inf)
        return min(waiting, self.accumulator.earliest())

    def _hurry(self) -> None:
        """Send all queued messages without lingering."""
        self.accumulator.hurry()
        self.queued.set()

    async def drain(self) -> None:
        """Wait until all messages queued so far have an outcome, good or bad."""
        # Messages that wait for space are queued too, from their callers' point of
        # view.
        turns = list(self._waiting.values())
        while not all(turn.done() for turn in turns):
            await self._settled.wait()
        self._hurry()
        target = self.accumulator.added
        while self.accumulator.settled < target:
            await self._settled.wait()


def _withdrawn(request: SendRequest[Ticket]) -> SendFailed:
    reason = "its call was cancelled while it waited for space"
    return SendFailed(request.shard.stream, "CANCELLED", reason)


def _too_late(request: SendRequest[Ticket]) -> SendFailed:
    reason = "it was not written before its timeout"
    return SendFailed(request.shard.stream, "TIMEOUT", reason)
