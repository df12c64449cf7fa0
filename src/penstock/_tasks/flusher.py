"""The flusher: writes whatever is queued, all streams together, and answers.

What queues while a write is in the air goes out together with the next, so sending
batches by itself without anybody waiting for company, unless told to linger. Several
writes are in the air at once; replies come in the order of the writes, on the one
connection there is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeAlias

import anyio

from penstock._core.accumulator import Accumulator, Sending
from penstock._core.replies import ErrorReply, send_failed
from penstock._link.link import Link
from penstock._link.wire import Replies, Wire, pack
from penstock._tasks.bells import Bell
from penstock.errors import ConnectionLost, PenstockError, SendFailed, SendUnknown
from penstock.events import Event, OnEvent
from penstock.message import Receipt

__all__ = ["Flusher", "Ticket", "fail"]

Ticket: TypeAlias = "asyncio.Future[Receipt]"

_COMMAND = attrgetter("command")


class Flusher:
    """Moves messages from the accumulator to the server.

    Args:
        wire: Its connection; replaced after an outage.
        link: Makes new ones.
        accumulator: What is to be sent.
        max_batch: Messages in one write at most.
        max_in_flight: Writes without a reply at most.
        linger: Seconds that a batch that is not full waits for more.
        queued: Rung when there is something to send.
        on_settled: Called when messages have left the accumulator.
        on_event: Told how many messages failed or are unknown.
    """

    def __init__(
        self,
        wire: Wire,
        link: Link,
        *,
        accumulator: Accumulator[Ticket],
        max_batch: int,
        max_in_flight: int,
        linger: float,
        queued: Bell,
        on_settled: Callable[[], None],
        on_event: OnEvent,
    ) -> None:
        self._wire = wire
        self._link = link
        self._accumulator = accumulator
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._linger = linger
        # Runs while a batch waits for more.
        self._timer: asyncio.TimerHandle | None = None
        self._waited = False
        self._bell = queued
        self._on_settled = on_settled
        self._on_event = on_event
        # Shielded: what cancels whoever holds the producer must not keep it from
        # sending what is queued; `stop` ends this.
        self._scope = anyio.CancelScope(shield=True)
        # Replies that are on their way, oldest first; one a batch in flight.
        self._replies: deque[Replies] = deque()

    async def run(self) -> None:
        """Send until stopped, over any number of reconnects.

        When it ends, what is in flight is unknown and what waits was never sent.
        """
        try:
            with self._scope:
                while True:
                    await self._survive()
        finally:
            self._stop_lingering()
            self._lose("the producer closed")
            self._abandon()
            with anyio.CancelScope(shield=True):
                await self._wire.aclose()

    def stop(self) -> None:
        """End it."""
        self._scope.cancel()

    async def _survive(self) -> None:
        try:
            await self._pump()
        except ConnectionLost as error:
            self._lose(error.reason)
            await self._wire.aclose()
            self._wire = await self._link.reconnect(error.reason)

    async def _pump(self) -> None:
        while True:
            self._write()
            while self._replies and self._replies[0].done():
                self._answer(self._replies.popleft().result())
                self._write()
            await self._bell.wait()

    def _write(self) -> None:
        """Write what is queued, unless enough is in the air."""
        accumulator = self._accumulator
        while accumulator.queued and len(self._replies) < self._max_in_flight:
            if self._linger and self._lingers():
                return
            # Before anything counts as written that never was.
            self._wire.check()
            batch = accumulator.batch(self._max_batch)
            data = pack(map(_COMMAND, batch))
            replies = self._wire.request(data, len(batch))
            replies.add_done_callback(self._ring)
            self._replies.append(replies)

    def _lingers(self) -> bool:
        """Tell whether to wait for more; the bell rings when that is over."""
        accumulator = self._accumulator
        full = accumulator.queued >= self._max_batch
        if full or accumulator.urgent or self._waited:
            self._stop_lingering()
            return False
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._linger, self._has_waited)
        return True

    def _has_waited(self) -> None:
        self._waited = True
        self._bell.ring()

    def _stop_lingering(self) -> None:
        self._waited = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self, _: Any) -> None:
        self._bell.ring()

    def _answer(self, replies: list[Any]) -> None:
        refused: list[ErrorReply] = []
        for sending, reply in zip(self._accumulator.answered(), replies, strict=True):
            ticket = sending.ticket
            if type(reply) is bytes:
                # Done already where the sender gave up waiting.
                if not ticket.done():
                    shard = sending.shard
                    ticket.set_result(Receipt(shard.stream, shard.number, reply))
            else:
                refused.append(reply)
                fail(ticket, send_failed(sending.shard.stream, reply))
        if refused:
            facts = {"messages": len(refused), "reply": refused[0].text}
            self._on_event(Event("send_failed", facts=facts))
        if len(refused) < len(replies):
            self._link.progress()
        self._on_settled()

    def _lose(self, reason: str) -> None:
        """Settle what is in flight and will never be answered."""
        self._replies.clear()
        lost = [one for one in self._accumulator.lost() if not _told_of(one.ticket)]
        for sending in lost:
            fail(sending.ticket, SendUnknown(sending.shard.stream, reason))
        self._report("send_unknown", lost, reason)
        self._on_settled()

    def _abandon(self) -> None:
        """Settle what was never written and will not be."""
        reason = "the producer closed before it was written"
        left = self._accumulator.abandon()
        for sending in left:
            error = SendFailed(sending.shard.stream, "CLOSED", reason)
            fail(sending.ticket, error)
        self._report("send_failed", left, reason)
        self._on_settled()

    def _report(self, name: str, sendings: list[Sending[Ticket]], reason: str) -> None:
        if sendings:
            facts = {"messages": len(sendings), "reason": reason}
            self._on_event(Event(name, facts=facts))


def _told_of(ticket: Ticket) -> bool:
    # Its time was over in the air. One whose caller was cancelled is unknown still.
    return ticket.done() and not ticket.cancelled()


def fail(ticket: Ticket, error: PenstockError) -> None:
    """Give a message's outcome, if anybody waits for it still."""
    if not ticket.done():
        ticket.set_exception(error)
        # It was reported as an event; asyncio need not say "never retrieved".
        ticket.exception()
