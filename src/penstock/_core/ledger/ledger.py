"""The ledger: the state of every entry that a consumer holds.

The states of an entry and the events between them are in `states.py`; here is what the
events do. Repeating an outcome that an entry has is no event, see `ack`.

Two more things belong to an entry, and are kept apart from its state because they end
with the handler and not with the outcome: the capacity that it takes
(`flow_control.py`) and its lane (`ready_queue.py`). What every message passes is here.
The parts of the ledger do the rest, and callers name them: `deliveries`, `removals`,
`retries`, `acks`, `leases`, `flow`, `work` and `shards`.

The ledger is synchronous. It calls out by `LedgerSignals` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from penstock._core.ledger.counters import Counters
from penstock._core.ledger.deliveries import Deliveries
from penstock._core.ledger.entry import Entry, ShardStates, move
from penstock._core.ledger.failure_policy import Disposition
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.lease_clock import LeaseClock, LeaseRenewal
from penstock._core.ledger.limits import LedgerLimits, LedgerSignals
from penstock._core.ledger.pending_acks import AckBatch, PendingAcks
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.removals import Removals
from penstock._core.ledger.retry_queue import RetryQueue
from penstock._core.ledger.states import (
    ACK,
    ACKED,
    ACKNOWLEDGED,
    APPLY,
    FAILED,
    FINISHED,
    LOSE,
    LOST,
    NACK,
    PUT_BACK,
    RELEASED,
    RUNNING,
    SENT,
    TO_ACK,
    UNSETTLED,
    WITH_HANDLER,
)
from penstock._core.ledger.work_queue import WorkQueue
from penstock.message import EntryId, Shard
from penstock.options import Ordering
from penstock.statistics import Statistics

__all__ = ["Ledger"]


class Ledger:
    """Holds what a consumer has read, until it is acknowledged or released.

    Args:
        window: How much may be held.
        limits: What bounds the ledger.
        signals: Whom it wakes.

    Attributes:
        shards: The states of the shards.
        flow: How much may be read.
        acks: Outcomes that the server does not know yet.
        leases: When entries were read or renewed.
        deliveries: Records what was read.
        removals: Removes entries without an outcome.
        retries: Entries that wait for another attempt.
        work: Hands entries to workers.
        watchers: Called, while a possible poison message waits or runs or a shard is
            given up, when a handler has finished or an outcome is confirmed. (Not by
            `processed`, after which an outcome will be confirmed.)
        closed: Whether everything was released.
    """

    __slots__ = (
        "_acknowledges",
        "_on_ready",
        "_queue",
        "_ready_queue",
        "acks",
        "closed",
        "deliveries",
        "flow",
        "leases",
        "removals",
        "retries",
        "shards",
        "watchers",
        "work",
    )

    def __init__(
        self, window: PrefetchWindow, limits: LedgerLimits, signals: LedgerSignals
    ) -> None:
        self._acknowledges = limits.acknowledges
        self._on_ready = signals.on_ready
        queue = ReadyQueue(strict=limits.strict, confirmed=limits.single_attempt)
        self._ready_queue = queue
        # Entries that a worker may take now, in order.
        self._queue = queue.ready
        self.watchers: dict[Callable[[], None], None] = {}
        self.closed = False
        self.shards = shards = ShardStates()
        self.leases = LeaseClock(
            shards, queue, limits.lease, acknowledges=limits.acknowledges
        )
        self.acks = acks = PendingAcks(shards, limits.max_pending, signals.on_outcomes)
        self.flow = flow = FlowControl(
            window,
            queue,
            shards=shards,
            acks=acks,
            max_uncommitted=limits.max_uncommitted,
            on_capacity=signals.on_capacity,
        )
        self.removals = removals = Removals(
            shards,
            ready_queue=queue,
            flow=flow,
            acks=acks,
            on_ready=signals.on_ready,
        )
        self.deliveries = Deliveries(
            shards,
            ready_queue=queue,
            flow=flow,
            acks=acks,
            removals=removals,
            limits=limits,
            signals=signals,
        )
        self.retries = RetryQueue(queue, flow, acks, signals.on_postponed)
        self.work = WorkQueue(queue, flow, self.leases, window, limits)

    # -- handing out -------------------------------------------------------------

    def put_back(self, entry: Entry) -> None:
        """Put an entry back whose handler did not start, or was interrupted by us.

        That is no attempt. Not so if the entry has an outcome by now, or is not ours
        any more.
        """
        if entry.state is RUNNING:
            move(entry, PUT_BACK)
            self._ready_queue.add_first(entry)
            self._on_ready()
        else:
            self.finish(entry, ack=False)

    def may_start(self, entry: Entry) -> bool:
        """Return whether an entry that was taken is still ours."""
        return entry.state is RUNNING

    def hold_starts(self, *, held: bool) -> None:
        """Hold entries whose start the server has to confirm, or end that."""
        self._ready_queue.hold(held=held)
        if self._queue and not held:
            self._on_ready()

    @property
    def running(self) -> list[Entry]:
        """Entries that handlers have; without acknowledgements see `untracked`."""
        return [each for each in self.shards.entries() if each.state in WITH_HANDLER]

    @property
    def untracked(self) -> int:
        """How many entries handlers have that are not acknowledged."""
        if self._acknowledges:
            return 0
        return self.flow.held - self.flow.takeable - self._ready_queue.behind

    def order_by(self, ordering: Ordering) -> None:
        """Choose the order of handling, and queue all waiting entries by it.

        Entries that run or are postponed keep their lanes of the order under which they
        were taken.
        """
        if ordering is self._ready_queue.order:
            return
        for state in self.shards.values():
            # They are deferred again when it is their turn.
            self._queue.extend(state.deferred.values())
            state.deferred.clear()
        entries = list(self.shards.entries())
        if not self._acknowledges:
            # No entry is tracked, and ids only rise.
            waiting = self._ready_queue.waiting()
            entries = sorted(waiting, key=lambda e: EntryId.parse(e.id))
        self._ready_queue.reorder(ordering, entries)
        if self.flow.reader_waiting:
            self.flow.freed()  # fewer may be taken at once now

    # -- outcomes ------------------------------------------------------------------

    def ack(self, entry: Entry) -> bool:
        """Record that an entry is done; False if it was released before.

        Acknowledging an entry again is no event and changes nothing. Acknowledging one
        that belongs to another consumer, or was delivered again, comes too late.
        """
        if entry.state in ACKED:
            return True
        if entry.state is LOST:
            entry.shard_state.counters.late += 1
            return True
        if entry.state is RELEASED or (entry.state is UNSETTLED and self.closed):
            return False
        if entry.state is UNSETTLED and self.is_lost(entry):
            move(entry, LOSE)
            entry.shard_state.counters.late += 1
        elif entry.state is not UNSETTLED or self._still_counts(entry):
            self.acks.settle(entry, ACK)
        return True

    def is_lost(self, entry: Entry) -> bool:
        """Return whether this delivery of an entry no longer counts.

        An entry that is left unsettled leaves the ledger with its lease. It still
        counts until it is delivered again.
        """
        if entry.state is not UNSETTLED:
            return entry.state is LOST
        state = entry.shard_state
        return state.replaced or state.entries.get(entry.id, entry) is not entry

    def applied(self, entry: Entry) -> bool:
        """Remove an entry that a transaction has acknowledged, or found to be so.

        Its handler may still be running.

        Returns:
            Whether it was there to be removed.
        """
        if entry.state not in APPLY:
            return False
        self.acks.applied(entry)
        return True

    def _still_counts(self, entry: Entry) -> bool:
        """Return whether to acknowledge an unsettled entry that is not lost.

        It may have left the ledger with its lease.
        """
        state = entry.shard_state
        if entry.id in state.deleted_in_flight:
            return False
        state.entries.setdefault(entry.id, entry)
        return True

    def refuse(
        self, entry: Entry, disposition: Disposition, fields: Sequence[bytes]
    ) -> bool:
        """Record what becomes of an entry instead of an acknowledgement.

        If a handler has the entry, that takes effect when the handler has finished. It
        has no effect on an entry that another consumer has claimed, or that has left
        the ledger.

        Args:
            entry: The entry, without an outcome.
            disposition: What becomes of it.
            fields: Its fields.

        Returns:
            False if it was released before.
        """
        if entry.state is RUNNING:
            move(entry, NACK)
            entry.disposition = disposition
        elif entry.state is RELEASED or (entry.state is not LOST and self.closed):
            return False
        elif self.is_lost(entry):
            if entry.state is UNSETTLED:
                move(entry, LOSE)
            entry.shard_state.counters.late += 1
        elif entry.shard_state.entries.get(entry.id) is entry:
            entry.fields, entry.disposition = fields, disposition
            self.retries.apply(entry, disposition)
        return True

    # -- handlers that end ---------------------------------------------------------

    def fail(self, entry: Entry, disposition: Disposition) -> None:
        """Finish an entry whose handler failed.

        An outcome that the handler has recorded before takes precedence.
        """
        if entry.state is RUNNING:
            self.refuse(entry, disposition, entry.fields)
        self.finish(entry, ack=False)

    def processed(self, entry: Entry) -> None:
        """Do what `finish` does with `ack`, faster: every message passes here."""
        if entry.state is not RUNNING or entry.lane is not None:
            self.finish(entry, ack=True)
            return
        if not self._acknowledges:
            self.finish(entry, ack=True)
            return
        flow = self.flow
        flow.held = held = flow.held - 1
        flow.size -= entry.size
        # The message keeps the fields as long as its user keeps the message.
        entry.fields = ()
        entry.state = ACKNOWLEDGED
        entry.shard_state.to_ack.append(entry)
        self.acks.add()
        if flow.reader_waiting and (flow.idle_workers or held <= flow.wake_held):
            flow.freed()

    def finish(self, entry: Entry, *, ack: bool) -> None:
        """Take an entry from its handler: its capacity and its lane are free.

        Args:
            entry: The entry; acknowledged or refused by its handler, or running, or
                released meanwhile.
            ack: Whether to acknowledge it, if it has no outcome.
        """
        flow = self.flow
        flow.held -= 1
        flow.size -= entry.size
        if entry.state is RUNNING:
            if ack and self._acknowledges:
                self.acks.settle(entry, ACK)
            elif not self._acknowledges:
                entry.fields = ()
                entry.state = FINISHED
                entry.shard_state.counters.acked += 1
            else:
                self.retries.leave(entry)
        elif entry.state is FAILED:
            assert entry.disposition is not None  # noqa: S101 - `refuse` sets both
            self.retries.apply(entry, entry.disposition)
        elif entry.state is LOST:
            entry.shard_state.counters.late += ack
            self.deliveries.release_deferred(entry)
        if entry.lane is not None:
            self._ready_queue.free(entry)
        if flow.reader_waiting and (flow.idle_workers or flow.held <= flow.wake_held):
            flow.freed()
        self._finished()

    def finish_all(self, entries: Iterable[Entry], *, ack: bool) -> None:
        """Finish several entries, see `finish`."""
        for entry in entries:
            if ack:
                self.processed(entry)
            else:
                self.finish(entry, ack=False)

    def _finished(self) -> None:
        if self.watchers:
            for watcher in [*self.watchers]:
                watcher()

    @property
    def urgent(self) -> bool:
        """Whether outcomes are to be sent at once: somebody watches for them."""
        return bool(self.watchers)

    # -- the server's replies ------------------------------------------------------

    def ack_confirmed(self, batch: AckBatch) -> None:
        """Remove a batch: the server has answered, or need not be told."""
        self.acks.confirmed(batch)
        self.flow.wake_reader()
        self._finished()

    def dead_letter_confirmed(self, entry: Entry, *, ours: bool) -> None:
        """Remove a dead-lettered entry, or one that another consumer has claimed."""
        if entry.state is not RELEASED:
            self.flow.release(entry)
            self.acks.dead_letter_confirmed(entry, ours=ours)
            self.flow.wake_reader()
            self._finished()

    def fenced(self, entry: Entry) -> None:
        """Lose an entry whose outcome was refused: its shard has another owner."""
        self.removals.fenced(entry)
        self._finished()

    def dead_letter_written(self, entry: Entry) -> None:
        """Have an entry acknowledged whose dead letter is written."""
        if entry.state is not RELEASED:
            self.flow.release(entry)
            self.acks.dead_letter_written(entry)
            self.flow.wake_reader()

    def dead_letter_unconfirmed(self, entry: Entry) -> None:
        """Take an entry back: no reply came, or the reply was an error."""
        if entry.state is RELEASED:
            return
        self.acks.dead_letter_unconfirmed(entry)
        if entry.shard_state.entries.get(entry.id) is not entry:
            # It was delivered again, and that delivery counts.
            self.removals.supersede(entry)
            self.flow.wake_reader()

    def to_renew(self, now: float) -> list[LeaseRenewal]:
        """List the entries that have used up a third of their lease or more.

        Possible poison messages that have waited for two thirds of it to run alone are
        released.
        """
        self.removals.expire_probes(self.leases.late(now))
        return self.leases.to_renew(now)

    def stream_recreated(self, shard: Shard) -> list[bytes]:
        """Lose all entries of a shard, whose stream was deleted and recreated.

        Without acknowledgements nothing is lost: what was read is handled.

        Returns:
            The ids of entries whose outcome is not sent.
        """
        return self.removals.lose_shard(shard) if self._acknowledges else []

    def lose_shard(self, shard: Shard) -> list[bytes]:
        """Lose all entries of a shard, which another consumer owns.

        Returns:
            The ids of entries whose outcome is not sent.
        """
        lost = self.removals.lose_shard(shard)
        self._finished()
        return lost

    # -- questions -----------------------------------------------------------------

    def is_done_with(self, shard: Shard) -> bool:
        """Return whether nothing of a shard is held, and no handler of it runs.

        Without an order, a handler that has acknowledged its message and still runs is
        not known any more.
        """
        entries = self.shards.of(shard).entries
        return not entries and not self._ready_queue.lanes(shard.key)

    def running_of(self, shard: Shard) -> int:
        """Return how many handlers run for a shard of which no entry waits.

        Without an order, those that have acknowledged their messages are left out.
        """
        entries = self.shards.of(shard).entries.values()
        with_handler = sum(entry.state in WITH_HANDLER for entry in entries)
        return max(with_handler, self._ready_queue.lanes(shard.key))

    def unanswered_of(self, shard: Shard) -> int:
        """Return how many outcomes of a shard were sent and have not been answered."""
        entries = self.shards.of(shard).entries.values()
        return sum(entry.state in SENT for entry in entries)

    def unfinished(self, shard: Shard, mark: EntryId, *, settled: bool) -> bool:
        """Return whether this consumer still has something to do up to an id.

        Entries that are left unsettled do not count: their user acknowledges them.

        Args:
            shard: The shard.
            mark: The id, included.
            settled: Whether sending an acknowledgement is something to do.
        """
        state = self.shards.of(shard)
        if not self._acknowledges:
            waiting = (e for e in self._ready_queue.waiting() if e.shard_state is state)
            return any(EntryId.parse(entry.id) <= mark for entry in waiting)
        return any(
            EntryId.parse(entry.id) <= mark
            for entry in state.entries.values()
            if entry.state is not UNSETTLED and (settled or entry.state is not TO_ACK)
        )

    @property
    def counters(self) -> Counters:
        """What has happened since the consumer opened, over all streams."""
        return Counters.total(list(self.shards.counters.values()))

    def statistics(self) -> Statistics:
        """Return the counters and what is held now."""
        counters = self.counters
        return Statistics(
            received=counters.received,
            acknowledged=counters.acked,
            left_open=counters.left,
            retried=counters.retried,
            dead_lettered=counters.dead,
            dropped=counters.dropped,
            undecodable=counters.undecodable,
            late=counters.late,
            claimed=counters.claimed,
            lost=counters.lost,
            ghosts=counters.deleted,
            queued=self.work.length,
            in_hand=self.flow.held,
            bytes_in_hand=self.flow.size,
            uncommitted=self.acks.uncommitted,
        )

    def close(self) -> None:
        """Release everything."""
        self.closed = True
        for _ in self.removals.release():
            pass
        self.shards.close()
        self.retries.close()
