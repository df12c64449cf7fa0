"""Delivery counts: the server's count of an entry is one more than its starts.

A read sets the count of every entry that it returns to 1. The n-th start of a handler
sets it to n + 1. So a process that dies leaves behind which entries had been started,
and the counts of entries that only waited need not be reduced. How reliable that is
depends on the rate:

- A possible poison message, and an entry that has only one attempt, starts when the
  server has confirmed the count.
- So does any other entry, as long as these round trips take up a twentieth of the time
  at most. If they would take more, the count is sent before the handler begins, and the
  reply is not awaited. Then a start may be forgotten if the process dies within a round
  trip of it.
- Above 2,000 messages a second, and where counting would take up more than a fifth of
  this process's time, the first starts of new messages are not counted. An entry that
  is redelivered with a count of 1 is a possible poison message, whose next start is
  counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.leases.own_claims import (
    OwnClaim,
    OwnClaims,
    batched,
    may_demand_too_much,
    min_idle,
)
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["DeliveryCounts"]

# The part of the time that round trips for counting may take up.
_SHARE: Final = 0.05

_Key: TypeAlias = tuple[Shard, int]

_Page: TypeAlias = tuple[OwnClaim, Sequence[Entry]]
"""A claim of a few hundred entries, and these."""


class DeliveryCounts:
    """Counts starts of handlers on the server.

    Args:
        connection: The command connection.
        claims: Claims the consumer's own entries; None where there is no group.
        ledger: The consumer's ledger.
        single_attempt: Whether each entry has only one attempt.
        settle: Sends outcomes and waits until they are confirmed.
        on_lost: Called when the connection is lost, so that it is restored.
        on_event: Receives refusals to count.
    """

    def __init__(
        self,
        connection: CommandConnection,
        claims: OwnClaims | None,
        ledger: Ledger,
        *,
        single_attempt: bool,
        settle: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None],
        on_event: OnEvent,
    ) -> None:
        self._connection = connection
        self._claims = claims
        self._ledger = ledger
        self._lease = ledger.leases.terms.seconds
        self._single_attempt = single_attempt
        self._settle = settle
        self._on_lost = on_lost
        self._on_event = on_event
        # The seconds that the last count took to be confirmed.
        self._round_trip = 0.0
        # The starts that are sent together at the end of this turn of the event loop.
        self._batch: _CountBatch | None = None

    async def begin(self, entries: Sequence[Entry]) -> list[Entry]:
        """Count attempts that are about to start; return the entries that may start.

        The other entries no longer belong to this consumer, or wait until they can be
        counted. If this is cancelled, all entries are put back into the queue.
        """
        try:
            confirmed = await self._count(entries)
        except asyncio.CancelledError:
            for entry in reversed(entries):
                self._ledger.put_back(entry)
            raise
        if not confirmed and self._must_confirm(entries):
            # The entry may kill the process and other entries with it, and its start
            # would be unknown.
            self._ledger.hold_starts(held=True)
            for entry in reversed(entries):
                self._ledger.put_back(entry)
            self._on_lost()
            return []
        return [entry for entry in entries if self._still_ours(entry)]

    async def _count(self, entries: Sequence[Entry]) -> bool:
        """Count starts; return whether the server has answered, if that was needed."""
        if any(entry.probe for entry in entries):
            # If the probe kills this process, entries that were handled before must not
            # be redelivered with another attempt, and be dead-lettered in the end.
            await self._settle()
        counted = self._join(entries)
        if self._must_confirm(entries) or self._is_cheap():
            return await asyncio.shield(counted)
        # The batch is sent in the next turn, and uvloop writes at the end of that one.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return True

    def _must_confirm(self, entries: Sequence[Entry]) -> bool:
        return self._single_attempt or any(entry.suspected for entry in entries)

    def _is_cheap(self) -> bool:
        pace = self._ledger.flow.rate
        return pace is None or pace * self._round_trip <= _SHARE

    def _join(self, entries: Sequence[Entry]) -> asyncio.Future[bool]:
        """Add starts to the batch of this turn; return the batch's result."""
        if self._batch is None:
            loop = asyncio.get_running_loop()
            self._batch = _CountBatch(loop.create_future())
            loop.call_soon(self._flush)
        self._batch.add(entries)
        return self._batch.done

    def _flush(self) -> None:
        batch, self._batch = self._batch, None
        assert batch is not None  # noqa: S101 - `_join` made it
        batch.started_at = _clock.boottime()
        self._send(batch)
        batch.seconds += _clock.boottime() - batch.started_at

    def _send(self, batch: _CountBatch) -> None:
        self._claim(batch, batch.pages(self._lease))

    def _claim(
        self, batch: _CountBatch, pages: Sequence[_Page], *, last: bool = False
    ) -> None:
        """Send the claims that count.

        Args:
            batch: The starts.
            pages: The claims, each with its entries.
            last: Whether an entry that is not claimed now is lost for certain.
        """
        claims = self._claims
        assert claims is not None  # noqa: S101 - only groups count
        sent = [claims.command(self._connection, claim) for claim, _ in pages]

        def claimed(replies: list[Any]) -> None:
            answers = list(zip(sent, replies, strict=True))
            refused = [
                claims.script_refused(self._connection, *each) for each in answers
            ]
            if any(refused):
                self._send(batch)
                return
            self._round_trip = _clock.boottime() - batch.started_at
            doubtful = []
            for page, (command, reply) in zip(pages, answers, strict=True):
                owned = claims.read(page[0], command, reply)
                missing = self._book(batch, page[1], owned)
                if missing and not last and may_demand_too_much(page[0], command):
                    doubtful.append((page[0], missing))
                else:
                    self._lose(batch, missing)
            if doubtful:
                self._ask(batch, doubtful)
            else:
                batch.answered(confirmed=True)

        self._call(batch, sent, claimed)

    def _book(
        self, batch: _CountBatch, entries: Sequence[Entry], reply: Any
    ) -> list[Entry]:
        """Record which entries were counted; return those that were not claimed."""
        if isinstance(reply, ErrorReply):
            self._report_refused(entries[0], reply)
            return []
        owned, missing = set(reply), []
        for entry in entries:
            if entry.id in owned:
                self._ledger.leases.counted(entry, batch.started_at)
            else:
                missing.append(entry)
        return missing

    def _ask(self, batch: _CountBatch, doubtful: Sequence[_Page]) -> None:
        """Count entries that are this consumer's though they were not claimed."""
        claims = self._claims
        assert claims is not None  # noqa: S101 - only groups count
        questions = [
            claims.ask(claim, [entry.id for entry in entries])
            for claim, entries in doubtful
        ]

        def told(replies: list[Any]) -> None:
            left, pages = iter(replies), []
            for (claim, entries), asks in zip(doubtful, questions, strict=True):
                again = claims.claim_again(claim, [next(left) for _ in asks])
                owned = set(() if again is None else again.ids)
                self._lose(batch, [each for each in entries if each.id not in owned])
                if again is not None:
                    pages.append(
                        (again, [each for each in entries if each.id in owned])
                    )
            if pages:
                self._claim(batch, pages, last=True)
            else:
                batch.answered(confirmed=True)

        self._call(batch, [each for asks in questions for each in asks], told)

    def _lose(self, batch: _CountBatch, entries: Iterable[Entry]) -> None:
        # If they were not to start, a transaction whose reply was lost may have
        # acknowledged them.
        for entry in entries if batch.starts else ():
            self._ledger.removals.lose(entry)

    def _call(
        self,
        batch: _CountBatch,
        sent: Sequence[Command],
        then: Callable[[list[Any]], None],
    ) -> None:
        """Send commands, and call a function with their replies when these are here.

        If the connection ends before, the batch is not confirmed.
        """
        try:
            replies = self._connection.send(sent)
        except ConnectionLost:
            batch.answered(confirmed=False)
            return

        def answered(future: asyncio.Future[list[Any]]) -> None:
            if future.cancelled() or future.exception() is not None:
                batch.answered(confirmed=False)
            else:
                start = _clock.boottime()
                then(future.result())
                self._measured(batch, start)

        replies.add_done_callback(answered)

    def _measured(self, batch: _CountBatch, start: float) -> None:
        """Record the time that was spent on sending the count, and since `start`."""
        now = _clock.boottime()
        if batch.starts:
            seconds, number = batch.seconds + now - start, batch.number
            self._ledger.work.counting_cost.took(seconds, number, now)

    def _still_ours(self, entry: Entry) -> bool:
        if self._ledger.may_start(entry):
            return True
        self._ledger.finish(entry, ack=False)
        return False

    def restored(self) -> None:
        """Count all starts again, and let held entries start: there is a connection."""
        self.count_again()
        self._ledger.hold_starts(held=False)

    def count_again(self) -> None:
        """Send all counts to the server: after an outage it may have other ones."""
        if self._claims is None:
            return
        at = _clock.boottime()
        batch = _CountBatch(
            asyncio.get_running_loop().create_future(), at, starts=False
        )
        for due in self._ledger.leases.to_count_again(at):
            batch.add(due.entries)
        if batch.groups:
            self._send(batch)

    def _report_refused(self, entry: Entry, reply: ErrorReply) -> None:
        facts = {"stream": entry.shard.stream, "reply": reply.text}
        self._on_event(Event("count_refused", facts=facts))


class _CountBatch:
    """Starts that are counted by one write.

    Attributes:
        done: The result is whether the server has answered.
        started_at: The time when the batch was sent.
        seconds: How long this process was busy with sending it.
        starts: Whether handlers are about to start, and none has the entries yet.
        groups: The entries by shard and attempt.
    """

    __slots__ = ("done", "groups", "seconds", "started_at", "starts")

    def __init__(
        self,
        done: asyncio.Future[bool],
        started_at: float = 0.0,
        *,
        starts: bool = True,
    ) -> None:
        self.starts = starts
        self.done = done
        self.started_at = started_at
        self.seconds = 0.0
        self.groups: dict[_Key, list[Entry]] = {}

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries."""
        for entry in entries:
            key = entry.shard_state.shard, entry.deliveries
            self.groups.setdefault(key, []).append(entry)

    @property
    def number(self) -> int:
        """How many entries it has."""
        return sum(map(len, self.groups.values()))

    def pages(self, lease: float) -> list[_Page]:
        """Return the claims to be sent, each with its entries."""
        return [
            (self._claim(shard, attempt, page, lease), page)
            for (shard, attempt), entries in self.groups.items()
            for page in batched(entries)
        ]

    def _claim(
        self, shard: Shard, attempt: int, entries: Sequence[Entry], lease: float
    ) -> OwnClaim:
        youngest = max(entry.leased_at for entry in entries)
        idle = min_idle(self.started_at - youngest, lease)
        return OwnClaim(shard, [entry.id for entry in entries], idle, attempt + 1)

    def answered(self, *, confirmed: bool) -> None:
        """Wake the tasks that wait for the batch."""
        if not self.done.done():
            self.done.set_result(confirmed)
