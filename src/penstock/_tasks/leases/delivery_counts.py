"""Attempts: the server's delivery counter is kept at one more than the starts.

A read sets the counter to 1 for all that it brings. The n-th start of a handler sets
it to n + 1. So a process that dies leaves behind what had been started, and nothing has
to be counted down for what only waited. How sure that is depends on the pace:

- what may be why a process died (a suspect), and what has one attempt only, starts when
  the server has confirmed the count;
- anything else too, as long as these round trips take up a twentieth of the time at
  most; when they would take more, the count is sent before the handler begins and not
  waited for, so a start may be forgotten if the process dies within a round trip of it;
- above 2,000 messages a second the first starts of new messages are not counted. What
  comes back with a counter of 1 is a suspect, whose next start is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from penstock._connection.reconnect import CommandConnection
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.clock import now
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims, batched, min_idle
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["DeliveryCounts"]

# Of the time, what round trips for counting may take up.
_SHARE: Final = 0.05

_Key: TypeAlias = tuple[Shard, int]


class DeliveryCounts:
    """Counts starts of handlers on the server.

    Args:
        connection: The command connection.
        claims: Claims entries that are ours; None where there is no group.
        ledger: Has the entries.
        lease: The lease in seconds.
        once: Whether there is one attempt only.
        settle: Has outcomes sent and confirmed.
        on_lost: Called when the connection is lost: it has to be restored.
        on_event: Told when the server does not let us count.
    """

    def __init__(
        self,
        connection: CommandConnection,
        claims: OwnClaims | None,
        ledger: Ledger,
        *,
        lease: float,
        once: bool,
        settle: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None],
        on_event: OnEvent,
    ) -> None:
        self._connection = connection
        self._claims = claims
        self._ledger = ledger
        self._lease = lease
        self._once = once
        self._settle = settle
        self._on_lost = on_lost
        self._on_event = on_event
        self._refused = False
        # Seconds that the last count took to be confirmed.
        self._round_trip = 0.0
        # Starts that go out together at the end of this turn of the event loop.
        self._batch: _CountBatch | None = None

    async def begin(self, entries: Sequence[Entry]) -> list[Entry]:
        """Count attempts that are about to start; returns those that may.

        The others are not ours any more, or wait until they can be counted. Cancelling
        it puts all back where they were.
        """
        try:
            confirmed = await self._count(entries)
        except asyncio.CancelledError:
            for entry in reversed(entries):
                self._ledger.put_back(entry)
            raise
        if not confirmed and self._must_confirm(entries):
            # It may take others with it, and nobody would know of its start.
            self._ledger.hold_suspects(held=True)
            for entry in reversed(entries):
                self._ledger.put_back(entry)
            self._on_lost()
            return []
        return [entry for entry in entries if self._still_ours(entry)]

    async def _count(self, entries: Sequence[Entry]) -> bool:
        """Count starts; returns whether the server has answered, if that was needed."""
        if any(entry.probe for entry in entries):
            # Should it end this process, what was done before must not come back with
            # an attempt more, and be given up in the end.
            await self._settle()
        counted = self._join(entries)
        if self._must_confirm(entries) or self._is_cheap():
            return await asyncio.shield(counted)
        # The batch goes out in the next turn, and uvloop writes at the end of that.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return True

    def _must_confirm(self, entries: Sequence[Entry]) -> bool:
        return self._once or any(entry.suspected for entry in entries)

    def _is_cheap(self) -> bool:
        pace = self._ledger.flow.rate
        return pace is None or pace * self._round_trip <= _SHARE

    def _join(self, entries: Sequence[Entry]) -> asyncio.Future[bool]:
        """Have starts counted with all others of this turn."""
        if self._batch is None:
            loop = asyncio.get_running_loop()
            self._batch = _CountBatch(loop.create_future())
            loop.call_soon(self._flush)
        self._batch.add(entries)
        return self._batch.done

    def _flush(self) -> None:
        batch, self._batch = self._batch, None
        assert batch is not None  # noqa: S101 - `_join` made it
        batch.started_at = now()
        self._send(batch)

    def _send(self, batch: _CountBatch) -> None:
        claims = self._claims
        assert claims is not None  # noqa: S101 - only groups count
        pages = batch.pages(self._lease)
        sent = [claims.command(self._connection, claim) for claim, _ in pages]
        try:
            replies = self._connection.send(sent)
        except ConnectionLost:
            batch.answered(confirmed=False)
            return

        def answered(future: asyncio.Future[list[object]]) -> None:
            if future.cancelled() or future.exception() is not None:
                batch.answered(confirmed=False)
                return
            answers = list(zip(sent, future.result(), strict=True))
            refused = [
                claims.script_refused(self._connection, *each) for each in answers
            ]
            if any(refused):
                self._send(batch)
            else:
                found = zip(pages, answers, strict=True)
                self._book(batch, [(page, reply) for (_, page), (_, reply) in found])

        replies.add_done_callback(answered)

    def _book(
        self, batch: _CountBatch, answers: Iterable[tuple[Sequence[Entry], object]]
    ) -> None:
        self._round_trip = now() - batch.started_at
        for entries, reply in answers:
            if isinstance(reply, ErrorReply):
                self._report_refused(entries[0], reply)
                continue
            assert isinstance(reply, list)  # noqa: S101 - so the reply was read
            ours = set(reply)
            for entry in entries:
                if entry.id in ours:
                    self._ledger.leases.counted(entry, batch.started_at)
                elif batch.starts:
                    self._ledger.removals.lose(entry)
                # Else it may be acknowledged by a transaction whose reply was lost.
        batch.answered(confirmed=True)

    def _still_ours(self, entry: Entry) -> bool:
        if self._ledger.may_start(entry):
            return True
        self._ledger.finish(entry, ack=False)
        return False

    def restored(self) -> None:
        """Let suspects be taken again: there is a connection."""
        self.count_again()
        self._ledger.hold_suspects(held=False)

    def count_again(self) -> None:
        """Tell the server all counts: after an outage it may have others."""
        if self._claims is None:
            return
        at = now()
        batch = _CountBatch(
            asyncio.get_running_loop().create_future(), at, starts=False
        )
        for due in self._ledger.leases.to_count_again(at):
            batch.add(due.entries)
        if batch.groups:
            self._send(batch)

    def _report_refused(self, entry: Entry, reply: ErrorReply) -> None:
        if not self._refused:
            self._refused = True
            facts = {"stream": ascii(entry.shard.stream), "reply": reply.text}
            self._on_event(Event("count_refused", facts=facts))


class _CountBatch:
    """Starts that are counted by one write.

    Attributes:
        done: Its result is whether the server has answered.
        started_at: When it was sent.
        starts: Whether handlers are about to start, and none has them yet.
        groups: The entries by shard and attempt.
    """

    __slots__ = ("done", "groups", "started_at", "starts")

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
        self.groups: dict[_Key, list[Entry]] = {}

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries."""
        for entry in entries:
            key = entry.shard_state.shard, entry.deliveries
            self.groups.setdefault(key, []).append(entry)

    def pages(self, lease: float) -> list[tuple[OwnClaim, Sequence[Entry]]]:
        """Return the claims to be sent, each with the entries that it is about."""
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
        """Wake who waits for it."""
        if not self.done.done():
            self.done.set_result(confirmed)
