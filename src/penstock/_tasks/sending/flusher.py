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
from typing import Any, Final, NamedTuple, Protocol

import anyio

from penstock._connection.connection import Connection, Replies
from penstock._connection.reconnect import Connector
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import CONNECTION_ENDED, ErrorReply
from penstock._core.sending import durability, idempotence, lost_writes
from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.durability import DurabilityWait
from penstock._core.sending.idempotence import LIFE, IdempotentRuns
from penstock._core.sending.requests import SendBatch, SendRequest, without
from penstock._tasks.sending.linger import Linger
from penstock._tasks.sending.outcomes import Outcomes, Ticket
from penstock._tasks.sending.send_meter import SendMeter
from penstock._tasks.shard_checks import ShardChecks
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["Flusher", "SendQueue", "WriteOptions"]

_COMMAND = attrgetter("command")
# Seconds; a little less than the server remembers, since clocks differ.
_REMEMBERED: Final = 0.9 * LIFE


class _Flight(NamedTuple):
    """A write in flight.

    Attributes:
        batch: Its messages.
        waits: The waits behind the messages.
        questions: The number of commands behind the messages.
        replies: The replies to all of them.
    """

    batch: SendBatch[Ticket]
    waits: Sequence[DurabilityWait]
    questions: int
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
        shard_checks: Whether streams are spread as their records say.
        meter: Counts and times messages.
    """

    accumulator: Accumulator[Ticket]
    queued: AutoResetEvent
    shard_checks: ShardChecks
    meter: SendMeter

    def refused(self, stream: str) -> None:
        """Record that the messages of a stream may not be sent."""

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
        self._wakeup = queue.queued
        self._linger = Linger(options.linger, self._wakeup.set)
        self._on_event = on_event
        self._outcomes = Outcomes(on_event, queue.meter)
        queue.meter.lost_for = self._lost_for
        queue.meter.server_version = lambda: connector.server_version
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

    def _lost_for(self) -> float:
        return self._connection.lost_for

    def settle(self) -> None:
        """Settle all messages without an outcome: no more will be sent."""
        self._queue.close()
        self._linger.stop()
        self._fail_in_flight("the producer closed")
        self._fail_unwritten()

    async def delete_notes(self) -> None:
        """Delete the notes of idempotent sends, if all outcomes are known.

        Where the connection is lost before that, the notes expire by themselves.
        """
        if self._runs is not None and not self._accumulator.held:
            with suppress(ConnectionLost):
                await self._connection.calls(self._runs.deletions(closing=True))

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
                self._write_again(error.reason)
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
        checks = self._queue.shard_checks
        while True:
            # What waited for space comes after what was refused.
            while checks.pending and await self._compare():
                pass
            self._write()
            while self._flights and self._flights[0].replies.done():
                self._answer(self._flights.popleft())
                self._write()
            if self._accumulator.refused and not self._flights:
                await self._try_again()
            else:
                await self._wakeup.wait()

    async def _compare(self) -> bool:
        """Compare streams with their records; return whether any was refused."""
        differing = await self._queue.shard_checks.compare(self._connection.calls)
        for error in differing:
            self._outcomes.refused(self._accumulator.withdraw(error.stream), error)
            self._queue.refused(error.stream)
        if differing:
            self._queue.on_settled()
        return bool(differing)

    def _write(self) -> None:
        """Write the queued messages, unless enough writes are in flight."""
        accumulator = self._accumulator
        while accumulator.queued and len(self._flights) < self._most():
            if accumulator.refused or (self._options.linger and self._lingers()):
                return
            # Otherwise messages would count as written that were never written.
            self._connection.check()
            self._launch(accumulator.batch(self._options.max_batch))
            self._queue.shard_checks.look(self._connection.ask)

    def _most(self) -> int:
        """Return how many writes may be in flight."""
        alone = self._cautious or self._accumulator.alone
        return 1 if alone else self._options.max_in_flight

    def _launch(self, batch: SendBatch[Ticket]) -> None:
        if self._runs is None:
            commands = list(map(_COMMAND, batch))
        else:
            batch.written = min(batch.written, self._now())
            commands = self._runs.commands(batch, self._accumulator.written())
        waits: Sequence[DurabilityWait] = ()
        questions: Sequence[Command] = ()
        if self._accumulator.needs_durability:
            longest = self._connection.address.reply_timeout / 2
            waits = durability.waits(batch, self._now(), longest)
            questions = durability.questions(waits)
            commands += questions
        replies = self._connection.ask(commands, sum(wait.ms for wait in waits) / 1000)
        replies.add_done_callback(self._on_replies)
        self._flights.append(_Flight(batch, waits, len(questions), replies))
        if self._runs is not None and (deletions := self._runs.deletions()):
            self._connection.ask(deletions)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _lingers(self) -> bool:
        """Return whether to wait for more messages."""
        accumulator = self._accumulator
        full = accumulator.queued >= self._options.max_batch
        return self._linger.goes_on(due=full or accumulator.urgent)

    def _on_replies(self, _: Any) -> None:
        self._wakeup.set()

    def _answer(self, flight: _Flight) -> None:
        batch, waits, questions, future = flight
        replies = future.result()
        waited = [replies.pop() for _ in range(questions)][::-1]
        outcomes = idempotence.outcomes(batch, replies) if batch.runs else replies
        if waits:
            outcomes = self._outcomes.check_durability(batch, outcomes, waits, waited)
        requests: Sequence[SendRequest[Ticket]] = batch
        if self._options.resend and (
            again := idempotence.refused_temporarily(batch, replies)
        ):
            requests, outcomes = self._keep_refused(batch, again, outcomes)
        elif batch.cancels:
            unstored = idempotence.unstored(batch, replies)
            self._accumulator.cancelled(unstored)
            requests, outcomes = without(batch, outcomes, unstored)
        else:
            self._accumulator.answered()
        failed = self._outcomes.report(requests, outcomes)
        if len(failed) < len(outcomes):
            self._cautious = False
            self._connector.progress()
        self._queue.on_settled()

    def _keep_refused(
        self,
        batch: SendBatch[Ticket],
        again: list[SendRequest[Ticket]],
        outcomes: Sequence[Any],
    ) -> tuple[list[SendRequest[Ticket]], list[Any]]:
        """Keep the messages to write again; return the others, and their outcomes."""
        kept = set(map(id, again))
        self._refusal = next(
            outcome
            for one, outcome in zip(batch, outcomes, strict=True)
            if id(one) in kept and isinstance(outcome, ErrorReply)
        )
        self._accumulator.answered(idempotence.batch_to_resend(batch, again))
        return without(batch, outcomes, again)

    def _write_again(self, reason: str) -> None:
        """Requeue what the lost connection left without a reply, and find the cause."""
        suspect = self._accumulator.suspect
        self._flights.clear()
        self._requeue(reason)
        if suspect is None:
            return
        idempotent = self._runs is not None
        lost = lost_writes.blame(self._accumulator, suspect, idempotent=idempotent)
        if lost:
            times = f"{suspect.losses} connections ended when it was written"
            self._outcomes.unknown(
                lost, f"{times}; the last one: {reason}", CONNECTION_ENDED
            )
            self._queue.on_settled()
            self._connector.progress()

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
            expired = self._accumulator.expired(self._now() - _REMEMBERED)
            self._outcomes.unknown(expired, reason)
            self._queue.on_settled()

    def _fail_in_flight(self, reason: str) -> None:
        """Fail the messages in flight, as unknown: they will never be answered."""
        self._flights.clear()
        self._outcomes.unknown(self._accumulator.lost(), reason)
        self._queue.on_settled()

    def _fail_unwritten(self) -> None:
        """Fail the messages that were never written and will not be."""
        reason = "the producer closed before the message was written"
        self._outcomes.unwritten(self._accumulator.abandon(), "CLOSED", reason)
        self._queue.on_settled()
