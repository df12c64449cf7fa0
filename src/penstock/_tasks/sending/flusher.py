"""Flusher: writes the queued messages of all streams and settles them by the replies.

Messages that are queued while a write is in flight go out together with the next write.
So sending is batched without any message waiting for others, unless `linger` is set.
Several writes are in flight at once. Replies come in the order of the writes, on the
only connection.

The outcome of a message that was written and never answered is unknown; or with
`resend` it is written again, on the next connection and before all newer messages. The
same holds for a message that the server refuses only for the moment: then all messages
wait, and the first write after that is the only one in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import anyio

from penstock._connection.connection import Connection, Replies
from penstock._connection.reconnect import Connector
from penstock._core.protocol.replies import ErrorReply, send_failed
from penstock._core.sending import durability, idempotence
from penstock._core.sending.accumulator import Accumulator, SendBatch, SendRequest
from penstock._core.sending.durability import DurabilityWait
from penstock._core.sending.idempotence import LIFE, IdempotentRuns
from penstock._tasks.reporting import id_list, report_sends, stream_list
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import (
    ConnectionLost,
    NotDurable,
    PenstockError,
    SendFailed,
    SendUnknown,
)
from penstock.events import Event, OnEvent
from penstock.message import Receipt, Shard

__all__ = ["Flusher", "SendQueue", "Ticket", "WriteOptions", "fail"]

Ticket: TypeAlias = "asyncio.Future[Receipt]"

_COMMAND = attrgetter("command")
# Seconds; a little less than the server remembers, since clocks differ.
_REMEMBERED: Final = 0.9 * LIFE


class _Flight(NamedTuple):
    """A write in flight."""

    batch: SendBatch[Ticket]
    waits: Sequence[DurabilityWait]
    replies: Replies

    @property
    def answered(self) -> bool:
        """Whether its replies have arrived."""
        return self.replies.done() and self.replies.exception() is None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How messages are written.

    Attributes:
        max_batch: The most messages in one write.
        max_in_flight: The most writes without a reply.
        linger: Seconds for which a batch that is not full waits for more messages.
        resend: Whether messages that were never answered, or that were refused for the
            moment, are written again.
    """

    max_batch: int
    max_in_flight: int
    linger: float
    resend: bool


class SendQueue(Protocol):
    """The messages to send, and whoever waits for them.

    Attributes:
        accumulator: The messages.
        queued: Set when there is a message to send.
    """

    accumulator: Accumulator[Ticket]
    queued: AutoResetEvent

    def on_settled(self) -> None:
        """Record that messages have left the accumulator."""

    def close(self) -> None:
        """Accept no more messages: no more will be sent."""


class Flusher:
    """Moves messages from the accumulator to the server.

    Args:
        connection: The first connection; replaced after an outage.
        connector: Makes new connections.
        queue: The messages to send. It is closed when no more will be sent, before the
            remaining messages are settled: so no caller can wait for space, or queue a
            message, that would never be sent.
        options: How they are written.
        runs: Makes sure that a message that is written again is stored only once; None:
            it may be stored again.
        on_event: Called with the number of messages that failed or whose outcome is
            unknown.
    """

    def __init__(
        self,
        connection: Connection,
        connector: Connector,
        queue: SendQueue,
        options: WriteOptions,
        *,
        runs: IdempotentRuns | None,
        on_event: OnEvent,
    ) -> None:
        self._connection = connection
        self._connector = connector
        self._queue = queue
        self._accumulator = queue.accumulator
        self._options = options
        self._runs = runs
        # Whether only one write may be in flight: after a refusal, until a message is
        # accepted.
        self._cautious = False
        # Runs while a batch waits for more messages.
        self._timer: asyncio.TimerHandle | None = None
        self._waited = False
        self._wakeup = queue.queued
        self._on_event = on_event
        # Shielded: a failure in another task must not keep this one from sending the
        # queued messages. `stop` cancels it.
        self._scope = anyio.CancelScope(shield=True)
        self._stopped = False
        # The server's last refusal for the moment.
        self._refusal = ErrorReply("")
        # Writes without replies, oldest first.
        self._flights: deque[_Flight] = deque()

    async def run(self) -> None:
        """Send until stopped, over any number of reconnects.

        Cancelling this has no effect: asyncio.run() at its end cancels all tasks,
        including the one that closes the producer, and the queued messages must be sent
        then.

        When this ends, the outcome of messages in flight is unknown, and the queued
        messages were never sent.
        """
        try:
            while not self._stopped:
                with suppress(asyncio.CancelledError), self._scope:
                    while True:
                        await self._pump_or_reconnect()
                self._scope = anyio.CancelScope(shield=True)
        finally:
            self.settle()
            with anyio.CancelScope(shield=True):
                await self._connection.aclose()

    def settle(self) -> None:
        """Settle all messages without an outcome: no more will be sent."""
        self._queue.close()
        self._stop_lingering()
        self._fail_in_flight("the producer closed")
        self._fail_unwritten()

    def stop(self) -> None:
        """Stop sending."""
        self._stopped = True
        self._scope.cancel()

    async def _pump_or_reconnect(self) -> None:
        try:
            await self._pump()
        except ConnectionLost as error:
            self._settle_received()
            if self._options.resend:
                self._flights.clear()
                self._requeue(error.reason)
            else:
                self._fail_in_flight(error.reason)
            await self._connection.aclose()
            self._connection = await self._connector.reconnect(error.reason)
            self._drop_expired()

    def _settle_received(self) -> None:
        """Settle the writes whose replies arrived before the connection ended."""
        while self._flights and self._flights[0].answered:
            self._answer(self._flights.popleft())

    async def _pump(self) -> None:
        while True:
            self._write()
            while self._flights and self._flights[0].replies.done():
                self._answer(self._flights.popleft())
                self._write()
            if self._accumulator.refused and not self._flights:
                await self._try_again()
            else:
                await self._wakeup.wait()

    def _write(self) -> None:
        """Write the queued messages, unless enough writes are in flight."""
        accumulator = self._accumulator
        most = 1 if self._cautious else self._options.max_in_flight
        while accumulator.queued and len(self._flights) < most:
            if accumulator.refused or (self._options.linger and self._lingers()):
                return
            # Otherwise messages would count as written that were never written.
            self._connection.check()
            self._launch(accumulator.batch(self._options.max_batch))

    def _launch(self, batch: SendBatch[Ticket]) -> None:
        if self._runs is None:
            commands = list(map(_COMMAND, batch))
        else:
            batch.written = min(batch.written, self._now())
            commands = self._runs.commands(batch, self._accumulator.oldest)
        waits: Sequence[DurabilityWait] = ()
        if self._accumulator.needs_durability:
            longest = self._connection.address.reply_timeout / 2
            waits = durability.waits(batch, self._now(), longest)
            commands += [wait.command for wait in waits]
        replies = self._connection.ask(commands, sum(wait.ms for wait in waits) / 1000)
        replies.add_done_callback(self._on_replies)
        self._flights.append(_Flight(batch, waits, replies))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _lingers(self) -> bool:
        """Return whether to wait for more messages; a timer ends the wait."""
        accumulator = self._accumulator
        full = accumulator.queued >= self._options.max_batch
        if full or accumulator.urgent or self._waited:
            self._stop_lingering()
            return False
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._options.linger, self._has_waited)
        return True

    def _has_waited(self) -> None:
        self._waited = True
        self._wakeup.set()

    def _stop_lingering(self) -> None:
        self._waited = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_replies(self, _: Any) -> None:
        self._wakeup.set()

    def _answer(self, flight: _Flight) -> None:
        batch, waits, future = flight
        replies = future.result()
        waited = [replies.pop() for _ in waits][::-1]
        outcomes = idempotence.outcomes(batch, replies) if batch.runs else replies
        if waits:
            outcomes = _check_durability(batch, outcomes, waits, waited)
        requests: Sequence[SendRequest[Ticket]] = batch
        if self._options.resend and (
            again := idempotence.refused_temporarily(batch, replies)
        ):
            requests, outcomes = self._keep_refused(batch, again, outcomes)
        else:
            self._accumulator.answered()
        failed = self._report(requests, outcomes)
        if len(failed) < len(outcomes):
            self._cautious = False
            self._connector.progress()
        self._queue.on_settled()

    def _report(
        self, requests: Sequence[SendRequest[Ticket]], outcomes: Sequence[Any]
    ) -> list[ErrorReply]:
        """Set the outcomes of messages; return the replies that refused one."""
        refused: list[ErrorReply] = []
        doubtful: list[SendRequest[Ticket]] = []
        short: list[NotDurable] = []
        failed: list[Shard] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            ticket = request.ticket
            if type(outcome) is bytes:
                # It is done already if the caller has stopped waiting.
                if not ticket.done():
                    shard = request.shard
                    ticket.set_result(Receipt(shard.stream, shard.number, outcome))
            elif isinstance(outcome, NotDurable):
                short.append(outcome)
                fail(ticket, outcome)
            elif request.unanswered:
                # The first write may have been executed, and even be the reason why the
                # repeat is refused: an id may be given only once.
                doubtful.append(request)
                refused.append(outcome)
            else:
                refused.append(outcome)
                failed.append(request.shard)
                fail(ticket, send_failed(request.shard.stream, outcome))
        if doubtful:
            self._unknown(doubtful, "it was written again, and refused then")
        if failed:
            facts = {"messages": len(failed), "streams": stream_list(failed)}
            facts["reply"] = refused[0].text
            self._on_event(Event("send_failed", facts=facts))
        if short:
            least = min(error.achieved for error in short)
            facts = {"messages": len(short), "replicas": least}
            facts["ids"] = id_list([error.id.encode() for error in short])
            self._on_event(Event("send_not_durable", facts=facts))
        return refused

    def _keep_refused(
        self,
        batch: SendBatch[Ticket],
        again: list[SendRequest[Ticket]],
        outcomes: Sequence[Any],
    ) -> tuple[list[SendRequest[Ticket]], list[Any]]:
        """Keep the messages to write again; return the others, and their outcomes."""
        kept = set(map(id, again))
        pairs = list(zip(batch, outcomes, strict=True))
        reply = next(reply for one, reply in pairs if id(one) in kept)
        self._refusal = reply
        self._accumulator.answered(idempotence.batch_to_resend(batch, again))
        settled = [pair for pair in pairs if id(pair[0]) not in kept]
        return [one for one, _ in settled], [outcome for _, outcome in settled]

    async def _try_again(self) -> None:
        """Requeue the messages that were refused for the moment, after a pause."""
        self._cautious = True
        await self._connector.pause()
        self._requeue(self._refusal.text)

    def _requeue(self, reason: str) -> None:
        """Requeue all messages that were written and have no outcome."""
        count = self._accumulator.recall()
        if count:
            level = logging.WARNING if self._runs is None else logging.INFO
            facts = {"messages": count, "reason": reason}
            self._on_event(Event("send_repeated", level, facts))
        self._queue.on_settled()

    def _drop_expired(self) -> None:
        """Fail messages that the server may have stored and forgotten."""
        if self._runs is not None:
            reason = (
                "the outage was so long that the server may have forgotten what it "
                "stored"
            )
            self._unknown(self._accumulator.expired(self._now() - _REMEMBERED), reason)

    def _fail_in_flight(self, reason: str) -> None:
        """Fail the messages in flight, as unknown: they will never be answered."""
        self._flights.clear()
        self._unknown(self._accumulator.lost(), reason)

    def _unknown(self, lost: list[SendRequest[Ticket]], reason: str) -> None:
        for request in lost:
            fail(request.ticket, SendUnknown(request.shard.stream, reason))
        report_sends(self._on_event, "send_unknown", lost, reason)
        self._queue.on_settled()

    def _fail_unwritten(self) -> None:
        """Fail the messages that were never written and will not be."""
        reason = "the producer closed before the message was written"
        left = self._accumulator.abandon()
        for request in left:
            error = SendFailed(request.shard.stream, "CLOSED", reason)
            fail(request.ticket, error)
        report_sends(self._on_event, "send_failed", left, reason)
        self._queue.on_settled()


def _check_durability(
    batch: Sequence[SendRequest[Ticket]],
    outcomes: Sequence[Any],
    waits: Sequence[DurabilityWait],
    waited: Sequence[Any],
) -> list[Any]:
    """Replace the outcomes of messages that are not as durable as required."""
    replies = {
        wait.durability: reply for wait, reply in zip(waits, waited, strict=True)
    }
    checked: list[Any] = []
    for request, outcome in zip(batch, outcomes, strict=True):
        asked = request.durability
        short: NotDurable | None = None
        if asked is not None and type(outcome) is bytes:
            receipt = Receipt(request.shard.stream, request.shard.number, outcome)
            short = durability.shortfall(asked, replies[asked], receipt)
        checked.append(outcome if short is None else short)
    return checked


def fail(ticket: Ticket, error: PenstockError) -> None:
    """Set a message's error, if its caller still waits."""
    if not ticket.done():
        ticket.set_exception(error)
        # The error is reported as an event, so asyncio need not log "never retrieved".
        ticket.exception()
