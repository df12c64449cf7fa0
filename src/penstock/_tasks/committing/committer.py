"""The committer: sends outcomes in batches, and is the only task that sends them.

It waits for the first outcome, and then until the interval ends or as many outcomes as
may wait are there. It depends on neither messages nor reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from penstock import _chance, _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.backoff import ReconnectBackoff
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.pending_acks import AckBatch
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._tasks.committing.acks import Acks
from penstock._tasks.committing.dead_letter_writer import DeadLetterWriter
from penstock._tasks.committing.missing_acks import explained
from penstock._tasks.group import FloorTracker, refusal
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.renewal import renew
from penstock._tasks.reporting import id_list, report_blocked, report_deleted
from penstock._tasks.task_scopes import StoppableTask
from penstock._tasks.wakeups import AutoResetEvent, Generation
from penstock.errors import ClosedError, ConnectionLost, ServerError
from penstock.events import Event, OnEvent

__all__ = ["Committer"]

# The seconds after which deleted entries are reported though no search has ended.
_REPORT_DELETED_EVERY: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPace:
    """When outcomes are sent.

    Attributes:
        interval: The seconds for which the first outcome may wait; None to send only on
            demand.
        outcomes: Set when there may be something to send.
        send_lock: Held from when outcomes are taken until their replies.
    """

    interval: float | None
    outcomes: AutoResetEvent
    send_lock: asyncio.Lock


class Committer(StoppableTask):
    """Acknowledges entries, renews leases and has dead letters written.

    If the committer is cut, unsent outcomes stay in the ledger, and it can be revived.

    Args:
        connection: The command connection.
        ledger: The consumer's ledger, which has the outcomes.
        claims: Claims the consumer's own entries.
        acks: Acknowledges entries.
        pace: When outcomes are sent.
        on_renewed: Called after leases were renewed.
        dead_letter_writer: Writes dead letters, if they are kept.
        floor_tracker: Tracks the group's floor.
        on_event: Receives refused and late acknowledgements.

    Attributes:
        urgent: How many wait for outcomes to be confirmed: they are sent at once, under
            any policy.
        on_round: Called after each round, when its outcomes have been sent.
    """

    def __init__(
        self,
        connection: CommandConnection,
        *,
        ledger: Ledger,
        claims: OwnClaims,
        acks: Acks,
        pace: CommitPace,
        on_renewed: Callable[[], None],
        dead_letter_writer: DeadLetterWriter | None,
        floor_tracker: FloorTracker,
        on_event: OnEvent,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._ledger = ledger
        self._member = claims.member
        self._group = claims.member.group
        self._claims = claims
        self._acks = acks
        self._terms = terms = ledger.leases.terms
        # How many late outcomes have been reported.
        self._late_reported = 0
        self._renew_at = _clock.boottime() + terms.look_every
        self._report_deleted_at = _clock.boottime() + _REPORT_DELETED_EVERY
        # When the interval of the outcomes that wait is over; None while none wait.
        self._commit_at: float | None = None
        self._on_renewed = on_renewed
        self._interval = pace.interval
        self._outcomes = pace.outcomes
        self._send_lock = pace.send_lock
        self._dead_letter_writer = dead_letter_writer
        self._floor_tracker = floor_tracker
        self._on_event = on_event
        self._backoff = ReconnectBackoff()
        self.urgent = 0
        self._rounds = Generation()
        # Whether the consumer closes, so that nothing else is requested.
        self._hurried = False
        # The error that kept the last outcomes from being confirmed.
        self._last_error: ServerError | None = None
        self.on_round: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Send outcomes until cut, over any number of reconnects."""
        try:
            with self._until_cut():
                while True:
                    is_commit_due = await self._wait()
                    try:
                        self._connection.check()
                        await self._renew()
                        if not is_commit_due:
                            continue
                        self._commit_at = None
                        await self._round()
                        await self._write_dead_letters()
                    except ConnectionLost as error:
                        self._last_error = error
                        await self._connection.restore(error.reason)
                    self._report_late()
                    self._rounds.advance()
                    self.on_round()
        finally:
            report_deleted(self._ledger, self._group, self._on_event)
            self._report_late()
            self._rounds.advance()

    async def _write_dead_letters(self) -> None:
        writer = self._dead_letter_writer
        if writer is not None and await writer.round() and self._interval is not None:
            # Until they are acknowledged, a lost lease leads to second copies.
            await self._round()

    def hurry(self) -> None:
        """Use round trips for outcomes only, because the consumer closes."""
        self._hurried = True

    async def flush(self) -> None:
        """Wait until the server has confirmed everything that is acknowledged by now.

        Raises:
            ClosedError: The consumer closed before. Its cause is the error that kept
                the outcomes from being confirmed, if there was one.
        """
        shards = self._ledger.shards
        waiting, deleted = shards.unconfirmed(), shards.deleted_in_flight()
        self.urgent += 1
        try:
            while any(entry.unconfirmed for entry in waiting) or any(
                state.awaits_any(ids) for state, ids in deleted
            ):
                if self.has_ended:
                    raise ClosedError("consumer") from self._last_error
                self._outcomes.set()
                await self._rounds.wait()
        finally:
            self.urgent -= 1

    async def flush_once(self) -> None:
        """Send what is acknowledged by now, and wait for the reply.

        Does not wait until it is confirmed, since the server may refuse it for long.
        Does nothing if outcomes are sent on demand only.
        """
        if self._interval is None:
            return
        waiting = self._ledger.shards.unconfirmed()
        self.urgent += 1
        try:
            # A round may be under way that does not contain them.
            for _ in range(2):
                if any(e.unconfirmed for e in waiting) and not self.has_ended:
                    self._outcomes.set()
                    await self._rounds.wait()
        finally:
            self.urgent -= 1

    async def _wait(self) -> bool:
        """Wait until there is something to send, or leases have to be renewed.

        Returns:
            Whether to send what there is. Outcomes whose interval is not over wait on
            while leases are renewed.
        """
        while not (self._due or self._dead_letters_due_in() == 0.0):
            at = _clock.boottime()
            wait = self._renew_at - at
            overdue = self._ledger.leases.overdue(at)
            if wait <= 0 or self._connection.lost or overdue:
                return True
            if (due_in := self._dead_letters_due_in()) is not None:
                wait = min(wait, due_in)
            await self._wait_at_most(wait)
        ledger = self._ledger
        if ledger.acks.full or ledger.urgent or self.urgent or self._interval is None:
            return True
        self._outcomes.clear()
        now = _clock.boottime()
        if self._commit_at is None:
            self._commit_at = now + self._interval
        # An interval may be longer than a lease.
        woken = await self._wait_at_most(min(self._commit_at, self._renew_at) - now)
        return woken or self._commit_at <= _clock.boottime() or self._connection.lost

    async def _wait_at_most(self, longest: float) -> bool:
        """Wait for outcomes, and return whether they came.

        It is reported if the event loop was blocked meanwhile.
        """
        longest = max(0.0, longest)
        due = _clock.boottime() + longest
        woken = False
        with anyio.move_on_after(longest):
            await self._outcomes.wait()
            woken = True
        late = _clock.boottime() - due
        report_blocked(late, self._terms.seconds, self._group, self._on_event)
        return woken

    @property
    def sends_by_itself(self) -> bool:
        """Whether outcomes are sent without the user's asking for that."""
        return self._interval is not None

    @property
    def _due(self) -> bool:
        """Whether there are outcomes to send, at once or later."""
        on_demand = self._interval is None
        return bool(self._ledger.acks.uncommitted and (self.urgent or not on_demand))

    def _dead_letters_due_in(self) -> float | None:
        """Return the seconds until dead letters can be written; None without any."""
        return (
            None
            if self._dead_letter_writer is None
            else self._dead_letter_writer.due_in()
        )

    async def _renew(self) -> None:
        at = _clock.boottime()
        if at < self._renew_at and not self._ledger.leases.overdue(at):
            return
        if at >= self._report_deleted_at:
            # Deleted entries that were found by searches which have not ended.
            report_deleted(self._ledger, self._group, self._on_event)
            self._report_deleted_at = at + _REPORT_DELETED_EVERY
        lost, refused = await renew(
            self._connection,
            self._ledger,
            self._member,
            self._claims,
            self._terms.seconds,
        )
        self._renew_at = at + self._terms.look_every
        self._on_renewed()
        if refused is not None:
            await self._refused("renewal_refused", refused)
        if lost:
            facts: dict[str, object] = {"group": self._group}
            facts |= {"messages": len(lost), "ids": id_list(lost)}
            self._on_event(Event("lease_lost", logging.ERROR, facts))

    def _report_late(self) -> None:
        """Report outcomes of messages that other consumers owned by then."""
        late = self._ledger.counters.late
        if late > self._late_reported:
            facts = {
                "group": self._group,
                "messages": late - self._late_reported,
            }
            self._late_reported = late
            self._on_event(Event("outcome_late", logging.WARNING, facts))

    async def _round(self) -> None:
        if not self._due:
            return
        async with self._send_lock:
            sent = await self._send(self._ledger.acks.to_send())
        refused = [
            reply for batch, reply in sent if not self._record_reply(batch, reply)
        ]
        for batch, reply in sent:
            if isinstance(reply, int) and reply < len(batch.entries):
                await self._check_mismatch(batch, reply)
        if refused:
            await self._refused("commit_refused", refused[0])
        else:
            self._backoff.progress()
            self._last_error = None
            if not self._hurried:
                await self._floor_tracker.look()

    async def _send(self, batches: Sequence[AckBatch]) -> list[tuple[AckBatch, Any]]:
        acks = self._acks
        sent = [acks.commands(batch) for batch in batches]
        try:
            answers = await self._connection.calls(
                [one for each in sent for one in each]
            )
        except BaseException:  # also if cancelled: closing sends them again
            for batch in batches:
                self._ledger.acks.unconfirmed(batch)
            raise
        replies = iter(answers)
        return [
            (batch, acks.read(batch, each, [next(replies) for _ in each]))
            for batch, each in zip(batches, sent, strict=True)
        ]

    async def _refused(self, what: str, reply: ErrorReply) -> None:
        """Report a transient refusal, and wait before the next attempt."""
        self._last_error = refusal(self._connection.server, "committing", reply)
        self._on_event(Event(what, facts={"reply": reply.text}))
        # Reads may succeed meanwhile, so this is not the connector's backoff.
        await anyio.sleep(self._backoff.failed(_chance.fraction()))

    def _record_reply(self, batch: AckBatch, reply: Any) -> bool:
        """Record one shard's reply; return False if its batch has to be sent again."""
        sent = len(batch.entries) + len(batch.deleted_ids)
        if reply is None:
            self._ledger.acks.unconfirmed(batch)  # and so lost, see `lose_shard`
            return True
        if isinstance(reply, ErrorReply):
            # A user who lost a permission may get it back, so the outcomes are kept.
            if reply.kind not in {ErrorKind.REPAIR, ErrorKind.ISOLATE}:
                self._ledger.acks.unconfirmed(batch)
                return False
            self._report("commit_dropped", batch, lost=sent, reply=reply.text)
            self._acks.not_sent_again(batch)
        self._ledger.ack_confirmed(batch)
        return True

    async def _check_mismatch(self, batch: AckBatch, acknowledged: int) -> None:
        """Report entries that were not pending, unless they may have been deleted."""
        if batch.repeated or batch.shard_state.replaced:
            return
        if not await explained(self._connection, self._group, batch, acknowledged):
            sent = len(batch.entries) + len(batch.deleted_ids)
            self._report("commit_mismatch", batch, sent=sent, acknowledged=acknowledged)
            self._floor_tracker.doubt(batch.shard_state.shard)
            self._acks.not_sent_again(batch)

    def _report(self, name: str, batch: AckBatch, **facts: object) -> None:
        stream = batch.shard_state.shard.stream
        facts = {"stream": stream, "group": self._group, **facts}
        self._on_event(Event(name, logging.WARNING, facts))
