"""Comparison of the ledger with a model that is too simple to be wrong.

The model tracks *copies*. A copy is an entry from the read that recorded it. An id that
has left and is delivered again is another copy, and so is a postponed retry. The model
knows of each copy what a user would know, and derives all counts from that. Rules do
what reader, workers, users, retrier, claimer and committer do, in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Disposition,
    Dropped,
    RetryAt,
    Stopped,
)
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.limits import LedgerLimits, LedgerSignals
from penstock._core.ledger.pending_acks import AckBatch
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.states import State
from penstock._core.protocol.replies import RawEntry
from penstock.message import EntryId, Shard
from penstock.options import Ordering

LEASE = 30.0
SHARDS = [Shard(name, 0, name.encode()) for name in ("a", "b", "c")]
OVER = {State.DONE, State.RELEASED, State.LOST}
UNCOMMITTED = {State.TO_ACK, State.ACKING}
DEAD_LETTER_STATES = {State.TO_DEAD_LETTER, State.DEAD_LETTERING}
WAITING = {State.QUEUED, State.REDELIVERED, State.TO_COUNT}
WITH_HANDLER = {State.RUNNING, State.FAILED}
# Sent to the server without a reply so far; other consumers can't have claimed these.
SENT = {State.ACKING, State.DEAD_LETTERING}

T = TypeVar("T")


@dataclass(eq=False)
class Copy:
    """What the model knows of one entry that was recorded."""

    shard: Shard
    id: bytes
    key: str | None
    size: int
    deliveries: int
    leased_at: float
    state: State = State.QUEUED
    suspected: bool = False
    probe: bool = False
    # Whether a handler has it: it was taken and has not finished.
    with_handler: bool = False
    # The number of the order under which it was started, whose lane it has.
    order_number: int = -1
    # The disposition with which it was refused.
    disposition: Disposition | None = None
    # Unsettled or sent, and no longer in the ledger: its lease has ended, or it was
    # redelivered.
    left_ledger: bool = False
    # It was redelivered while its handler ran; the later delivery waits for that.
    still_running: bool = False
    # A seek has dropped it, or its dead letter was written.
    dropped: bool = False
    # The ledger's entry, once it was taken.
    entry: Entry | None = None

    @property
    def is_held(self) -> bool:
        held = self.state in WAITING | DEAD_LETTER_STATES | {State.POSTPONED}
        return self.with_handler or held

    @property
    def fields(self) -> list[bytes]:
        tail = [] if self.key is None else [b"key", self.key.encode()]
        return [b"msg", b"x", *tail]


@dataclass(eq=False)
class Sent:
    """A batch that waits for its reply."""

    batch: AckBatch
    copies: list[Copy]


@dataclass(eq=False)
class SentRenewal:
    """A renewal that waits for its reply."""

    renewal: LeaseRenewal
    copies: list[Copy]
    when: float


def released_count(copy: Copy) -> int:
    """Return the delivery count of a released entry: its starts, and one."""
    unstarted = copy.state in {*WAITING, State.RUNNING}
    if unstarted and copy.deliveries == 1 and not copy.suspected:
        return 0
    return copy.deliveries if unstarted else copy.deliveries + 1


picks = st.integers(0, 10**6)


def pick(things: Iterable[T], number: int) -> T:
    listed = list(things)
    return listed[number % len(listed)]


Kind: TypeAlias = tuple[str, str | None, int]
"""The kind of an entry in a read, its key, and a number to pick by."""


class LedgerMachine(RuleBasedStateMachine):
    """Runs the same steps on a ledger and on its model."""

    def __init__(self) -> None:
        super().__init__()
        # In the order of the ledger.
        self.copies: list[Copy] = []
        # The copies that wait, in the order in which they run within a lane.
        self.waiting_copies: list[Copy] = []
        # Deleted ids that wait to be acknowledged, by shard; others are in batches.
        self.deleted_ids: dict[bytes, list[bytes]] = {shard.key: [] for shard in SHARDS}
        self.sent: list[Sent] = []
        self.renewals_in_flight: list[SentRenewal] = []
        # Dead letters that wait for their reply.
        self.dead_letters_in_flight: list[Copy] = []
        self.shards_without_reply: set[bytes] = set()
        self.now = 0.0
        self.swept = 0.0
        self.order_number = 0
        self.next_number = 1
        # The expected `Counters`.
        self.counts: Counter[str] = Counter()
        # Copies whose outcome the server has confirmed, once each.
        self.confirmed: list[Copy] = []
        # Postponed copies in the order of postponing, and when they are due.
        self.due: dict[Copy, float] = {}
        # Whether any entry was taken or put back out of the order of reading.
        self.reordered = False
        self.held = False
        # As of the last turn: leases that began by `ended` have ended; and whether
        # starts are counted.
        self.ended = float("-inf")
        self.counting = False
        # Idle workers.
        self.idle_workers = 0
        # Whether the reader had a budget of 0, and how many entries should wait then;
        # and whether the claimer had a budget of 0.
        self.reader_waiting = False
        self.aim = 0
        self.nothing_to_claim = False
        self.capacity_signals = 0
        self.outcome_signals = 0
        self.ready_signals = 0
        self.postponed_signals = 0
        self.exhausted: list[Entry] = []

    @initialize(
        acks=st.sampled_from([True, True, True, False]),
        ordering=st.sampled_from(Ordering),
        max_pending=st.integers(1, 6),
        max_uncommitted=st.none() | st.integers(1, 12),
        max_attempts=st.none() | st.integers(1, 4),
        max_messages=st.integers(1, 24),
        max_bytes=st.sampled_from([1, 60, 400, 10**9]),
        max_wait=st.sampled_from([0.5, 10.0, 1000.0]),
        given_up=st.sampled_from(
            [DeadLettered("no"), DeadLettered("no"), Dropped("no"), Stopped("no")]
        ),
        ends_early=st.booleans(),
    )
    def open(
        self,
        *,
        acks: bool,
        ordering: Ordering,
        max_pending: int,
        max_uncommitted: int | None,
        max_attempts: int | None,
        max_messages: int,
        max_bytes: int,
        max_wait: float,
        given_up: Disposition,
        ends_early: bool,
    ) -> None:
        self.acks = acks
        self.ends_early = ends_early
        self.max_pending = max_pending
        self.max_uncommitted = max_uncommitted
        self.max_attempts = max_attempts
        self.counting = acks and max_attempts == 1
        self.max_messages = max_messages
        self.given_up = given_up
        self.prefetch_window = PrefetchWindow(max_messages, max_bytes, max_wait)
        self.ledger = Ledger(
            self.prefetch_window,
            LedgerLimits(
                max_pending=max_pending,
                max_uncommitted=max_uncommitted,
                max_attempts=max_attempts,
                lease=LEASE,
                acknowledges=acks,
            ),
            LedgerSignals(
                on_capacity=self._signal_capacity,
                on_outcomes=self._signal_outcomes,
                on_ready=self._signal_ready,
                on_postponed=self._signal_postponed,
                on_exhausted=self._refuse_exhausted,
            ),
        )
        self.ordering = ordering
        self.ledger.order_by(ordering)

    def _signal_capacity(self) -> None:
        self.capacity_signals += 1

    def _signal_outcomes(self) -> None:
        self.outcome_signals += 1

    def _signal_ready(self) -> None:
        self.ready_signals += 1

    def _signal_postponed(self) -> None:
        self.postponed_signals += 1

    def _refuse_exhausted(self, entry: Entry) -> None:
        self.exhausted.append(entry)
        assert self.ledger.refuse(entry, self.given_up, entry.fields)

    # -- what the model derives ----------------------------------------------------

    @property
    def acknowledged(self) -> list[Copy]:
        """Copies that are acknowledged."""
        return [copy for copy in self.having(State.DONE) if not copy.dropped]

    def having(self, *states: State) -> list[Copy]:
        return [copy for copy in self.copies if copy.state in states]

    @property
    def with_handler(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.with_handler]

    @property
    def in_ledger(self) -> list[Copy]:
        if not self.acks:
            return []
        return [c for c in self.copies if c.state not in OVER and not c.left_ledger]

    def known_as(self, *states: State) -> list[Copy]:
        return [copy for copy in self.in_ledger if copy.state in states]

    @property
    def uncommitted(self) -> int:
        deleted_ids = sum(len(self.deleted_in_flight(shard)) for shard in SHARDS)
        return len(self.having(*UNCOMMITTED)) + deleted_ids

    def deleted_in_flight(self, shard: Shard) -> list[bytes]:
        """List deleted ids whose acknowledgement was not sent or not confirmed."""
        batches = [sent.batch for sent in self.sent]
        in_flight = [b.deleted_ids for b in batches if b.shard_state.shard is shard]
        return [
            *self.deleted_ids[shard.key],
            *(id_ for ids in in_flight for id_ in ids),
        ]

    def lane(self, copy: Copy) -> object:
        match self.ordering:
            case Ordering.NONE:
                return copy
            case Ordering.KEY:
                return copy.shard.key, copy.key
            case Ordering.SHARD:
                return copy.shard.key

    @property
    def blocking(self) -> list[Copy]:
        """Copies that block their lane: they run, or are postponed."""
        away = [*self.with_handler, *self.having(State.POSTPONED)]
        return [copy for copy in away if copy.order_number == self.order_number]

    @property
    def firsts(self) -> list[Copy]:
        """The first copy of each lane that is not blocked."""
        busy = {self.lane(copy) for copy in self.blocking}
        first: dict[object, Copy] = {}
        for copy in self.waiting_copies:
            first.setdefault(self.lane(copy), copy)
        return [copy for lane, copy in first.items() if lane not in busy]

    @property
    def takeable(self) -> list[Copy]:
        """First copies that may start now.

        No handler runs an earlier delivery of them, and they are not held suspects.
        """
        free = [
            copy
            for copy in self.firsts
            if not self.others_of_id(copy, still_running=True)
        ]
        return [copy for copy in free if not self.is_start_held(copy)]

    def is_start_held(self, copy: Copy) -> bool:
        """Whether a copy may not start, because the server can't confirm that."""
        one_attempt = self.acks and self.max_attempts == 1
        return self.held and (copy.suspected or one_attempt)

    @property
    def head_is_late(self) -> bool:
        """Whether the next entry may belong to another consumer."""
        queue = self.ledger._queue
        return bool(queue) and queue[0].leased_at <= self.ended

    @property
    def supply(self) -> tuple[int, set[int]]:
        """How many workers could take an entry now, or will have tried to.

        And the entries in the queue, for which workers were woken.
        """
        deferred = self.deferred
        waiting_firsts = [copy for copy in self.firsts if copy not in deferred]
        held = sum(map(self.is_start_held, waiting_firsts))
        return len(waiting_firsts) - held, set(map(id, self.ledger._queue))

    @property
    def spare_probes(self) -> list[Copy]:
        """Probes that wait, without the first one."""
        if self.ordering is not Ordering.NONE:
            return []
        waiting = [entry for entry in self.ledger._ready_queue.waiting() if entry.probe]
        claim_budget = {(e.shard.key, e.id) for e in waiting[1:]}
        return [c for c in self.waiting_copies if (c.shard.key, c.id) in claim_budget]

    def others_of_id(self, copy: Copy, *, still_running: bool = False) -> list[Copy]:
        """List other copies of an id in the ledger, or those that still run."""
        others = (
            [c for c in self.with_handler if c.still_running]
            if still_running
            else self.in_ledger
        )
        same = [c for c in others if (c.id, c.shard) == (copy.id, copy.shard)]
        return [other for other in same if other is not copy]

    @property
    def late(self) -> bool:
        most = self.max_uncommitted
        return most is not None and self.uncommitted > most

    # -- the reader ----------------------------------------------------------------

    def ask_read_budget(self) -> None:
        signals = self.capacity_signals
        flow = self.ledger.flow.read_budget(self.now)
        held = self.ledger.flow.held
        assert 0 <= flow <= self.max_messages
        assert flow == 0 or held + flow <= self.prefetch_window.capacity
        assert not (flow and self.late)
        self.aim = self.prefetch_window.aim(self.idle_workers)
        waiting = self.ledger.work.length + self.ledger._ready_queue.behind
        assert flow <= max(self.aim - waiting, self.idle_workers)
        if flow and self.nothing_to_claim:
            assert self.capacity_signals == signals + 1, "the claimer was not woken"
            self.nothing_to_claim = False
        self.reader_waiting = flow == 0
        self.capacity_signals = 0
        self.the_reader_is_woken_for_idle_workers()

    def ask_claim_budget(self) -> None:
        probes = self.ledger._ready_queue.probes()
        claim_budget = self.ledger.flow.claim_budget(self.now)
        if not probes:
            # The reader is woken by what should wait now.
            self.aim = self.prefetch_window.aim(self.idle_workers)
        assert 0 <= claim_budget <= self.max_messages
        assert (
            claim_budget == 0
            or self.ledger.flow.held + claim_budget <= self.prefetch_window.capacity
        )
        self.nothing_to_claim |= claim_budget == 0

    def the_reader_is_woken_for_idle_workers(self) -> None:
        """Check that the reader is woken once it could read for an idle worker.

        Entries whose start can't be confirmed now keep no worker busy. But what is read
        behind them could not start either, so they count as work.
        """
        if self.reader_waiting and not self.capacity_signals and not self.late:
            could = (
                self.idle_workers > self.ledger.flow.takeable
                and not self.ledger.flow.at_capacity
            )
            assert not could, "the reader sleeps although a worker is idle"

    def add(self, copy: Copy) -> None:
        """Add a copy to the ledger's and to those that wait."""
        self.copies.append(copy)
        self.counts["received"] += 1
        if copy.state in WAITING:
            self.waiting_copies.append(copy)

    def id_for(self, shard: Shard, kind: str, number: int) -> bytes:
        # A recovery finds entries in flight, and entries that have been pending for
        # long. A group that was rewound delivers acknowledged entries again.
        past = [copy for copy in self.copies if copy.shard is shard]
        deleted_ids = self.deleted_in_flight(shard)
        if kind in {"again", "deleted"} and past:
            return pick(past, number).id
        if kind == "unread" and deleted_ids and number % 2:
            return pick(deleted_ids, number)
        self.next_number += 1
        return b"%d-0" % (self.next_number - 1)

    def read(self, shard: Shard, kinds: list[Kind], size: int, *, again: bool) -> None:
        """Read entries live; `again` if the group was rewound to them."""
        self._end_leases()
        self.ask_read_budget()
        each = size // max(1, len(kinds))
        entries: list[RawEntry] = []
        supply, count, before = self.supply, 0, self.ready_signals
        for kind, key, number in kinds:
            # Without acks only the position is rewound, and all entries are dropped.
            id_ = self.id_for(shard, kind if self.acks else "new", number)
            copy = Copy(shard, id_, key, each, 1, self.now)
            entries.append([id_, copy.fields])
            known = [c for c in self.in_ledger if c.id == id_ and c.shard is shard]
            if known and not self._is_redelivered(known[0], claimed=False, again=again):
                continue
            count += 1
            if self.others_of_id(copy, still_running=True):
                copy.state = State.REDELIVERED
            self.add(copy)
        added = self._check_committer_woken(
            lambda: self.ledger.deliveries.received(
                shard, entries, self.now, size, rewound=again
            )
        )
        assert added == count
        self.check_woken(supply, added + self.ready_signals - before)
        # The reader asks for its budget again.
        self.ask_read_budget()

    def recover(
        self, shard: Shard, kinds: list[Kind], attempts: int, *, claimed: bool
    ) -> None:
        """Recover pending entries, or claim them."""
        if not self.acks:
            return
        self.ask_read_budget()
        entries: list[RawEntry] = []
        counts: dict[bytes, int] = {}
        used_up: list[Copy] = []
        supply, count, before = self.supply, 0, self.ready_signals
        # An id is pending once.
        ids = {self.id_for(shard, kind[0], kind[2]): kind for kind in kinds}
        for id_, (kind, key, number) in ids.items():
            copy = Copy(shard, id_, key, 0, 1, self.now)
            copy.size = sum(map(len, copy.fields))
            fields: list[bytes] | None = copy.fields
            if kind in {"unread", "deleted"}:
                # Empty if the ledger had the entry when its fields were requested.
                fields = [] if number % 5 == 0 and not claimed else None
            entries.append([id_, fields])
            server_count = attempts + number % 2
            if server_count or number % 3:
                counts[id_] = server_count
            known = [c for c in self.in_ledger if c.id == id_ and c.shard is shard]
            if known and not self._is_redelivered(
                known[0], claimed=claimed, again=False
            ):
                continue
            if fields:
                count += self._add_recovered(copy, server_count)
                used_up += [copy] * (copy.disposition is not None)
            elif fields is None and id_ not in self.deleted_in_flight(shard):
                self.deleted_ids[shard.key].append(id_)
                self.counts["deleted"] += 1
        added = self._check_committer_woken(
            lambda: self.ledger.deliveries.recovered(
                shard, entries, self.now, counts, claimed=claimed
            )
        )
        assert added == count
        assert [e.id for e in self.exhausted] == [copy.id for copy in used_up]
        for copy, entry in zip(used_up, self.exhausted, strict=True):
            copy.entry = entry
        self.exhausted.clear()
        self.check_woken(supply, added + self.ready_signals - before)
        # The reader asks for its budget again. A claim has brought entries for idle
        # workers.
        if claimed:
            self.reader_waiting = False
        else:
            self.ask_read_budget()

    def _add_recovered(self, copy: Copy, server_count: int) -> bool:
        """Add a recovered copy; return False if it has no attempt left."""
        most = self.max_attempts
        starts = max(0, server_count - 1)
        copy.deliveries = starts + 1
        if most is not None and starts >= most:
            copy.deliveries, copy.state = starts, State.UNSETTLED
            copy.disposition = self.given_up
            self.add(copy)
            self._apply(copy, self.given_up)
            return False
        # A handler that runs an earlier delivery here has killed no process.
        running = bool(self.others_of_id(copy, still_running=True))
        if server_count or running:
            copy.state, copy.suspected = State.TO_COUNT, not running
        last = 5 if most is None else most
        copy.probe = copy.suspected and starts > 0 and starts + 1 >= last
        self.add(copy)
        return True

    def _is_redelivered(self, copy: Copy, *, claimed: bool, again: bool) -> bool:
        """Replace a copy that was delivered again; return False if it stays."""
        self.reordered |= again
        match copy.state:
            case State.UNSETTLED if claimed or again:
                copy.left_ledger = True
            case State.RUNNING | State.FAILED if again:
                copy.state = State.LOST
                copy.still_running = True
            case State.TO_ACK | State.POSTPONED | State.TO_DEAD_LETTER if again:
                copy.state = State.LOST
            case State.ACKING | State.DEAD_LETTERING if again:
                copy.left_ledger = True
            case State.ACKING:
                if copy.id not in self.deleted_in_flight(copy.shard):
                    self.deleted_ids[copy.shard.key].append(copy.id)
                return False
            case _:
                return False
        return True

    def check_woken(self, before: tuple[int, set[int]], workers: int) -> None:
        """Check that as many workers were woken as can take more than before."""
        supply, queue = self.supply
        # A worker that was woken for an entry that has left takes its successor.
        workers += len(before[1] - queue)
        assert supply - before[0] <= workers, "an entry waits, and no worker was woken"

    # -- seeks, and shards that are removed ----------------------------------------

    def drop(self, shard: Shard) -> None:
        supply, signals = self.supply, self.ready_signals
        removed = self.having(*WAITING, State.POSTPONED)
        removed = [copy for copy in removed if copy.shard is shard]
        assert self.ledger.removals.drop(shard) == len(removed)
        for copy in removed:
            copy.state, copy.dropped = State.DONE, True
        self._remove_from_waiting()
        self.check_woken(supply, self.ready_signals - signals)
        self.ask_read_budget()

    def rewind(self, shard: Shard, number: int) -> None:
        """Drop waiting copies, and the outcomes of those that will be redelivered."""
        self.drop(shard)
        if not self.acks:
            return
        supply, signals = self.supply, self.ready_signals
        mark = EntryId(pick(range(self.next_number), number))
        for copy in self.in_ledger:
            if copy.shard is shard and EntryId.parse(copy.id) > mark:
                copy.still_running |= copy.state in {State.RUNNING, State.FAILED}
                on_its_way = copy.state in {State.ACKING, State.DEAD_LETTERING}
                copy.state = copy.state if on_its_way else State.LOST
        self.ledger.removals.rewind(shard, mark)
        self.check_woken(supply, self.ready_signals - signals)
        self.ask_read_budget()

    def release_shard(self, shard: Shard) -> None:
        supply, signals = self.supply, self.ready_signals
        removed = self.having(*WAITING, State.POSTPONED) + self.known_as(
            State.UNSETTLED
        )
        removed = [c for c in removed if c.shard is shard]
        self._check_released(removed, self.ledger.removals.release_shard(shard))
        self.check_woken(supply, self.ready_signals - signals)
        self.ask_read_budget()

    def _check_released(
        self,
        copies: list[Copy],
        released: Iterable[tuple[Shard, int, list[bytes]]],
    ) -> None:
        expected = Counter((c.shard.key, c.id, released_count(c)) for c in copies)
        assert expected == Counter(
            (shard.key, id_, deliveries)
            for shard, deliveries, ids in released
            for id_ in ids
        )
        for copy in copies:
            copy.state = State.RELEASED
        self._remove_from_waiting()

    def _remove_from_waiting(self) -> None:
        self.waiting_copies = [
            copy for copy in self.waiting_copies if copy.state in WAITING
        ]

    def _end_leases(self) -> None:
        """Remove unsettled copies as the ledger does, three times a lease."""
        if self.now - self.swept > LEASE / 3:
            self.swept = self.now
            for copy in self.having(State.UNSETTLED):
                if copy.leased_at <= self.now - LEASE:
                    copy.left_ledger = True

    # -- leases and counts ---------------------------------------------------------

    def pass_time(self, number: int) -> None:
        self.now += pick([1.0, LEASE / 4, LEASE / 2, LEASE * 2], number)
        self.send_renewals()

    def send_renewals(self) -> None:
        supply, signals = self.supply, self.ready_signals
        third, two_thirds = self.now - LEASE / 3, self.now - LEASE * 2 / 3
        claim_budget = self.spare_probes
        for copy in claim_budget:
            if copy.leased_at <= two_thirds:
                copy.state = State.RELEASED
        self._remove_from_waiting()
        due = [
            copy
            for copy in self.in_ledger
            if copy.state is not State.UNSETTLED
            and copy not in claim_budget
            and copy.leased_at <= third
        ]
        late = any(copy.leased_at <= two_thirds for copy in due)
        for renewal in self.ledger.to_renew(self.now):
            copies = [c for c in due if c.shard is renewal.shard_state.shard]
            assert Counter(renewal.ids) == Counter(copy.id for copy in copies)
            assert renewal.late == late
            assert renewal.count is None
            due = [copy for copy in due if copy not in copies]
            self.renewals_in_flight.append(SentRenewal(renewal, copies, self.now))
        assert not due
        self.check_woken(supply, self.ready_signals - signals)
        released = [copy for copy in claim_budget if copy.state is State.RELEASED]
        if released and self.reader_waiting:
            assert self.capacity_signals, "the reader sleeps although less is held"

    def release_probes(self, most: int) -> None:
        """Release probes that would wait, so that other consumers can try them."""
        supply, signals = self.supply, self.ready_signals
        waiting = [entry for entry in self.ledger._ready_queue.waiting() if entry.probe]
        left = {(e.shard.key, e.id) for e in waiting[1 + most :]}
        copies = [c for c in self.spare_probes if (c.shard.key, c.id) in left]
        self._check_released(copies, self.ledger.removals.release_probes(1 + most))
        self.check_woken(supply, self.ready_signals - signals)
        if copies and self.reader_waiting:
            assert self.capacity_signals, "the reader sleeps although less is held"

    def begin_turn(self) -> None:
        self.ledger.work.begin_turn(self.now)
        self.ended = self.now - LEASE if self.acks else float("-inf")
        self.counting = self.acks and (
            self.max_attempts == 1 or self.prefetch_window.slow
        )
        assert self.ledger.work.counts_starts == self.counting

    def answer_renewal(self, number: int) -> None:
        if not self.renewals_in_flight:
            return
        sent = pick(self.renewals_in_flight, number)
        self.renewals_in_flight.remove(sent)
        # The bits of the number say which leases were kept.
        ours = [copy for index, copy in enumerate(sent.copies) if number >> index & 1]
        removed = [copy for copy in sent.copies if copy not in ours]
        removed = [c for c in removed if c.state not in OVER | SENT]
        supply, signals = self.supply, self.ready_signals
        for copy in removed:
            copy.state = State.LOST
        self._remove_from_waiting()
        lost = len(
            self.ledger.removals.lose_all_but(sent.renewal, [copy.id for copy in ours])
        )
        assert lost == len(removed)
        if lost and self.reader_waiting:
            assert self.capacity_signals, "the reader sleeps although less is held"
        remaining = [c for c in sent.copies if c.state not in OVER]
        assert Counter(sent.renewal.ids) == Counter(copy.id for copy in remaining)
        self.counts["lost"] += lost
        self.check_woken(supply, self.ready_signals - signals)
        for copy in sent.copies:
            copy.leased_at = max(copy.leased_at, sent.when)
        self.ledger.leases.renewed(sent.renewal, sent.when)

    def confirm_start(self, number: int) -> None:
        """Confirm a start, which has renewed the lease."""
        running = [copy for copy in self.with_handler if copy.entry]
        if self.acks and running:
            copy = pick(running, number)
            assert copy.entry is not None
            self.ledger.leases.counted(copy.entry, self.now - 1)
            copy.leased_at = max(copy.leased_at, self.now - 1)

    def lose(self, number: int) -> None:
        """Lose a taken entry to another consumer, also after its handler.

        Its transaction may have told, which an owner's token was compared with.
        """
        finished = [c for c in self.in_ledger if c.entry and not c.with_handler]
        taken = [*self.with_handler, *finished]
        if not (self.acks and taken):
            return
        copy = pick(taken, number)
        assert copy.entry is not None
        supply, signals = self.supply, self.ready_signals
        fenced = number % 2 and copy.state is not State.DEAD_LETTERING
        is_lost = copy.state not in OVER | SENT
        if is_lost:
            copy.state = State.LOST
            self.counts["lost"] += 1
        self._remove_from_waiting()
        (self.ledger.fenced if fenced else self.ledger.removals.lose)(copy.entry)
        assert not self.ledger.may_start(copy.entry)
        self.check_woken(supply, self.ready_signals - signals)
        if is_lost and self.reader_waiting:
            assert self.capacity_signals, "the reader sleeps although less is held"

    # -- workers and users ---------------------------------------------------------

    def take(self) -> None:
        takeable = self.takeable
        is_due = self.ledger.work.next_is_counted
        if is_due:
            assert self.ledger.work.take() is None, "the start has not been counted"
            assert self.ledger.work.next_is_counted
        repeated, alone = (
            self.ledger.work.next_is_repeated,
            self.ledger.work.next_is_probe,
        )
        entry = self.ledger.work.take_counted()[0] if is_due else self._taken()
        if entry is None:
            if not self.head_is_late:
                assert not takeable
                assert not self.ledger.work.length
            assert not repeated
            assert not alone
            return
        self.the_reader_is_woken_when_all_is_free()
        [copy] = [c for c in takeable if (c.shard, c.id) == (entry.shard, entry.id)]
        assert (self.counting or copy.state is State.TO_COUNT) == is_due
        assert copy.leased_at > self.ended
        assert alone == copy.probe
        if self.ordering is Ordering.NONE and not self.reordered:
            assert copy is takeable[0]
        assert copy.entry in {None, entry}
        copy.entry, copy.order_number = entry, self.order_number
        copy.state, copy.with_handler = State.RUNNING, True
        self.waiting_copies.remove(copy)
        assert self.ledger.may_start(entry)
        assert repeated == (copy.deliveries > 1)
        assert list(entry.fields) == copy.fields
        assert (entry.size, entry.deliveries) == (copy.size, copy.deliveries)
        assert (entry.leased_at, entry.suspected) == (copy.leased_at, copy.suspected)
        assert entry.probe == copy.probe

    def _taken(self) -> Entry | None:
        """Take an entry by either method."""
        if len(self.with_handler) % 2:
            return self.ledger.work.take()
        fresh = self.ledger.work.take_fresh(1)
        return fresh[0] if fresh else self.ledger.work.take()

    def put_back(self, number: int) -> None:
        """Put back a taken entry, which may be lost or released by now."""
        # Without acks no start is counted, so a taken entry always starts.
        waits = [c for c in self.with_handler if c.state in {*OVER, State.RUNNING}]
        if not (self.acks and waits):
            return
        copy = pick(waits, number)
        assert copy.entry is not None
        supply, signals, deferred = self.supply, self.ready_signals, self.deferred
        copy.with_handler = False
        self.ledger.put_back(copy.entry)
        if copy.state is State.RUNNING:
            copy.state = State.TO_COUNT
            self._insert_first(copy)
        self.reordered = True
        self.check_woken(
            supply, self.ready_signals - signals + (copy.state is not State.TO_COUNT)
        )
        assert len(deferred) - len(self.deferred) <= 1

    def _insert_first(self, copy: Copy) -> None:
        if self.ordering is Ordering.NONE or copy.order_number == self.order_number:
            self.waiting_copies.insert(0, copy)
        else:
            self.waiting_copies.append(copy)

    def the_reader_is_woken_when_all_is_free(self) -> None:
        free = self.prefetch_window.capacity - self.ledger.flow.held >= self.aim > 0
        waits = self.ledger.flow.takeable or self.ledger._ready_queue.behind
        if self.reader_waiting and not self.late and free and not waits:
            assert self.capacity_signals, "the reader sleeps although no entry waits"

    def change_idle_workers(self, change: int) -> None:
        change = max(change, -self.idle_workers)
        self.idle_workers += change
        self.ledger.flow.waiting_changed(change)
        if change > 0 and self.reader_waiting:
            assert self.capacity_signals, "the reader sleeps although a worker is idle"

    @property
    def settleable(self) -> list[Copy]:
        """Copies handed out and not refused, which may be acknowledged at any time."""
        return [c for c in self.copies if c.entry is not None and c.disposition is None]

    def acknowledge(self, number: int) -> None:
        """Acknowledge as a user does by `message.ack()`: early, late, or again."""
        if not (self.acks and self.settleable):
            return
        copy = pick(self.settleable, number)
        assert copy.entry is not None
        entry = copy.entry
        if copy.state in WAITING | {State.POSTPONED}:
            return  # it was put back or postponed, so no user has it
        accepted = self._check_committer_woken(lambda: self.ledger.ack(entry))
        assert accepted == (copy.state is not State.RELEASED)
        if self._is_superseded(copy):
            copy.state = State.LOST
        self.counts["late"] += copy.state is State.LOST
        # Its id may be acknowledged already, as a deleted one.
        is_deleted = copy.id in self.deleted_in_flight(copy.shard)
        if copy.state is State.RUNNING or (
            copy.state is State.UNSETTLED and not is_deleted
        ):
            copy.state, copy.left_ledger = State.TO_ACK, False

    def _is_superseded(self, copy: Copy) -> bool:
        """Return whether a copy was left unsettled and a later delivery counts."""
        return copy.state is State.UNSETTLED and bool(self.others_of_id(copy))

    def transact(self, number: int) -> None:
        """Acknowledge by a transaction, early or late."""
        waits = WAITING | {State.POSTPONED}
        within = [c for c in self.copies if c.entry and c.state not in waits]
        if not (self.acks and within):
            return
        copy = pick(within, number)
        assert copy.entry is not None
        pending = copy.state in {*WITH_HANDLER, State.UNSETTLED}
        assert self.ledger.applied(copy.entry) == pending
        if pending:
            copy.state = State.DONE
            self.confirmed.append(copy)
            self.counts["acked"] += 1
            copy.entry.shard_state.counters.acked += 1

    def disposition(self, number: int) -> Disposition:
        when = self.now + pick([0.0, 1.0, 5.0, 5.0, 40.0], number // 7)
        again = RetryAt(0.0, when)
        kinds: list[Disposition] = [again, again, again]
        return pick([*kinds, DeadLettered("no"), Dropped("no"), Stopped("no")], number)

    def refuse(self, number: int) -> None:
        """Refuse as a user does by `message.nack()` or `reject()`, early or late."""
        may = {State.RUNNING, State.UNSETTLED, State.LOST, State.RELEASED}
        within = [copy for copy in self.settleable if copy.state in may]
        if not (self.acks and within):
            return
        copy, disposition = pick(within, number), self.disposition(number)
        assert copy.entry is not None
        entry, now = copy.entry, self.ledger.retries.next_due
        signals = self.postponed_signals
        accepted = self._check_committer_woken(
            lambda: self.ledger.refuse(entry, disposition, copy.fields)
        )
        assert accepted == (copy.state is not State.RELEASED)
        if self._is_superseded(copy):
            copy.state = State.LOST
        self.counts["late"] += copy.state is State.LOST
        if copy.state is State.RUNNING:
            copy.state, copy.disposition = State.FAILED, disposition
            assert self.ledger.retries.next_due == now
        elif copy.state is State.UNSETTLED and not copy.left_ledger:
            copy.disposition = disposition
            self._apply(copy, disposition)
            self._check_retrier_woken(now, signals)

    def _apply(self, copy: Copy, disposition: Disposition) -> None:
        """Apply a disposition to a copy."""
        match disposition:
            case RetryAt():
                self._postpone(copy, disposition)
            case DeadLettered():
                copy.state = State.TO_DEAD_LETTER
            case Dropped():
                copy.state = State.TO_ACK
                self.counts["dropped"] += 1
            case Stopped():
                copy.state = State.UNSETTLED
                self.counts["left"] += 1

    def _postpone(self, copy: Copy, disposition: RetryAt) -> None:
        later = Copy(
            copy.shard,
            copy.id,
            copy.key,
            copy.size,
            copy.deliveries,
            copy.leased_at,
            State.POSTPONED,
            order_number=copy.order_number if copy.state is State.FAILED else -1,
        )
        copy.state = State.LOST
        self.copies.insert(self.copies.index(copy), later)
        shard_state = self.ledger.shards[copy.shard.key]
        later.entry = shard_state.entries[copy.id]
        assert later.entry is not copy.entry
        self.due[later] = disposition.due
        self.counts["retried"] += 1

    def _check_retrier_woken(self, before: float | None, signals: int) -> None:
        due = self.ledger.retries.next_due
        earlier = due is not None and (before is None or due < before)
        assert self.postponed_signals - signals == earlier

    def make_due(self) -> None:
        waits = self.having(State.POSTPONED)
        due_now = [c for c in self.due if c in waits and self.due[c] <= self.now]
        supply = self.supply
        number = self.ledger.retries.make_due(self.now)
        assert number == len(due_now)
        for copy in sorted(due_now, key=self.due.__getitem__):
            copy.state = State.TO_COUNT
            copy.deliveries += 1
            self._insert_first(copy)
            self.reordered = True
        self.check_woken(supply, number)

    def finish(self, number: int, *, ack: bool) -> None:
        def step(entry: Entry) -> None:
            if ack and number % 2:
                self.ledger.processed(entry)
            else:
                self.ledger.finish(entry, ack=ack)

        self._finish(number, step, None, ack=ack)

    def fail(self, number: int) -> None:
        if self.acks:
            disposition = self.disposition(number // 3)
            self._finish(
                number,
                lambda entry: self.ledger.fail(entry, disposition),
                disposition,
                ack=False,
            )

    def _finish(
        self,
        number: int,
        step: Callable[[Entry], None],
        disposition: Disposition | None,
        *,
        ack: bool,
    ) -> None:
        if not self.with_handler:
            return
        copy = pick(self.with_handler, number)
        assert copy.entry is not None
        entry, deferred, now = copy.entry, self.deferred, self.ledger.retries.next_due
        supply, signals, retries = (
            self.supply,
            self.ready_signals,
            self.postponed_signals,
        )
        self._check_committer_woken(lambda: step(entry))
        copy.with_handler = False
        free = [c for c in deferred if (c.id, c.shard) == (copy.id, copy.shard)]
        due = len(free if copy.still_running else [])
        assert self.ready_signals - signals == due
        if copy.state is State.RUNNING and disposition is not None:
            copy.state, copy.disposition = State.FAILED, disposition
        if copy.state is State.FAILED:
            assert copy.disposition is not None
            self._apply(copy, copy.disposition)
        elif copy.state is State.LOST:
            self.counts["late"] += ack
        elif copy.state is State.RUNNING:
            if not self.acks:
                copy.state = State.DONE
                self.counts["acked"] += 1
            elif ack:
                copy.state = State.TO_ACK
            else:
                copy.state = State.UNSETTLED
                self.counts["left"] += 1
        self._check_retrier_woken(now, retries)
        # The worker that has finished looks for the next entry itself.
        self.check_woken(supply, 1 + self.ready_signals - signals)
        self.the_reader_is_woken_when_all_is_free()

    @property
    def deferred(self) -> list[Copy]:
        """Copies that the ledger has deferred because an earlier delivery runs."""
        ids = {
            (key, id_)
            for key, shard_state in self.ledger.shards.items()
            for id_ in shard_state.deferred
        }
        return [c for c in self.firsts if (c.shard.key, c.id) in ids]

    def order_by(self, ordering: Ordering) -> None:
        self.ledger.order_by(ordering)
        if ordering is not self.ordering:
            self.ordering = ordering
            self.order_number += 1
            self.reordered = True
            self.waiting_copies = self.having(*WAITING)

    def hold(self, *, held: bool) -> None:
        signals = self.ready_signals
        self.ledger.hold_starts(held=held)
        self.held = held
        if not held and self.ledger.work.length:
            assert self.ready_signals == signals + 1, "no worker was woken"

    # -- the committer -------------------------------------------------------------

    def send_acks(self) -> None:
        settled = self.having(State.TO_ACK)
        for batch in self.ledger.acks.to_send():
            key = batch.shard_state.shard.key
            entries = list(batch.entries)
            copies = [copy for copy in settled if copy.shard.key == key]
            # Each acknowledged copy is in the batch once, and no other.
            assert Counter(map(id, entries)) == Counter(id(c.entry) for c in copies)
            assert list(batch.deleted_ids) == self.deleted_ids[key]
            self.deleted_ids[key] = []
            assert batch.ids == [e.id for e in entries] + list(batch.deleted_ids)
            assert batch.ids, "an empty XACK is an error"
            assert batch.repeated == (key in self.shards_without_reply)
            for copy in copies:
                copy.state = State.ACKING
            self.sent.append(Sent(batch, copies))
        assert not self.having(State.TO_ACK)
        assert not any(self.deleted_ids.values())
        copies = [c for s in self.sent for c in s.copies if not c.left_ledger]
        batched = Counter((c.shard, c.id) for c in copies)
        assert not batched or max(batched.values()) == 1, "an id is in two batches"

    def confirm_acks(self, number: int) -> None:
        if not self.sent:
            return
        sent = pick(self.sent, number)
        self.sent.remove(sent)
        self.ledger.ack_confirmed(sent.batch)
        self.shards_without_reply.discard(sent.batch.shard_state.shard.key)
        for copy in sent.copies:
            copy.state = State.DONE
            self.counts["acked"] += 1
            self.confirmed.append(copy)
        if self.reader_waiting:
            assert self.capacity_signals, (
                "the reader sleeps although outcomes have left"
            )

    def lose_ack_reply(self, number: int) -> None:
        if not self.sent:
            return
        sent = pick(self.sent, number)
        self.sent.remove(sent)
        self.ledger.acks.unconfirmed(sent.batch)
        self.shards_without_reply.add(sent.batch.shard_state.shard.key)
        key = sent.batch.shard_state.shard.key
        self.deleted_ids[key] = [*sent.batch.deleted_ids, *self.deleted_ids[key]]
        for copy in sent.copies:
            copy.state = State.TO_ACK

    def send_dead_letters(self, most: int) -> None:
        dead = self.having(State.TO_DEAD_LETTER)
        taken = self.ledger.acks.dead_letters_to_send(most)
        assert len(taken) == min(most, len(dead))
        for entry in taken:
            [copy] = [copy for copy in dead if copy.entry is entry]
            copy.state = State.DEAD_LETTERING
            assert list(entry.fields) == copy.fields
            assert isinstance(entry.disposition, DeadLettered)
            self.dead_letters_in_flight.append(copy)

    def answer_dead_letter(self, number: int) -> None:
        if not self.dead_letters_in_flight:
            return
        copy = pick(self.dead_letters_in_flight, number)
        self.dead_letters_in_flight.remove(copy)
        assert copy.entry is not None
        entry, held = copy.entry, self.ledger.flow.held
        replies = ["ours", "ours", "theirs", "fenced", "written", "no reply"]
        reply = pick(replies, number // 3)
        match reply:
            case "written":
                self._check_committer_woken(
                    lambda: self.ledger.dead_letter_written(entry)
                )
            case "no reply":
                self.ledger.dead_letter_unconfirmed(entry)
            case "fenced":
                self.ledger.fenced(entry)
            case _:
                self.ledger.dead_letter_confirmed(entry, ours=reply == "ours")
        if copy.state is State.RELEASED:
            assert self.ledger.flow.held == held
            return
        if reply == "no reply":
            # A dead letter whose entry was redelivered meanwhile is not sent again.
            copy.state = State.LOST if copy.left_ledger else State.TO_DEAD_LETTER
        elif reply == "written":
            copy.state = State.TO_ACK
            self.counts["dead"] += 1
        elif reply == "fenced":
            copy.state = State.LOST
            self.counts["lost"] += 1
        else:
            copy.state, copy.dropped = State.DONE, True
            self.counts["dead" if reply == "ours" else "lost"] += 1
        if copy.state is not State.TO_DEAD_LETTER and self.reader_waiting:
            assert self.capacity_signals, "the reader sleeps although less is held"

    def _check_committer_woken(self, step: Callable[[], T]) -> T:
        """Run a step, and check that the committer is woken if it has to be."""
        before, signals = self.ledger.acks.uncommitted, self.outcome_signals
        dead_lettering = self.ledger.acks.dead_lettering
        result = step()
        after = self.ledger.acks.uncommitted
        due = {1, self.max_pending} & set(range(before + 1, after + 1))
        new_dead_letters = max(0, self.ledger.acks.dead_lettering - dead_lettering)
        assert self.outcome_signals - signals == len(due) + new_dead_letters
        return result

    # -- closing -------------------------------------------------------------------

    def release(self) -> None:
        # The reader has ended by then.
        self.reader_waiting = False
        known = self.known_as(State.UNSETTLED, *WITH_HANDLER, *DEAD_LETTER_STATES)
        back = [*self.having(*WAITING, State.POSTPONED), *known]
        self._check_released(back, self.ledger.removals.release())

    # -- steps in any order --------------------------------------------------------

    # One rule for all steps: of many rules, a run has too few of each.
    @rule(
        shard=st.sampled_from(SHARDS),
        kinds=st.lists(
            st.tuples(
                st.sampled_from(["new", "new", "new", "again", "unread", "deleted"]),
                st.sampled_from([None, "", "k", "l"]),
                picks,
            ),
            max_size=8,
        ),
        size=st.integers(0, 300),
        attempts=st.sampled_from([0, 0, 1, 1, 2, 4]),
        how=st.sampled_from(["read", "read", "again", "recover", "recover", "claim"]),
        script=st.lists(
            st.tuples(
                st.sampled_from(
                    [*"tttttttttfffFFFxxxxaaTnniiiippccurRRRlsohhHdSgmmeEbLkKBBDDD"]
                ),
                picks,
            ),
            max_size=25,
        ),
    )
    def run_script(
        self,
        *,
        shard: Shard,
        kinds: list[Kind],
        size: int,
        attempts: int,
        how: str,
        script: list[tuple[str, int]],
    ) -> None:
        if how in {"recover", "claim"}:
            self.recover(shard, kinds, attempts, claimed=how == "claim")
        else:
            self.read(shard, kinds, size, again=how == "again" and self.acks)
        self.everything_adds_up()
        for action, number in script:
            self.step(action, number)
            self.everything_adds_up()

    def step(self, action: str, number: int) -> None:
        steps: dict[str, Callable[[], None]] = {
            "t": self.take,
            "f": lambda: self.finish(number, ack=False),
            "F": lambda: self.finish(number, ack=True),
            "x": lambda: self.fail(number),
            "a": lambda: self.acknowledge(number),
            "T": lambda: self.transact(number),
            "n": lambda: self.refuse(number),
            "i": self.make_due,
            "p": self.send_acks,
            "c": lambda: self.confirm_acks(number),
            "u": lambda: self.lose_ack_reply(number),
            "r": lambda: self.pass_time(number),
            "R": lambda: self.answer_renewal(number),
            "m": self.begin_turn,
            "e": lambda: self.release_probes(number % 3),
            "E": lambda: self.confirm_start(number),
            "l": self.ask_read_budget,
            "s": self.ask_claim_budget,
            "h": lambda: self.change_idle_workers(number % 3 + 1),
            "H": lambda: self.change_idle_workers(-(number % 3) - 1),
            "o": lambda: self.order_by(pick(Ordering, number)),
            "d": lambda: self.drop(pick(SHARDS, number)),
            "S": lambda: self.rewind(pick(SHARDS, number), number),
            "g": lambda: self.release_shard(pick(SHARDS, number)),
            "b": lambda: self.put_back(number),
            "L": lambda: self.lose(number),
            "k": lambda: self.hold(held=True),
            "K": lambda: self.hold(held=False),
            "B": lambda: self.send_dead_letters(number % 4),
            "D": lambda: self.answer_dead_letter(number),
        }
        steps[action]()

    # -- invariants ----------------------------------------------------------------

    @invariant()
    def everything_adds_up(self) -> None:
        self.held_entries_are_counted()
        self.every_copy_is_in_the_state_of_the_model()
        self.totals_add_up()
        self.outcomes_are_counted()
        self.workers_find_exactly_the_entries_that_may_run()
        self.suspects_are_set_aside_only_while_they_are_held()
        self.the_next_retry_is_the_earliest_postponed_copy()
        self.a_lane_runs_one_at_a_time()
        self.a_lane_exists_only_as_long_as_it_has_an_entry()
        self.no_two_handlers_have_the_same_id()
        self.the_reader_is_woken_for_idle_workers()

    def held_entries_are_counted(self) -> None:
        taking = [copy for copy in self.copies if copy.is_held]
        assert self.ledger.flow.held == len(taking)
        assert self.ledger.flow.size == sum(copy.size for copy in taking)

    def every_copy_is_in_the_state_of_the_model(self) -> None:
        for copy in self.copies:
            if copy.entry is not None:
                assert copy.entry.state is copy.state
                assert copy.entry.unconfirmed == (
                    copy.state in UNCOMMITTED | DEAD_LETTER_STATES
                )
                assert copy.entry.disposition == copy.disposition
                if copy.state not in {State.RELEASED, State.LOST}:
                    done = copy.state in {*OVER, *UNCOMMITTED, State.UNSETTLED}
                    assert bool(copy.entry.fields) == (not done)
        held_ids = Counter(
            (key, id_)
            for key, shard_state in self.ledger.shards.items()
            for id_ in shard_state.entries
        )
        assert held_ids == Counter((c.shard.key, c.id) for c in self.in_ledger)
        for shard in SHARDS:
            own = {c.id for c in self.in_ledger if c.shard is shard}
            assert set(self.ledger.shards.ids(shard)) == own

    def totals_add_up(self) -> None:
        counters = self.ledger.counters
        for name in (
            "received",
            "acked",
            "left",
            "deleted",
            "lost",
            "retried",
            "dead",
            "dropped",
            "late",
        ):
            assert getattr(counters, name) == self.counts[name], name

    def outcomes_are_counted(self) -> None:
        assert self.ledger.acks.uncommitted == self.uncommitted
        assert self.ledger.acks.dead_lettering == len(self.having(*DEAD_LETTER_STATES))
        assert self.ledger.acks.full == (self.uncommitted >= self.max_pending)
        unconfirmed = Counter(map(id, self.ledger.shards.unconfirmed()))
        # Nothing waits for a sent outcome whose entry was redelivered since.
        own = [
            c
            for c in self.having(*UNCOMMITTED, *DEAD_LETTER_STATES)
            if not c.left_ledger
        ]
        assert unconfirmed == Counter(id(c.entry) for c in own)

    def workers_find_exactly_the_entries_that_may_run(self) -> None:
        firsts, deferred, ready_queue = (
            self.firsts,
            self.deferred,
            self.ledger._ready_queue,
        )
        waiting_firsts = [copy for copy in firsts if copy not in deferred]
        all_held = ready_queue.confirmed and ready_queue.held
        takeable = 0 if all_held else len(ready_queue.ready)
        assert self.ledger.work.length == takeable
        queued = [*ready_queue.ready, *ready_queue.set_aside]
        found = Counter((e.shard.key, e.id) for e in queued)
        assert found == Counter((c.shard.key, c.id) for c in waiting_firsts)
        # An entry is deferred as long as the earlier handler runs, and no longer.
        deferred_total = sum(len(a.deferred) for a in self.ledger.shards.values())
        assert deferred_total == len(deferred)
        assert not any(copy in self.takeable for copy in deferred)
        assert set(self.waiting_copies) == set(self.having(*WAITING))
        assert ready_queue.behind == len(self.waiting_copies) - len(firsts)

    def suspects_are_set_aside_only_while_they_are_held(self) -> None:
        ready_queue = self.ledger._ready_queue
        assert all(entry.suspected for entry in ready_queue.set_aside)
        assert self.held or not ready_queue.set_aside, "suspects wait forever"

    def the_next_retry_is_the_earliest_postponed_copy(self) -> None:
        waits = self.having(State.POSTPONED)
        first = min((self.due[copy] for copy in waits), default=None)
        assert self.ledger.retries.next_due == first

    def no_two_handlers_have_the_same_id(self) -> None:
        """Check that no two handlers have an id, unless it was acked early or lost."""
        running_ids = Counter(
            (copy.shard, copy.id)
            for copy in self.with_handler
            if copy.still_running or copy.state in WITH_HANDLER
        )
        assert not running_ids or max(running_ids.values()) == 1

    def a_lane_runs_one_at_a_time(self) -> None:
        if self.ordering is not Ordering.NONE:
            running = Counter(self.lane(copy) for copy in self.blocking)
            assert not running or max(running.values()) == 1

    def a_lane_exists_only_as_long_as_it_has_an_entry(self) -> None:
        ready_queue: set[Any] = set()
        if self.ordering is not Ordering.NONE:
            ready_queue = {
                self.lane(copy) for copy in [*self.blocking, *self.waiting_copies]
            }
        assert len(self.ledger._ready_queue._lanes) == len(ready_queue)

    # -- the end -------------------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self._drain()

    def _drain(self) -> None:
        if self.ends_early:
            self.release()
            self.everything_adds_up()
            for number, _ in enumerate(self.copies):
                self.acknowledge(number)
                self.refuse(number)
        self.hold(held=False)
        self.ledger.work.begin_turn(float("-inf"))
        self.ended, self.counting = float("-inf"), self.ledger.work.counts_starts
        while self.with_handler or self.takeable or self.having(State.POSTPONED):
            if self.takeable:
                self.take()
            elif self.with_handler:
                self.finish(0, ack=True)
            else:
                self.now += 100.0
                self.make_due()
            self.everything_adds_up()
        assert self.ledger.work.take() is None
        while self.dead_letters_in_flight or self.having(State.TO_DEAD_LETTER):
            self.send_dead_letters(10)
            self.answer_dead_letter(0)
        self.send_acks()
        while self.sent:
            self.confirm_acks(0)
        counts = (
            self.ledger.flow.held,
            self.ledger.flow.size,
            self.ledger.acks.uncommitted,
        )
        assert counts == (0, 0, 0)
        assert self.ledger.acks.dead_lettering == 0
        assert not self.ledger._ready_queue._lanes
        assert not self.ledger._ready_queue.set_aside
        assert not any(a.still_running for a in self.ledger.shards.values())
        assert not self.ledger._queue
        # Every copy has left or is unsettled.
        over = {copy for copy in self.copies if copy.state in {*OVER, State.UNSETTLED}}
        assert over == set(self.copies)
        if self.acks:
            assert Counter(map(id, self.confirmed)) == Counter(
                map(id, self.acknowledged)
            )
        assert self.counts["acked"] == len(self.acknowledged)
        # The reader reads for idle workers.
        self.change_idle_workers(1)
        assert self.ledger.flow.read_budget(self.now) > 0


TestLedger = pytest.mark.timeout(900)(LedgerMachine.TestCase)
TestLedger.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
