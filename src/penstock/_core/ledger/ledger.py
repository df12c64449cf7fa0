"""The ledger: state machine and bounded queue of everything a consumer has in hand.

What an entry is, its states and the table of what moves it are in `entry.py`; here is
what the events do. Repeating an outcome that an entry has is no event, see `ack`.

Two more things hang on an entry, and are kept apart from its state because they end
with the handler, not with the outcome: the *room* it takes, see `room.py`, and its
*lane*, see `lanes.py`. How entries come in is in `arrivals.py`, how they go without an
outcome in `departures.py`, what becomes of those that failed in `failures.py`, and what
the server is to be told in `outcomes.py` and `leases.py`. Here is what every message
goes through.

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

from penstock._core.ledger.accounts import ShardStates
from penstock._core.ledger.deliveries import Deliveries
from penstock._core.ledger.entry import (
    ACK,
    ACKED,
    AGAIN,
    APPLY,
    DUE,
    FAILED,
    GONE,
    IN_HAND,
    LOST,
    NACK,
    OPEN,
    PUT_BACK,
    QUEUED,
    RELEASED,
    RUNNING,
    SETTLED,
    START,
    TAKE,
    TAKE_AGAIN,
    AckBatch,
    Counters,
    Entry,
    LeaseRenewal,
    illegal,
    move,
)
from penstock._core.ledger.failure_policy import Disposition
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.lease_clock import LeaseClock
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.removals import Released, Removals
from penstock._core.ledger.retry_queue import RetryQueue
from penstock._core.protocol.replies import RawEntry
from penstock.message import EntryId, Shard
from penstock.options import Ordering

__all__ = ["Ledger"]


class Ledger:
    """Holds what a consumer has read until it is acknowledged or given back.

    Args:
        window: How much may be held.
        max_pending: Outcomes that are sent without waiting for the interval.
        max_uncommitted: Outcomes that may wait before nothing more is read: a server
            may go on serving reads and refuse to be told. None for no bound.
        max_attempts: Attempts after which what comes back is not tried again; None for
            no bound.
        lease: Seconds that an entry without an outcome is ours.
        acks: Whether there is anything to acknowledge (not so in REALTIME).
        strict: Whether nothing goes past a suspect while those are held.
        on_room: Rung when there is room again after `room` gave 0.
        on_outcomes: Rung when outcomes should be looked at.
        on_ready: Rung when an entry may be taken that no read has brought just now.
        on_postponed: Rung when `next_due` has become earlier.
        on_exhausted: Told of an entry that came back with all its attempts used up.
    """

    __slots__ = (
        "_accounts",
        "_acks",
        "_arrivals",
        "_closed",
        "_departures",
        "_ended",
        "_failures",
        "_lanes",
        "_leases",
        "_max_uncommitted",
        "_on_ready",
        "_once",
        "_outcomes",
        "_queue",
        "_room",
        "_window",
        "counts_starts",
        "on_finished",
        "totals",
    )

    def __init__(
        self,
        window: PrefetchWindow,
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
        self._window = window
        self._max_uncommitted = max_uncommitted
        self._acks = acks
        self._on_ready = on_ready
        self.totals = totals = Counters()
        self._accounts = accounts = ShardStates()
        self._lanes = lanes = ReadyQueue(strict=strict)
        # Entries that a worker may take now, in order.
        self._queue = lanes.ready
        self._room = room = FlowControl(window, lanes, on_room)
        self._outcomes = outcomes = PendingAcks(
            accounts, totals, max_pending, on_outcomes
        )
        self._leases = LeaseClock(accounts, lanes, lease, acks=acks)
        self._departures = Removals(
            accounts,
            totals,
            lanes=lanes,
            room=room,
            outcomes=outcomes,
            on_ready=on_ready,
        )
        self._arrivals = Deliveries(
            accounts,
            totals,
            lanes=lanes,
            room=room,
            outcomes=outcomes,
            departures=self._departures,
            lease=lease,
            max_attempts=max_attempts,
            acks=acks,
            on_ready=on_ready,
            on_exhausted=on_exhausted,
        )
        self._failures = RetryQueue(
            totals,
            lanes=lanes,
            room=room,
            outcomes=outcomes,
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

    def room(self, now: float) -> int:
        """Give how many entries may be read now; at 0 `on_room` will ring."""
        self._room.paced(self.totals.received, now)
        most = self._max_uncommitted
        return self._room.to_read(late=most is not None and self.uncommitted > most)

    def spare(self, now: float) -> int:
        """Give how many entries may be taken over now; at 0 `on_room` will ring."""
        self._room.paced(self.totals.received, now)
        return self._room.to_take_over()

    @property
    def held(self) -> int:
        """Entries that take room: they wait, or are being handled."""
        return self._room.held

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._room.size

    @property
    def fits(self) -> int:
        """How many more entries may be held, by what they are thought to weigh."""
        return self._room.fits

    @property
    def crammed(self) -> bool:
        """Whether no more may be held."""
        return self._room.crammed

    def hunger(self, change: int) -> None:
        """Take note of workers that begin to wait for entries, or have ended to."""
        self._room.hunger(change)

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
        back does it count anew, see `arrivals.py`.

        Args:
            shard: Where the entries came from.
            entries: As the server gave them.
            now: The time.
            size: Bytes of the reply's part that they are.
            again: Whether they were set back to, so that what is in hand is to be
                handed out again.
        """
        return self._arrivals.received(shard, entries, now, size, again=again)

    def came_back(
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
        return self._arrivals.came_back(shard, entries, now, counts, claimed=claimed)

    def recovering(self, shard: Shard) -> AbstractContextManager[None]:
        """Keep out of the books what is confirmed while pending entries are read.

        Reads and acknowledgements have a connection each. A reply may list as pending
        what was acknowledged before it came.
        """
        return self._arrivals.recovering(shard)

    def deleted(self, shard: Shard, ids: Iterable[bytes]) -> None:
        """Count pending entries that a takeover found deleted, and that are gone."""
        self._arrivals.deleted(shard, ids)

    def deleted_met(self) -> list[tuple[Shard, list[bytes]]]:
        """Give the deleted entries that were met since this was asked last."""
        return self._arrivals.deleted_met()

    def drop(self, shard: Shard) -> int:
        """Forget what waits of a shard, for good; gives how many entries it was."""
        return self._departures.drop(self._accounts.of(shard))

    def set_back(self, shard: Shard, after: EntryId) -> None:
        """Let no outcome of what was read above an id count: it will be redelivered.

        What waits of the shard was dropped before, and no outcome of it is on its way
        to the server.
        """
        self._departures.set_back(self._accounts.of(shard), after)
        self._room.look_again()

    def in_hand(self, shard: Shard) -> Collection[bytes]:
        """List the ids of a shard that are read and not let go."""
        return self._accounts.of(shard).entries.keys()

    def unfinished(self, shard: Shard, mark: EntryId, *, settled: bool) -> bool:
        """Return whether this consumer still has something to do up to an id.

        What is left open is its user's to acknowledge, and not counted.

        Args:
            shard: The shard.
            mark: The id, included.
            settled: Whether sending an acknowledgement is something to do.
        """
        account = self._accounts.of(shard)
        if not self._acks:
            waiting = (e for e in self._lanes.waiting() if e.account is account)
            return any(EntryId.parse(entry.id) <= mark for entry in waiting)
        return any(
            EntryId.parse(entry.id) <= mark
            for entry in account.entries.values()
            if entry.state is not OPEN and (settled or entry.state is not SETTLED)
        )

    def settled(self, shard: Shard, id_: bytes) -> bool:
        """Return whether an entry has an acknowledgement that was not sent."""
        entry = self._accounts.of(shard).entries.get(id_)
        return entry is not None and entry.state is SETTLED

    # -- the workers' side ---------------------------------------------------------

    @property
    def queued(self) -> int:
        """Entries that a worker may take now."""
        return 0 if self._lanes.stands_still else self._room.takeable

    def begin_turn(self, now: float) -> None:
        """Take note of the time, for all that is taken until the next turn.

        Whether starts are counted depends on the pace, and whether an entry is still
        ours depends on the time: both are too costly to ask for every message.
        """
        self._ended = self._leases.ended(now)
        self.counts_starts = self._acks and (self._once or self._window.slow)

    @property
    def pace(self) -> float | None:
        """Messages done in a second; None before that is known."""
        return self._window.pace

    @property
    def next_is_due(self) -> bool:
        """Whether there is one to take by `take_due`, before all others."""
        entry = self._first()
        return entry is not None and (self.counts_starts or entry.state is DUE)

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
            if not self._steps_aside(entry):
                queue.appendleft(entry)
                late = entry.leased_at <= self._ended
                return None if late or self._lanes.stands_still else entry
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
                if self._steps_aside(entry):
                    continue
                if entry.state is DUE:
                    queue.appendleft(entry)
                    return None
                if entry.state is not AGAIN:
                    raise illegal(entry, TAKE) from None
                move(entry, TAKE_AGAIN)
            room = self._room
            if room.thirsty and (room.hungry or len(queue) <= room.wake_waiting):
                room.freed()
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
        if taken and self._room.thirsty:
            self._room.freed()
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
        if taken and self._room.thirsty:
            self._room.freed()
        return taken

    def put_back(self, entry: Entry) -> None:
        """Take an entry back whose handler did not start, or was interrupted by us.

        That is no attempt. Not so if it has an outcome by now, or is not ours any more.
        """
        if entry.state is RUNNING:
            move(entry, PUT_BACK)
            self._lanes.file_first(entry)
            self._on_ready()
        else:
            self.finish(entry, ack=False)

    def may_start(self, entry: Entry) -> bool:
        """Whether an entry that was taken is ours still."""
        return entry.state is RUNNING

    def hold_suspects(self, *, held: bool) -> None:
        """Have no suspect taken until further notice, or take that back."""
        self._lanes.hold(held=held)
        if self._queue and not held:
            self._on_ready()

    @property
    def running(self) -> list[Entry]:
        """Entries that handlers have; without acknowledgements see `untracked`."""
        return [each for each in self._accounts.entries() if each.state in IN_HAND]

    @property
    def untracked(self) -> int:
        """How many entries handlers have that are not acknowledged."""
        if self._acks:
            return 0
        return self._room.held - self._room.takeable - self._lanes.behind

    def _steps_aside(self, entry: Entry) -> bool:
        """Set an entry aside if it can't be taken, though it is first in the queue.

        A handler may have it by an earlier read, or it is a suspect and those are held.
        """
        account = entry.account
        if entry.id in account.twice:
            account.aside[entry.id] = entry
        elif not self._lanes.steps_aside(entry):
            return False
        if self._room.thirsty:
            self._room.freed()
        return True

    def ack(self, entry: Entry) -> bool:
        """Record that an entry is done; False if it was given back before.

        Acknowledging what is acknowledged is no event and changes nothing, nor does
        acknowledging what is somebody else's by now, or has come again since.
        """
        if entry.state in ACKED:
            return True
        if entry.state is LOST:
            self.totals.late += 1
            return True
        if entry.state is RELEASED or (entry.state is OPEN and self._closed):
            return False
        if entry.state is not OPEN or self._counts_still(entry):
            self._outcomes.settle(entry, ACK)
        return True

    def applied(self, entry: Entry) -> bool:
        """Let an entry go that a transaction has acknowledged, or found to be so.

        Its handler may be at it still. Gives whether it was here to be let go.
        """
        if entry.state not in APPLY:
            return False
        self._outcomes.applied(entry)
        return True

    def _counts_still(self, entry: Entry) -> bool:
        """Tell whether one that is left open is the one that counts.

        It may have left the books with its lease, and have come again since.
        """
        account = entry.account
        if account.replaced or entry.id in account.known_ghosts:
            return False
        return account.entries.setdefault(entry.id, entry) is entry

    def refuse(
        self, entry: Entry, verdict: Disposition, fields: Sequence[bytes]
    ) -> bool:
        """Record what is to become of an entry instead of an acknowledgement.

        In a handler's hands, that holds when the handler has finished. Without effect
        on what is somebody else's by now, or has left the books.

        Args:
            entry: The entry, without an outcome.
            verdict: What is to become of it.
            fields: Its fields.

        Returns:
            False if it was given back before.
        """
        if entry.state is RUNNING:
            move(entry, NACK)
            entry.verdict = verdict
        elif entry.state is LOST:
            self.totals.late += 1
        elif entry.state is RELEASED or self._closed:
            return False
        elif entry.account.entries.get(entry.id) is entry:
            entry.fields, entry.verdict = fields, verdict
            self._failures.apply(entry, verdict)
        return True

    def fail(self, entry: Entry, verdict: Disposition) -> None:
        """Finish with an entry whose handler failed.

        What the handler had said before counts for more.
        """
        if entry.state is RUNNING:
            self.refuse(entry, verdict, entry.fields)
        self.finish(entry, ack=False)

    def processed(self, entry: Entry) -> None:
        """Do what `finish` does with `ack`, sooner: every message comes here."""
        if entry.state is not RUNNING or entry.lane is not None or not self._acks:
            self.finish(entry, ack=True)
            return
        room = self._room
        room.held = held = room.held - 1
        room.size -= entry.size
        # The message keeps the fields as long as its user does.
        entry.fields = ()
        entry.state = SETTLED
        entry.account.settled.append(entry)
        self._outcomes.add()
        if room.thirsty and (room.hungry or held <= room.wake_held):
            room.freed()

    def finish(self, entry: Entry, *, ack: bool) -> None:
        """Take an entry out of its handler's hands: its room and lane are free.

        Args:
            entry: The entry; acked or refused by its handler already, or running, or
                given back meanwhile.
            ack: Whether to acknowledge it, if it has no outcome.
        """
        room = self._room
        room.held -= 1
        room.size -= entry.size
        if entry.state is RUNNING:
            if ack and self._acks:
                self._outcomes.settle(entry, ACK)
            elif not self._acks:
                entry.fields = ()
                entry.state = GONE
                self.totals.acked += 1
            else:
                self._failures.leave(entry)
        elif entry.state is FAILED:
            assert entry.verdict is not None  # noqa: S101 - `refuse` sets both
            self._failures.apply(entry, entry.verdict)
        elif entry.state is LOST:
            self.totals.late += ack
            self._arrivals.make_way(entry)
        if entry.lane is not None:
            self._lanes.free(entry)
        if room.thirsty and (room.hungry or room.held <= room.wake_held):
            room.freed()
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
        if ordering is self._lanes.order:
            return
        for account in self._accounts.values():
            # They find their way back when they are met again.
            self._queue.extend(account.aside.values())
            account.aside.clear()
        entries = list(self._accounts.entries())
        if not self._acks:
            # The books know nothing, and ids only rise.
            entries = sorted(self._lanes.waiting(), key=lambda e: EntryId.parse(e.id))
        self._lanes.reorder(ordering, entries)
        if self._room.thirsty:
            self._room.freed()  # fewer may be taken at once now

    # -- the next attempt ----------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """When the next postponed entry is due; None if there is none."""
        return self._failures.next_due

    def ripen(self, now: float) -> int:
        """Have what is due by now taken before all others; gives how many it is."""
        return self._failures.ripen(now)

    # -- the committer's side ------------------------------------------------------

    @property
    def uncommitted(self) -> int:
        """Entries acknowledged here and not confirmed by the server, and ghosts."""
        return self._outcomes.uncommitted

    @property
    def dying(self) -> int:
        """Entries that wait for their dead letter to be written."""
        return self._outcomes.dying

    @property
    def full(self) -> bool:
        """Whether as many outcomes wait as may."""
        return self._outcomes.full

    def plan(self) -> list[AckBatch]:
        """Take all acknowledgements for sending, a batch per shard."""
        return self._outcomes.plan()

    def committed(self, batch: AckBatch) -> None:
        """Let a batch go: the server has answered, or has nothing to be told."""
        self._outcomes.committed(batch)
        self._room.look_again()
        self._finished()

    def unsent(self, batch: AckBatch) -> None:
        """Take a batch back: its reply did not come, or asked to try again."""
        self._outcomes.unsent(batch)

    def to_bury(self, most: int) -> list[Entry]:
        """Take up to so many entries to be copied to the dead letters, for sending."""
        return self._outcomes.to_bury(most)

    def buried(self, entry: Entry, *, ours: bool) -> None:
        """Let an entry go: it is copied and acknowledged, or somebody else's."""
        if entry.state is not RELEASED:
            self._room.let_go(entry)
            self._outcomes.buried(entry, ours=ours)
            self._room.look_again()
            self._finished()

    def copied(self, entry: Entry) -> None:
        """Have an entry acknowledged: its dead letter is written."""
        if entry.state is not RELEASED:
            self._room.let_go(entry)
            self._outcomes.copied(entry)
            self._room.look_again()

    def unburied(self, entry: Entry) -> None:
        """Take one back: its reply did not come, or was a refusal."""
        if entry.state is RELEASED:
            return
        self._outcomes.unburied(entry)
        if entry.account.entries.get(entry.id) is not entry:
            # It has come again since, and it is that one that counts.
            self._departures.supersede(entry)
            self._room.look_again()

    # -- leases --------------------------------------------------------------------

    def to_renew(self, now: float) -> list[LeaseRenewal]:
        """List what has used up a third of its lease or more.

        Suspects that have waited to run alone for two thirds of it are released.
        """
        self._departures.expire_probes(self._leases.late(now))
        return self._leases.to_renew(now)

    def release_probes(self, most: int) -> list[Released]:
        """Let go of suspects that wait to run alone, but for the first `most`.

        Other consumers of the group can try them meanwhile.
        """
        back = self._departures.release_probes(most)
        if back:
            self._room.look_again()
        return back

    def to_count_again(self, now: float) -> list[LeaseRenewal]:
        """List what the server may count otherwise than we do, after an outage."""
        return self._leases.to_count_again(now)

    def lose_all_but(self, renewal: LeaseRenewal, ours: Iterable[bytes]) -> list[bytes]:
        """Book which of a renewal's entries are ours still; gives the ids of others."""
        return self._departures.lose_all_but(renewal, ours)

    def lose(self, entry: Entry) -> None:
        """Book that an entry in a handler's hands is not ours any more."""
        self._departures.lose(entry)

    def made_anew(self, shard: Shard, now: float) -> None:
        """Take note that a shard's group was made anew: nothing in hand is pending."""
        self._accounts.of(shard).anew = now

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
        return self._departures.replace(shard) if self._acks else []

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
        return self._departures.release()

    def give_up(self, shard: Shard) -> list[Released]:
        """Let go of a shard's entries, but not of what handlers are at."""
        return self._departures.give_up(self._accounts.of(shard))

    def close(self) -> None:
        """Let go of everything."""
        self._closed = True
        for _ in self.release():
            pass
        self._accounts.close()
        self._failures.close()

    @property
    def closed(self) -> bool:
        """Whether everything was let go."""
        return self._closed

    def to_confirm(self) -> list[Entry]:
        """List what has an outcome here that the server has not confirmed."""
        return [entry for entry in self._accounts.entries() if entry.untold]
