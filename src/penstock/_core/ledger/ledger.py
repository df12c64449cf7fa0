"""The ledger: state machine and bounded queue of everything a consumer has in hand.

What an entry is, its states and the table of what moves it are in `entry.py`; here is
what the events do. Repeating an outcome that an entry has is no event, see `ack`.

Two more things hang on an entry, and are kept apart from its state because they end
with the handler, not with the outcome: the space that it takes (`flow_control.py`), and
its *lane* (`ready_queue.py`). Deliveries are in `deliveries.py`, removals without an
outcome in `removals.py`, retries in `retry_queue.py`, and what is to be sent to the
server in `pending_acks.py` and `lease_clock.py`. Here is what every message passes.

The ledger is synchronous and calls out by plain callables, which must only ring a bell:
`on_room` when a reader that found no room may look again, `on_outcomes` when the first
outcome waits for the committer and when as many wait as may, `on_ready` when an entry
may be taken that nobody was told of, `on_postponed` when one was postponed to an
earlier time than all others. `on_exhausted` is no bell: it has to answer with `refuse`.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager
from math import inf

from penstock._core.ledger.counters import Counters
from penstock._core.ledger.deliveries import Deliveries
from penstock._core.ledger.entry import Entry, ShardStates, illegal, move
from penstock._core.ledger.failure_policy import Disposition
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.lease_clock import LeaseClock, LeaseRenewal
from penstock._core.ledger.pending_acks import AckBatch, PendingAcks
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.removals import Released, Removals
from penstock._core.ledger.retry_queue import RetryQueue
from penstock._core.ledger.states import (
    ACK,
    ACKED,
    APPLY,
    DONE,
    FAILED,
    IN_HAND,
    LOST,
    NACK,
    PUT_BACK,
    QUEUED,
    REDELIVERED,
    RELEASED,
    RUNNING,
    START,
    TAKE,
    TAKE_REDELIVERED,
    TO_ACK,
    TO_COUNT,
    UNSETTLED,
)
from penstock._core.protocol.replies import RawEntry
from penstock.message import EntryId, Shard
from penstock.options import Ordering

__all__ = ["Ledger"]


class Ledger:
    """Holds what a consumer has read until it is acknowledged or given back.

    Args:
        prefetch_window: How much may be held.
        max_pending: Outcomes that are sent without waiting for the interval.
        max_uncommitted: Outcomes that may wait before nothing more is read: a server
            may go on serving reads and refuse to be told. None for no bound.
        max_attempts: Attempts after which what comes back is not tried again; None for
            no bound.
        lease: Seconds that an entry without an outcome is ours.
        acks: Whether there is anything to acknowledge (not so in REALTIME).
        strict: Whether nothing goes past a suspect while those are held.
        on_room: Rung when there is room again after `flow` gave 0.
        on_outcomes: Rung when outcomes should be looked at.
        on_ready: Rung when an entry may be taken that no read has brought just now.
        on_postponed: Rung when `next_due` has become earlier.
        on_exhausted: Told of an entry that came back with all its attempts used up.
    """

    __slots__ = (
        "_acks",
        "_closed",
        "_deliveries",
        "_ended",
        "_failures",
        "_flow",
        "_leases",
        "_max_uncommitted",
        "_on_ready",
        "_once",
        "_pending_acks",
        "_prefetch_window",
        "_queue",
        "_ready_queue",
        "_removals",
        "_shard_states",
        "counters",
        "counts_starts",
        "on_finished",
    )

    def __init__(
        self,
        prefetch_window: PrefetchWindow,
        *,
        max_pending: int,
        max_uncommitted: int | None = None,
        max_attempts: int | None = None,
        lease: float,
        acks: bool,
        strict: bool = False,
        on_room: Callable[[], None],
        on_outcomes: Callable[[], None],
        on_ready: Callable[[], None],
        on_postponed: Callable[[], None],
        on_exhausted: Callable[[Entry], None],
    ) -> None:
        self._prefetch_window = prefetch_window
        self._max_uncommitted = max_uncommitted
        self._acks = acks
        self._on_ready = on_ready
        self.counters = counters = Counters()
        self._shard_states = shard_states = ShardStates()
        self._ready_queue = ready_queue = ReadyQueue(strict=strict)
        # Entries that a worker may take now, in order.
        self._queue = ready_queue.ready
        self._flow = flow = FlowControl(prefetch_window, ready_queue, on_room)
        self._pending_acks = pending_acks = PendingAcks(
            shard_states, counters, max_pending, on_outcomes
        )
        self._leases = LeaseClock(shard_states, ready_queue, lease, acks=acks)
        self._removals = Removals(
            shard_states,
            counters,
            ready_queue=ready_queue,
            flow=flow,
            pending_acks=pending_acks,
            on_ready=on_ready,
        )
        self._deliveries = Deliveries(
            shard_states,
            counters,
            ready_queue=ready_queue,
            flow=flow,
            pending_acks=pending_acks,
            removals=self._removals,
            lease=lease,
            max_attempts=max_attempts,
            acks=acks,
            on_ready=on_ready,
            on_exhausted=on_exhausted,
        )
        self._failures = RetryQueue(
            counters,
            ready_queue=ready_queue,
            flow=flow,
            pending_acks=pending_acks,
            on_postponed=on_postponed,
        )
        # Leases that began by then have ended, as of this turn.
        self._ended = -inf
        # Whether there is one attempt only, so that its start must never be forgotten.
        self._once = max_attempts == 1
        # Whether each start is counted before the handler begins, in this turn.
        self.counts_starts = False
        # Called, while a possible poison message waits or runs, when a handler has
        # finished or an outcome is confirmed. (Not by `processed`: there the worker
        # comes back for another entry.)
        self.on_finished: Callable[[], None] | None = None
        # Everything was let go.
        self._closed = False

    # -- the reader's side ---------------------------------------------------------

    def read_budget(self, now: float) -> int:
        """Give how many entries may be read now; at 0 `on_room` will ring."""
        self._flow.paced(self.counters.received, now)
        most = self._max_uncommitted
        return self._flow.read_budget(late=most is not None and self.uncommitted > most)

    def claim_budget(self, now: float) -> int:
        """Give how many entries may be taken over now; at 0 `on_room` will ring."""
        self._flow.paced(self.counters.received, now)
        return self._flow.claim_budget()

    @property
    def held(self) -> int:
        """Entries that take room: they wait, or are being handled."""
        return self._flow.held

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._flow.size

    @property
    def fits(self) -> int:
        """How many more entries may be held, by what they are thought to weigh."""
        return self._flow.fits

    @property
    def at_capacity(self) -> bool:
        """Whether no more may be held."""
        return self._flow.at_capacity

    def waiting_changed(self, change: int) -> None:
        """Take note of workers that begin to wait for entries, or have ended to."""
        self._flow.waiting_changed(change)

    def received(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        size: int,
        *,
        again: bool = False,
    ) -> int:
        """Book what a read of new entries brought; gives how many can be taken.

        An id that is in hand already is not booked twice. Only after the group was set
        back does it count anew, see `deliveries.py`.

        Args:
            shard: Where the entries came from.
            entries: As the server gave them.
            now: The time.
            size: Bytes of the reply's part that they are.
            again: Whether they were set back to, so that what is in hand is to be
                handed out again.
        """
        return self._deliveries.received(shard, entries, now, size, again=again)

    def redelivered(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        counts: Mapping[bytes, int],
        *,
        claimed: bool = False,
    ) -> int:
        """Book entries that had been given to somebody; gives how many are new.

        One that a handler may have had may have killed the process: it is a suspect,
        and its start is confirmed by the server before it runs. On its last allowed
        attempt it runs alone. Those with no attempt left are reported by
        `on_exhausted`.

        Args:
            shard: Where they are from.
            entries: Ids and fields; None for the fields of a deleted one, none for one
                that was in hand when it was asked for. If it is not any more, it is
                somebody else's.
            now: The time.
            counts: The server's delivery counts: one more than the number of handler
                starts that it was told of, 0 for what certainly had none.
            claimed: Whether they were taken over because their lease had ended; then
                one that was left open here is handed out again.
        """
        return self._deliveries.redelivered(
            shard, entries, now, counts, claimed=claimed
        )

    def recovering(self, shard: Shard) -> AbstractContextManager[None]:
        """Keep out of the books what is confirmed while pending entries are read.

        Reads and acknowledgements have a connection each. A reply may list as pending
        what was acknowledged before it came.
        """
        return self._deliveries.recovering(shard)

    def deleted(self, shard: Shard, ids: Iterable[bytes]) -> None:
        """Count pending entries that a takeover found deleted, and that are gone."""
        self._deliveries.deleted(shard, ids)

    def take_deleted(self) -> list[tuple[Shard, list[bytes]]]:
        """Give the deleted entries that were met since this was asked last."""
        return self._deliveries.take_deleted()

    def drop(self, shard: Shard) -> int:
        """Forget what waits of a shard, for good; gives how many entries it was."""
        return self._removals.drop(self._shard_states.of(shard))

    def set_back(self, shard: Shard, after: EntryId) -> None:
        """Let no outcome of what was read above an id count: it will be redelivered.

        What waits of the shard was dropped before, and no outcome of it is on its way
        to the server.
        """
        self._removals.set_back(self._shard_states.of(shard), after)
        self._flow.wake_reader()

    def in_hand(self, shard: Shard) -> Collection[bytes]:
        """List the ids of a shard that are read and not let go."""
        return self._shard_states.of(shard).entries.keys()

    def unfinished(self, shard: Shard, mark: EntryId, *, settled: bool) -> bool:
        """Return whether this consumer still has something to do up to an id.

        What is left open is its user's to acknowledge, and not counted.

        Args:
            shard: The shard.
            mark: The id, included.
            settled: Whether sending an acknowledgement is something to do.
        """
        shard_state = self._shard_states.of(shard)
        if not self._acks:
            waiting = (
                e for e in self._ready_queue.waiting() if e.shard_state is shard_state
            )
            return any(EntryId.parse(entry.id) <= mark for entry in waiting)
        return any(
            EntryId.parse(entry.id) <= mark
            for entry in shard_state.entries.values()
            if entry.state is not UNSETTLED and (settled or entry.state is not TO_ACK)
        )

    def settled(self, shard: Shard, id_: bytes) -> bool:
        """Return whether an entry has an acknowledgement that was not sent."""
        entry = self._shard_states.of(shard).entries.get(id_)
        return entry is not None and entry.state is TO_ACK

    # -- the workers' side ---------------------------------------------------------

    @property
    def queued(self) -> int:
        """Entries that a worker may take now."""
        return 0 if self._ready_queue.blocked else self._flow.takeable

    def begin_turn(self, now: float) -> None:
        """Take note of the time, for all that is taken until the next turn.

        Whether starts are counted depends on the pace, and whether an entry is still
        ours depends on the time: both are too costly to ask for every message.
        """
        self._ended = self._leases.ended(now)
        self.counts_starts = self._acks and (self._once or self._prefetch_window.slow)

    @property
    def pace(self) -> float | None:
        """Messages done in a second; None before that is known."""
        return self._prefetch_window.pace

    @property
    def next_is_due(self) -> bool:
        """Whether there is one to take by `take_due`, before all others."""
        entry = self._first()
        return entry is not None and (self.counts_starts or entry.state is TO_COUNT)

    @property
    def next_is_repeated(self) -> bool:
        """Whether the next one to be taken is on a further attempt."""
        entry = self._first()
        return entry is not None and entry.deliveries > 1

    @property
    def next_is_probe(self) -> bool:
        """Whether the next one to be taken is a suspect that has to run alone."""
        entry = self._first()
        return entry is not None and entry.probe

    def _first(self) -> Entry | None:
        """Return the entry that can be taken next, by `take` or `take_due`."""
        queue = self._queue
        while queue:
            entry = queue.popleft()
            if not self._defer(entry):
                queue.appendleft(entry)
                late = entry.leased_at <= self._ended
                return None if late or self._ready_queue.blocked else entry
        return None

    def take(self) -> Entry | None:
        """Take the next entry that may run, or None: then `take_due` may have one."""
        queue = self._queue
        while queue and not self.counts_starts:
            entry = queue.popleft()
            if entry.leased_at <= self._ended:
                queue.appendleft(entry)
                return None
            try:
                entry.state = TAKE[entry.state]
            except KeyError:
                if self._defer(entry):
                    continue
                if entry.state is TO_COUNT:
                    queue.appendleft(entry)
                    return None
                if entry.state is not REDELIVERED:
                    raise illegal(entry, TAKE) from None
                move(entry, TAKE_REDELIVERED)
            flow = self._flow
            if flow.reader_waiting and (
                flow.idle_workers or len(queue) <= flow.wake_waiting
            ):
                flow.freed()
            return entry
        return None

    def take_fresh(self, most: int) -> list[Entry]:
        """Take up to so many entries on their first attempt that are next, all at once.

        It ends where something else is next, or starts have to be counted.
        """
        queue, taken = self._queue, list[Entry]()
        if self.counts_starts:
            return taken
        while queue and len(taken) < most:
            entry = queue[0]
            if entry.state is not QUEUED or entry.deliveries > 1:
                break
            if entry.leased_at <= self._ended:
                break
            entry.state = RUNNING
            taken.append(queue.popleft())
        if taken and self._flow.reader_waiting:
            self._flow.freed()
        return taken

    def take_due(self, most: int = 1, *, apart: bool = False) -> list[Entry]:
        """Take the next entries whose start has to be counted first.

        A suspect that has to run alone is taken by itself.

        Args:
            most: How many at most.
            apart: Whether an entry on a further attempt is taken by itself, too.
        """
        taken: list[Entry] = []
        while len(taken) < most and self.next_is_due:
            entry = self._queue[0]
            alone = entry.probe or (apart and entry.deliveries > 1)
            if alone and taken:
                break
            self._queue.popleft()
            move(entry, START)
            taken.append(entry)
            if alone:
                break
        if taken and self._flow.reader_waiting:
            self._flow.freed()
        return taken

    def put_back(self, entry: Entry) -> None:
        """Take an entry back whose handler did not start, or was interrupted by us.

        That is no attempt. Not so if it has an outcome by now, or is not ours any more.
        """
        if entry.state is RUNNING:
            move(entry, PUT_BACK)
            self._ready_queue.add_first(entry)
            self._on_ready()
        else:
            self.finish(entry, ack=False)

    def may_start(self, entry: Entry) -> bool:
        """Whether an entry that was taken is ours still."""
        return entry.state is RUNNING

    def hold_suspects(self, *, held: bool) -> None:
        """Have no suspect taken until further notice, or take that back."""
        self._ready_queue.hold(held=held)
        if self._queue and not held:
            self._on_ready()

    @property
    def running(self) -> list[Entry]:
        """Entries that handlers have; without acknowledgements see `untracked`."""
        return [each for each in self._shard_states.entries() if each.state in IN_HAND]

    @property
    def untracked(self) -> int:
        """How many entries handlers have that are not acknowledged."""
        if self._acks:
            return 0
        return self._flow.held - self._flow.takeable - self._ready_queue.behind

    def _defer(self, entry: Entry) -> bool:
        """Set an entry aside if it can't be taken, though it is first in the queue.

        A handler may have it by an earlier read, or it is a suspect and those are held.
        """
        shard_state = entry.shard_state
        if entry.id in shard_state.still_running:
            shard_state.deferred[entry.id] = entry
        elif not self._ready_queue.defer(entry):
            return False
        if self._flow.reader_waiting:
            self._flow.freed()
        return True

    def ack(self, entry: Entry) -> bool:
        """Record that an entry is done; False if it was given back before.

        Acknowledging what is acknowledged is no event and changes nothing, nor does
        acknowledging what is somebody else's by now, or has come again since.
        """
        if entry.state in ACKED:
            return True
        if entry.state is LOST:
            self.counters.late += 1
            return True
        if entry.state is RELEASED or (entry.state is UNSETTLED and self._closed):
            return False
        if entry.state is not UNSETTLED or self._counts_still(entry):
            self._pending_acks.settle(entry, ACK)
        return True

    def applied(self, entry: Entry) -> bool:
        """Let an entry go that a transaction has acknowledged, or found to be so.

        Its handler may be at it still. Gives whether it was here to be let go.
        """
        if entry.state not in APPLY:
            return False
        self._pending_acks.applied(entry)
        return True

    def _counts_still(self, entry: Entry) -> bool:
        """Tell whether one that is left open is the one that counts.

        It may have left the books with its lease, and have come again since.
        """
        shard_state = entry.shard_state
        if shard_state.replaced or entry.id in shard_state.deleted_in_flight:
            return False
        return shard_state.entries.setdefault(entry.id, entry) is entry

    def refuse(
        self, entry: Entry, disposition: Disposition, fields: Sequence[bytes]
    ) -> bool:
        """Record what is to become of an entry instead of an acknowledgement.

        In a handler's hands, that holds when the handler has finished. Without effect
        on what is somebody else's by now, or has left the books.

        Args:
            entry: The entry, without an outcome.
            disposition: What is to become of it.
            fields: Its fields.

        Returns:
            False if it was given back before.
        """
        if entry.state is RUNNING:
            move(entry, NACK)
            entry.disposition = disposition
        elif entry.state is LOST:
            self.counters.late += 1
        elif entry.state is RELEASED or self._closed:
            return False
        elif entry.shard_state.entries.get(entry.id) is entry:
            entry.fields, entry.disposition = fields, disposition
            self._failures.apply(entry, disposition)
        return True

    def fail(self, entry: Entry, disposition: Disposition) -> None:
        """Finish with an entry whose handler failed.

        What the handler had said before counts for more.
        """
        if entry.state is RUNNING:
            self.refuse(entry, disposition, entry.fields)
        self.finish(entry, ack=False)

    def processed(self, entry: Entry) -> None:
        """Do what `finish` does with `ack`, sooner: every message comes here."""
        if entry.state is not RUNNING or entry.lane is not None or not self._acks:
            self.finish(entry, ack=True)
            return
        flow = self._flow
        flow.held = held = flow.held - 1
        flow.size -= entry.size
        # The message keeps the fields as long as its user does.
        entry.fields = ()
        entry.state = TO_ACK
        entry.shard_state.settled.append(entry)
        self._pending_acks.add()
        if flow.reader_waiting and (flow.idle_workers or held <= flow.wake_held):
            flow.freed()

    def finish(self, entry: Entry, *, ack: bool) -> None:
        """Take an entry out of its handler's hands: its room and lane are free.

        Args:
            entry: The entry; acked or refused by its handler already, or running, or
                given back meanwhile.
            ack: Whether to acknowledge it, if it has no outcome.
        """
        flow = self._flow
        flow.held -= 1
        flow.size -= entry.size
        if entry.state is RUNNING:
            if ack and self._acks:
                self._pending_acks.settle(entry, ACK)
            elif not self._acks:
                entry.fields = ()
                entry.state = DONE
                self.counters.acked += 1
            else:
                self._failures.leave(entry)
        elif entry.state is FAILED:
            assert entry.disposition is not None  # noqa: S101 - `refuse` sets both
            self._failures.apply(entry, entry.disposition)
        elif entry.state is LOST:
            self.counters.late += ack
            self._deliveries.release_deferred(entry)
        if entry.lane is not None:
            self._ready_queue.free(entry)
        if flow.reader_waiting and (flow.idle_workers or flow.held <= flow.wake_held):
            flow.freed()
        self._finished()

    def _finished(self) -> None:
        if self.on_finished is not None:
            self.on_finished()

    @property
    def urgent(self) -> bool:
        """Whether outcomes are to be sent at once: something waits for that."""
        return self.on_finished is not None

    def finish_all(self, entries: Iterable[Entry], *, ack: bool) -> None:
        """Finish with several, see `finish`."""
        for entry in entries:
            if ack:
                self.processed(entry)
            else:
                self.finish(entry, ack=False)

    def order_by(self, ordering: Ordering) -> None:
        """Choose what is kept in order; files what is queued anew.

        What runs or is postponed holds its lane in the order that it was taken in, and
        in no other.
        """
        if ordering is self._ready_queue.order:
            return
        for shard_state in self._shard_states.values():
            # They find their way back when they are met again.
            self._queue.extend(shard_state.deferred.values())
            shard_state.deferred.clear()
        entries = list(self._shard_states.entries())
        if not self._acks:
            # The books know nothing, and ids only rise.
            entries = sorted(
                self._ready_queue.waiting(), key=lambda e: EntryId.parse(e.id)
            )
        self._ready_queue.reorder(ordering, entries)
        if self._flow.reader_waiting:
            self._flow.freed()  # fewer may be taken at once now

    # -- the next attempt ----------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """When the next postponed entry is due; None if there is none."""
        return self._failures.next_due

    def make_due(self, now: float) -> int:
        """Have what is due by now taken before all others; gives how many it is."""
        return self._failures.make_due(now)

    # -- the committer's side ------------------------------------------------------

    @property
    def uncommitted(self) -> int:
        """Entries acknowledged here and not confirmed by the server, and ghosts."""
        return self._pending_acks.uncommitted

    @property
    def dead_lettering(self) -> int:
        """Entries that wait for their dead letter to be written."""
        return self._pending_acks.dead_lettering

    @property
    def full(self) -> bool:
        """Whether as many outcomes wait as may."""
        return self._pending_acks.full

    def acks_to_send(self) -> list[AckBatch]:
        """Take all acknowledgements for sending, a batch per shard."""
        return self._pending_acks.acks_to_send()

    def ack_confirmed(self, batch: AckBatch) -> None:
        """Let a batch go: the server has answered, or has nothing to be told."""
        self._pending_acks.ack_confirmed(batch)
        self._flow.wake_reader()
        self._finished()

    def ack_unconfirmed(self, batch: AckBatch) -> None:
        """Take a batch back: its reply did not come, or asked to try again."""
        self._pending_acks.ack_unconfirmed(batch)

    def dead_letters_to_send(self, most: int) -> list[Entry]:
        """Take up to so many entries to be copied to the dead letters, for sending."""
        return self._pending_acks.dead_letters_to_send(most)

    def dead_letter_confirmed(self, entry: Entry, *, ours: bool) -> None:
        """Let an entry go: it is copied and acknowledged, or somebody else's."""
        if entry.state is not RELEASED:
            self._flow.let_go(entry)
            self._pending_acks.dead_letter_confirmed(entry, ours=ours)
            self._flow.wake_reader()
            self._finished()

    def dead_letter_written(self, entry: Entry) -> None:
        """Have an entry acknowledged: its dead letter is written."""
        if entry.state is not RELEASED:
            self._flow.let_go(entry)
            self._pending_acks.dead_letter_written(entry)
            self._flow.wake_reader()

    def dead_letter_unconfirmed(self, entry: Entry) -> None:
        """Take one back: its reply did not come, or was a refusal."""
        if entry.state is RELEASED:
            return
        self._pending_acks.dead_letter_unconfirmed(entry)
        if entry.shard_state.entries.get(entry.id) is not entry:
            # It has come again since, and it is that one that counts.
            self._removals.supersede(entry)
            self._flow.wake_reader()

    # -- leases --------------------------------------------------------------------

    def to_renew(self, now: float) -> list[LeaseRenewal]:
        """List what has used up a third of its lease or more.

        Suspects that have waited to run alone for two thirds of it are released.
        """
        self._removals.expire_probes(self._leases.late(now))
        return self._leases.to_renew(now)

    def release_probes(self, most: int) -> list[Released]:
        """Let go of suspects that wait to run alone, but for the first `most`.

        Other consumers of the group can try them meanwhile.
        """
        back = self._removals.release_probes(most)
        if back:
            self._flow.wake_reader()
        return back

    def to_count_again(self, now: float) -> list[LeaseRenewal]:
        """List what the server may count otherwise than we do, after an outage."""
        return self._leases.to_count_again(now)

    def lose_all_but(self, renewal: LeaseRenewal, ours: Iterable[bytes]) -> list[bytes]:
        """Book which of a renewal's entries are ours still; gives the ids of others."""
        return self._removals.lose_all_but(renewal, ours)

    def lose(self, entry: Entry) -> None:
        """Book that an entry in a handler's hands is not ours any more."""
        self._removals.lose(entry)

    def group_recreated(self, shard: Shard, now: float) -> None:
        """Take note that a shard's group was made anew: nothing in hand is pending."""
        self._shard_states.of(shard).group_recreated_at = now

    def counted(self, entry: Entry, asked_at: float) -> None:
        """Take note that the server has counted a start, and renewed the lease by that.

        Args:
            entry: The entry.
            asked_at: When it was asked to.
        """
        entry.leased_at = max(entry.leased_at, asked_at)

    def stream_recreated(self, shard: Shard) -> list[bytes]:
        """Lose all entries of a shard, whose stream was deleted and recreated.

        Ids that come from now on are those of new messages, even if they are equal.

        Returns:
            The ids of entries whose outcome the server is not told.
        """
        return self._removals.replace(shard) if self._acks else []

    def renewed(self, renewal: LeaseRenewal, now: float) -> None:
        """Book that the leases of a renewal began anew.

        Args:
            renewal: What was renewed; what was lost meanwhile is left out.
            now: When it was asked for.
        """
        for entry in renewal.entries:
            entry.leased_at = now

    def overdue(self, now: float) -> bool:
        """Whether what would be taken next may be somebody else's by now.

        So it is after this process stood still for a whole lease; then leases have to
        be renewed first.
        """
        return self._leases.overdue(now)

    def lease_left(self, entry: Entry, now: float) -> float:
        """Give the seconds until others may take an entry over, if nobody renews it."""
        return self._leases.left(entry, now)

    # -- closing -------------------------------------------------------------------

    def release(self) -> Iterator[Released]:
        """Let go of all that has no outcome: shard, delivery count, ids.

        The count to be set is one more than the number of handler starts. Being queued
        here is none, and neither is a handler that closing has interrupted.
        """
        return self._removals.release()

    def give_up(self, shard: Shard) -> list[Released]:
        """Let go of a shard's entries, but not of what handlers are at."""
        return self._removals.give_up(self._shard_states.of(shard))

    def close(self) -> None:
        """Let go of everything."""
        self._closed = True
        for _ in self.release():
            pass
        self._shard_states.close()
        self._failures.close()

    @property
    def closed(self) -> bool:
        """Whether everything was let go."""
        return self._closed

    def to_confirm(self) -> list[Entry]:
        """List what has an outcome here that the server has not confirmed."""
        return [entry for entry in self._shard_states.entries() if entry.unconfirmed]
