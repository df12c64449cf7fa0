"""The ledger against a model that is too simple to be wrong.

The model knows of each *copy* (an entry from the read that booked it on; an id that
has left and comes again is another copy, and so is one that waits for its next attempt)
what a user would know, and derives all counts from that. Rules do what reader, workers,
users, retrier, claimer and committer do, in any order.
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
from penstock._core.ledger.limits import Limits, Signals
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
DYING = {State.TO_DEAD_LETTER, State.DEAD_LETTERING}
WAITING = {State.QUEUED, State.REDELIVERED, State.TO_COUNT}
WITH_HANDLER = {State.RUNNING, State.FAILED}
# What the server was told of, and has not answered; others can't have taken it.
SENT = {State.ACKING, State.DEAD_LETTERING}

T = TypeVar("T")


@dataclass(eq=False)
class Copy:
    """What the model knows of one booked entry."""

    shard: Shard
    id: bytes
    key: str | None
    size: int
    deliveries: int
    leased_at: float
    state: State = State.QUEUED
    suspected: bool = False
    probe: bool = False
    # In a handler's hands: taken and not finished.
    in_hand: bool = False
    # The order that it was started under, and whose lane it has; see `order_by`.
    era: int = -1
    # What its handler has refused it with.
    disposition: Disposition | None = None
    # Open or sent, and no longer in the books: its lease ended, or it came again.
    forgotten: bool = False
    # It came again while its handler was at it: the new one waits for that.
    awaited: bool = False
    # A seek has let it go, or its letter was written.
    dropped: bool = False
    # The ledger's entry, from when it was taken on.
    entry: Entry | None = None

    @property
    def takes_room(self) -> bool:
        held = self.state in WAITING | DYING | {State.POSTPONED}
        return self.in_hand or held

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
class Asked:
    """A renewal that waits for its reply."""

    renewal: LeaseRenewal
    copies: list[Copy]
    when: float


def told_of(copy: Copy) -> int:
    """Return the count that a released entry is given: its starts, and one."""
    unstarted = copy.state in {*WAITING, State.RUNNING}
    if unstarted and copy.deliveries == 1 and not copy.suspected:
        return 0
    return copy.deliveries if unstarted else copy.deliveries + 1


picks = st.integers(0, 10**6)


def pick(things: Iterable[T], number: int) -> T:
    listed = list(things)
    return listed[number % len(listed)]


Kind: TypeAlias = tuple[str, str | None, int]
"""What an entry of a read is: its kind, its key, and a number to pick by."""


class LedgerMachine(RuleBasedStateMachine):
    """Drives a ledger and its model."""

    def __init__(self) -> None:
        super().__init__()
        # In the order of the books.
        self.copies: list[Copy] = []
        # What waits, in the order in which it is to run within a lane.
        self.line: list[Copy] = []
        # Ghosts that wait, by shard; others are in batches.
        self.deleted_ids: dict[bytes, list[bytes]] = {shard.key: [] for shard in SHARDS}
        self.sent: list[Sent] = []
        self.asked: list[Asked] = []
        # Letters that wait for their reply.
        self.burying: list[Copy] = []
        self.ack_unconfirmed: set[bytes] = set()
        self.now = 0.0
        self.swept = 0.0
        self.era = 0
        self.next_number = 1
        # What `Counters` has.
        self.counts: Counter[str] = Counter()
        # Ids that the server was told of and confirmed, once for each copy.
        self.confirmed: list[Copy] = []
        # What is postponed, in that order, and when it is due.
        self.due: dict[Copy, float] = {}
        # Something was taken or put back out of the order of reading.
        self.out_of_turn = False
        self.held = False
        # As of the last turn: leases that began by then have ended, and whether starts
        # are counted.
        self.ended = float("-inf")
        self.counting = False
        # Workers that have nothing to do.
        self.idle_workers = 0
        # The reader saw no room, and how many should wait then; the claimer, none.
        self.waiting = False
        self.aim = 0
        self.nothing_spare = False
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
        self.max_messages = max_messages
        self.given_up = given_up
        self.prefetch_window = PrefetchWindow(max_messages, max_bytes, max_wait)
        self.ledger = Ledger(
            self.prefetch_window,
            Limits(
                max_pending=max_pending,
                max_uncommitted=max_uncommitted,
                max_attempts=max_attempts,
                lease=LEASE,
                acks=acks,
            ),
            Signals(
                on_capacity=self._ring_room,
                on_outcomes=self._ring_outcomes,
                on_ready=self._ring_ready,
                on_postponed=self._ring_postponed,
                on_exhausted=self._give_up,
            ),
        )
        self.ordering = ordering
        self.ledger.order_by(ordering)

    def _ring_room(self) -> None:
        self.capacity_signals += 1

    def _ring_outcomes(self) -> None:
        self.outcome_signals += 1

    def _ring_ready(self) -> None:
        self.ready_signals += 1

    def _ring_postponed(self) -> None:
        self.postponed_signals += 1

    def _give_up(self, entry: Entry) -> None:
        self.exhausted.append(entry)
        assert self.ledger.refuse(entry, self.given_up, entry.fields)

    # -- what the model derives ----------------------------------------------------

    @property
    def gone(self) -> list[Copy]:
        """What was handled to its end."""
        return [copy for copy in self.having(State.DONE) if not copy.dropped]

    def having(self, *states: State) -> list[Copy]:
        return [copy for copy in self.copies if copy.state in states]

    @property
    def in_hand(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.in_hand]

    @property
    def in_ledger(self) -> list[Copy]:
        if not self.acks:
            return []
        return [c for c in self.copies if c.state not in OVER and not c.forgotten]

    def known_as(self, *states: State) -> list[Copy]:
        return [copy for copy in self.in_ledger if copy.state in states]

    @property
    def uncommitted(self) -> int:
        deleted_ids = sum(len(self.deleted_in_flight(shard)) for shard in SHARDS)
        return len(self.having(*UNCOMMITTED)) + deleted_ids

    def deleted_in_flight(self, shard: Shard) -> list[bytes]:
        """Those that the server was not told of, or has not confirmed."""
        batches = [sent.batch for sent in self.sent]
        told = [b.deleted_ids for b in batches if b.shard_state.shard is shard]
        return [*self.deleted_ids[shard.key], *(id_ for ids in told for id_ in ids)]

    def lane(self, copy: Copy) -> object:
        match self.ordering:
            case Ordering.NONE:
                return copy
            case Ordering.KEY:
                return copy.shard.key, copy.key
            case Ordering.SHARD:
                return copy.shard.key

    @property
    def holders(self) -> list[Copy]:
        """What has its lane and does not wait: it runs, or is to run again."""
        away = [*self.in_hand, *self.having(State.POSTPONED)]
        return [copy for copy in away if copy.era == self.era]

    @property
    def firsts(self) -> list[Copy]:
        """The first of each lane that nothing else has."""
        busy = {self.lane(copy) for copy in self.holders}
        first: dict[object, Copy] = {}
        for copy in self.line:
            first.setdefault(self.lane(copy), copy)
        return [copy for lane, copy in first.items() if lane not in busy]

    @property
    def takeable(self) -> list[Copy]:
        """Those of them that may start now.

        No handler has it by an earlier read, and suspects are not held.
        """
        free = [copy for copy in self.firsts if not self.twins(copy, awaited=True)]
        return [copy for copy in free if not (copy.suspected and self.held)]

    @property
    def head_is_late(self) -> bool:
        """Whether the next one may belong to another consumer."""
        queue = self.ledger._queue
        return bool(queue) and queue[0].leased_at <= self.ended

    @property
    def supply(self) -> tuple[int, set[int]]:
        """How many workers could take something now, or will have tried to.

        And what stands in the queue: workers were told of it.
        """
        deferred = self.deferred
        there = [copy for copy in self.firsts if copy not in deferred]
        held = sum(copy.suspected for copy in there) if self.held else 0
        return len(there) - held, set(map(id, self.ledger._queue))

    @property
    def spare_probes(self) -> list[Copy]:
        """Suspects that wait to run alone, but for the first one."""
        if self.ordering is not Ordering.NONE:
            return []
        waiting = [entry for entry in self.ledger._ready_queue.waiting() if entry.probe]
        claim_budget = {(e.shard.key, e.id) for e in waiting[1:]}
        return [c for c in self.line if (c.shard.key, c.id) in claim_budget]

    def twins(self, copy: Copy, *, awaited: bool = False) -> list[Copy]:
        """Copies of the same id that are in the books; or in hand and awaited."""
        others = [c for c in self.in_hand if c.awaited] if awaited else self.in_ledger
        same = [c for c in others if (c.id, c.shard) == (copy.id, copy.shard)]
        return [other for other in same if other is not copy]

    @property
    def late(self) -> bool:
        most = self.max_uncommitted
        return most is not None and self.uncommitted > most

    # -- the reader ----------------------------------------------------------------

    def look_for_room(self) -> None:
        signals = self.capacity_signals
        flow = self.ledger.flow.read_budget(self.now)
        held = self.ledger.flow.held
        assert 0 <= flow <= self.max_messages
        assert flow == 0 or held + flow <= self.prefetch_window.capacity
        assert not (flow and self.late)
        self.aim = self.prefetch_window.aim(self.idle_workers)
        waiting = self.ledger.work.length + self.ledger._ready_queue.behind
        assert flow <= max(self.aim - waiting, self.idle_workers)
        if flow and self.nothing_spare:
            assert self.capacity_signals == signals + 1, "the claimer has to be told"
            self.nothing_spare = False
        self.waiting = flow == 0
        self.capacity_signals = 0
        self.the_reader_knows_who_has_nothing_to_do()

    def look_what_to_spare(self) -> None:
        claim_budget = self.ledger.flow.claim_budget(self.now)
        assert 0 <= claim_budget <= self.max_messages
        assert (
            claim_budget == 0
            or self.ledger.flow.held + claim_budget <= self.prefetch_window.capacity
        )
        self.nothing_spare |= claim_budget == 0

    def the_reader_knows_who_has_nothing_to_do(self) -> None:
        """See that it is rung as soon as it could read for somebody."""
        if self.waiting and not self.capacity_signals and not self.late:
            could = (
                self.idle_workers > self.ledger.work.length
                and not self.ledger.flow.at_capacity
            )
            assert not could, "the reader sleeps though a worker starves"

    def book(self, copy: Copy) -> None:
        """Have a copy in the books, and in line."""
        self.copies.append(copy)
        self.counts["received"] += 1
        if copy.state in WAITING:
            self.line.append(copy)

    def id_for(self, shard: Shard, kind: str, number: int) -> bytes:
        # A recovery meets what is in flight, and what is pending since long ago; a
        # group that was set back brings again what is acknowledged.
        past = [copy for copy in self.copies if copy.shard is shard]
        deleted_ids = self.deleted_in_flight(shard)
        if kind in {"again", "deleted"} and past:
            return pick(past, number).id
        if kind == "ghost" and deleted_ids and number % 2:
            return pick(deleted_ids, number)
        self.next_number += 1
        return b"%d-0" % (self.next_number - 1)

    def read(self, shard: Shard, kinds: list[Kind], size: int, *, again: bool) -> None:
        """Have something come by a live read, which may be one that was set back to."""
        self._end_leases()
        self.look_for_room()
        each = size // max(1, len(kinds))
        entries: list[RawEntry] = []
        supply, count, before = self.supply, 0, self.ready_signals
        for kind, key, number in kinds:
            # Without acks the position alone is set back, and then all is dropped.
            id_ = self.id_for(shard, kind if self.acks else "new", number)
            copy = Copy(shard, id_, key, each, 1, self.now)
            entries.append([id_, copy.fields])
            known = [c for c in self.in_ledger if c.id == id_ and c.shard is shard]
            if known and not self._is_redelivered(known[0], claimed=False, again=again):
                continue
            count += 1
            if self.twins(copy, awaited=True):
                copy.state = State.REDELIVERED
            self.book(copy)
        booked = self._outcomes_due(
            lambda: self.ledger.deliveries.received(
                shard, entries, self.now, size, rewound=again
            )
        )
        assert booked == count
        self.told(supply, booked + self.ready_signals - before)
        # Who reads looks again.
        self.look_for_room()

    def recover(
        self, shard: Shard, kinds: list[Kind], attempts: int, *, claimed: bool
    ) -> None:
        """Have pending entries found again, or taken over."""
        if not self.acks:
            return
        self.look_for_room()
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
            if kind in {"ghost", "deleted"}:
                # Or, it was in hand when it was asked for.
                fields = [] if number % 5 == 0 and not claimed else None
            entries.append([id_, fields])
            told = attempts + number % 2
            if told or number % 3:
                counts[id_] = told
            known = [c for c in self.in_ledger if c.id == id_ and c.shard is shard]
            if known and not self._is_redelivered(
                known[0], claimed=claimed, again=False
            ):
                continue
            if fields:
                count += self._book_returned(copy, told)
                used_up += [copy] * (copy.disposition is not None)
            elif fields is None and id_ not in self.deleted_in_flight(shard):
                self.deleted_ids[shard.key].append(id_)
                self.counts["deleted"] += 1
        booked = self._outcomes_due(
            lambda: self.ledger.deliveries.recovered(
                shard, entries, self.now, counts, claimed=claimed
            )
        )
        assert booked == count
        assert [e.id for e in self.exhausted] == [copy.id for copy in used_up]
        for copy, entry in zip(used_up, self.exhausted, strict=True):
            copy.entry = entry
        self.exhausted.clear()
        self.told(supply, booked + self.ready_signals - before)
        # Who reads looks again; who claims has brought something for the hungry.
        if claimed:
            self.waiting = False
        else:
            self.look_for_room()

    def _book_returned(self, copy: Copy, told: int) -> bool:
        """Book what has come back; False if it has no attempt left."""
        most = self.max_attempts
        starts = max(0, told - 1)
        copy.deliveries = starts + 1
        if most is not None and starts >= most:
            copy.deliveries, copy.state = starts, State.UNSETTLED
            copy.disposition = self.given_up
            self.book(copy)
            self._apply(copy, self.given_up)
            return False
        # Whoever has it here by an earlier read is alive.
        running = bool(self.twins(copy, awaited=True))
        if told or running:
            copy.state, copy.suspected = State.TO_COUNT, not running
        last = 5 if most is None else most
        copy.probe = copy.suspected and starts > 0 and starts + 1 >= last
        self.book(copy)
        return True

    def _is_redelivered(self, copy: Copy, *, claimed: bool, again: bool) -> bool:
        """Let go of a copy that has come again; False if it stays."""
        self.out_of_turn |= again
        match copy.state:
            case State.UNSETTLED if claimed or again:
                copy.forgotten = True
            case State.RUNNING | State.FAILED if again:
                copy.state = State.LOST
                copy.awaited = True
            case State.TO_ACK | State.POSTPONED | State.TO_DEAD_LETTER if again:
                copy.state = State.LOST
            case State.ACKING | State.DEAD_LETTERING if again:
                copy.forgotten = True
            case State.ACKING:
                if copy.id not in self.deleted_in_flight(copy.shard):
                    self.deleted_ids[copy.shard.key].append(copy.id)
                return False
            case _:
                return False
        return True

    def told(self, before: tuple[int, set[int]], workers: int) -> None:
        """See that as many workers were told as can take more than before."""
        supply, queue = self.supply
        # Who was told of what has left finds what has taken its place.
        workers += len(before[1] - queue)
        assert supply - before[0] <= workers, "it waits, and nobody was told"

    # -- seeking, and shards that are read no more ---------------------------------

    def drop(self, shard: Shard) -> None:
        supply, signals = self.supply, self.ready_signals
        gone = self.having(*WAITING, State.POSTPONED)
        gone = [copy for copy in gone if copy.shard is shard]
        assert self.ledger.removals.drop(shard) == len(gone)
        for copy in gone:
            copy.state, copy.dropped = State.DONE, True
        self._out_of_line()
        self.told(supply, self.ready_signals - signals)
        self.look_for_room()

    def set_back(self, shard: Shard, number: int) -> None:
        """Drop what waits, and have no outcome of what will come again count."""
        self.drop(shard)
        if not self.acks:
            return
        supply, signals = self.supply, self.ready_signals
        mark = EntryId(pick(range(self.next_number), number))
        for copy in self.in_ledger:
            if copy.shard is shard and EntryId.parse(copy.id) > mark:
                copy.awaited |= copy.state in {State.RUNNING, State.FAILED}
                on_its_way = copy.state in {State.ACKING, State.DEAD_LETTERING}
                copy.state = copy.state if on_its_way else State.LOST
        self.ledger.removals.rewind(shard, mark)
        self.told(supply, self.ready_signals - signals)
        self.look_for_room()

    def give_up(self, shard: Shard) -> None:
        supply, signals = self.supply, self.ready_signals
        gone = self.having(*WAITING, State.POSTPONED) + self.known_as(State.UNSETTLED)
        gone = [c for c in gone if c.shard is shard]
        self._given_back(gone, self.ledger.removals.release_shard(shard))
        self.told(supply, self.ready_signals - signals)
        self.look_for_room()

    def _given_back(
        self,
        copies: list[Copy],
        given: Iterable[tuple[Shard, int, list[bytes]]],
    ) -> None:
        expected = Counter((c.shard.key, c.id, told_of(c)) for c in copies)
        assert expected == Counter(
            (shard.key, id_, deliveries)
            for shard, deliveries, ids in given
            for id_ in ids
        )
        for copy in copies:
            copy.state = State.RELEASED
        self._out_of_line()

    def _out_of_line(self) -> None:
        self.line = [copy for copy in self.line if copy.state in WAITING]

    def _end_leases(self) -> None:
        """Do as the ledger does, which looks three times a lease."""
        if self.now - self.swept > LEASE / 3:
            self.swept = self.now
            for copy in self.having(State.UNSETTLED):
                if copy.leased_at <= self.now - LEASE:
                    copy.forgotten = True

    # -- leases and counts ---------------------------------------------------------

    def let_time_pass(self, number: int) -> None:
        self.now += pick([1.0, LEASE / 4, LEASE / 2, LEASE * 2], number)
        self.ask_for_renewal()

    def ask_for_renewal(self) -> None:
        supply, signals = self.supply, self.ready_signals
        third, two_thirds = self.now - LEASE / 3, self.now - LEASE * 2 / 3
        claim_budget = self.spare_probes
        for copy in claim_budget:
            if copy.leased_at <= two_thirds:
                copy.state = State.RELEASED
        self._out_of_line()
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
            self.asked.append(Asked(renewal, copies, self.now))
        assert not due
        self.told(supply, self.ready_signals - signals)
        if any(copy.state is State.RELEASED for copy in claim_budget):
            self.look_for_room()

    def release_probes(self, most: int) -> None:
        """Let others try suspects that would wait here to run alone."""
        supply, signals = self.supply, self.ready_signals
        waiting = [entry for entry in self.ledger._ready_queue.waiting() if entry.probe]
        left = {(e.shard.key, e.id) for e in waiting[1 + most :]}
        copies = [c for c in self.spare_probes if (c.shard.key, c.id) in left]
        self._given_back(copies, self.ledger.removals.release_probes(1 + most))
        self.told(supply, self.ready_signals - signals)
        if copies and self.waiting:
            assert self.capacity_signals, (
                "the reader sleeps though there is less in hand"
            )

    def begin_turn(self) -> None:
        self.ledger.work.begin_turn(self.now)
        self.ended = self.now - LEASE if self.acks else float("-inf")
        self.counting = self.acks and (
            self.max_attempts == 1 or self.prefetch_window.slow
        )
        assert self.ledger.work.counts_starts == self.counting

    def answer_renewal(self, number: int) -> None:
        if not self.asked:
            return
        asked = pick(self.asked, number)
        self.asked.remove(asked)
        # The number's bits say whose lease was kept.
        ours = [copy for index, copy in enumerate(asked.copies) if number >> index & 1]
        gone = [copy for copy in asked.copies if copy not in ours]
        gone = [c for c in gone if c.state not in OVER | SENT]
        supply, signals = self.supply, self.ready_signals
        for copy in gone:
            copy.state = State.LOST
        self._out_of_line()
        lost = len(
            self.ledger.removals.lose_all_but(asked.renewal, [copy.id for copy in ours])
        )
        assert lost == len(gone)
        if lost and self.waiting:
            assert self.capacity_signals, (
                "the reader sleeps though there is less in hand"
            )
        here = [c for c in asked.copies if c.state not in OVER]
        assert Counter(asked.renewal.ids) == Counter(copy.id for copy in here)
        self.counts["lost"] += lost
        self.told(supply, self.ready_signals - signals)
        for copy in asked.copies:
            copy.leased_at = asked.when
        self.ledger.leases.renewed(asked.renewal, asked.when)

    def confirm_start(self, number: int) -> None:
        """The server has counted a start, and renewed the lease by that."""
        running = [copy for copy in self.in_hand if copy.entry]
        if self.acks and running:
            copy = pick(running, number)
            assert copy.entry is not None
            self.ledger.leases.counted(copy.entry, self.now - 1)
            copy.leased_at = max(copy.leased_at, self.now - 1)

    def lose(self, number: int) -> None:
        """Of what was taken it is found that it is not ours any more."""
        if not (self.acks and self.in_hand):
            return
        copy = pick(self.in_hand, number)
        assert copy.entry is not None
        self.ledger.removals.lose(copy.entry)
        assert not self.ledger.may_start(copy.entry)
        if copy.state not in OVER | SENT:
            copy.state = State.LOST
            self.counts["lost"] += 1

    # -- workers and users ---------------------------------------------------------

    def take(self) -> None:
        takeable = self.takeable
        is_due = self.ledger.work.next_is_counted
        if is_due:
            assert self.ledger.work.take() is None, "the server has not been told"
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
        self.the_reader_is_rung_when_all_is_free()
        [copy] = [c for c in takeable if (c.shard, c.id) == (entry.shard, entry.id)]
        assert (self.counting or copy.state is State.TO_COUNT) == is_due
        assert copy.leased_at > self.ended
        assert alone == copy.probe
        if self.ordering is Ordering.NONE and not self.out_of_turn:
            assert copy is takeable[0]
        assert copy.entry in {None, entry}
        copy.entry, copy.era = entry, self.era
        copy.state, copy.in_hand = State.RUNNING, True
        self.line.remove(copy)
        assert self.ledger.may_start(entry)
        assert repeated == (copy.deliveries > 1)
        assert list(entry.fields) == copy.fields
        assert (entry.size, entry.deliveries) == (copy.size, copy.deliveries)
        assert (entry.leased_at, entry.suspected) == (copy.leased_at, copy.suspected)
        assert entry.probe == copy.probe

    def _taken(self) -> Entry | None:
        """Take one, now this way, now that."""
        if len(self.in_hand) % 2:
            return self.ledger.work.take()
        fresh = self.ledger.work.take_fresh(1)
        return fresh[0] if fresh else self.ledger.work.take()

    def put_back(self, number: int) -> None:
        """What was taken does not start; it may be lost or given back by now."""
        # Without acks the server is told of nothing, so that nothing comes in between.
        waits = [c for c in self.in_hand if c.state in {*OVER, State.RUNNING}]
        if not (self.acks and waits):
            return
        copy = pick(waits, number)
        assert copy.entry is not None
        supply, signals, deferred = self.supply, self.ready_signals, self.deferred
        copy.in_hand = False
        self.ledger.put_back(copy.entry)
        if copy.state is State.RUNNING:
            copy.state = State.TO_COUNT
            self._file_first(copy)
        self.out_of_turn = True
        self.told(
            supply, self.ready_signals - signals + (copy.state is not State.TO_COUNT)
        )
        assert len(deferred) - len(self.deferred) <= 1

    def _file_first(self, copy: Copy) -> None:
        if self.ordering is Ordering.NONE or copy.era == self.era:
            self.line.insert(0, copy)
        else:
            self.line.append(copy)

    def the_reader_is_rung_when_all_is_free(self) -> None:
        free = self.prefetch_window.capacity - self.ledger.flow.held >= self.aim > 0
        waits = self.ledger.work.length or self.ledger._ready_queue.behind
        if self.waiting and not self.late and free and not waits:
            assert self.capacity_signals, "the reader sleeps though nothing waits"

    def grow_hungry(self, change: int) -> None:
        change = max(change, -self.idle_workers)
        self.idle_workers += change
        self.ledger.flow.waiting_changed(change)
        if change > 0 and self.waiting:
            assert self.capacity_signals, "the reader sleeps though a worker starves"

    @property
    def in_users_reach(self) -> list[Copy]:
        """What was handed out and not refused; it may be acknowledged at any time."""
        return [c for c in self.copies if c.entry is not None and c.disposition is None]

    def acknowledge(self, number: int) -> None:
        """A user's `message.ack()`, early, late, or again."""
        if not (self.acks and self.in_users_reach):
            return
        copy = pick(self.in_users_reach, number)
        assert copy.entry is not None
        entry = copy.entry
        if copy.state in WAITING | {State.POSTPONED}:
            return  # it was put back, or is to be tried again: no user has it
        accepted = self._outcomes_due(lambda: self.ledger.ack(entry))
        assert accepted == (copy.state is not State.RELEASED)
        self.counts["late"] += copy.state is State.LOST
        told = copy.state is State.UNSETTLED and (
            # The new one counts, or the server is told in another way.
            self.twins(copy) or copy.id in self.deleted_in_flight(copy.shard)
        )
        if copy.state in {State.RUNNING, State.UNSETTLED} and not told:
            copy.state, copy.forgotten = State.TO_ACK, False

    def transact(self, number: int) -> None:
        """A user's transaction has acknowledged it, early or late."""
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
            self.ledger.counters.acked += 1

    def disposition(self, number: int) -> Disposition:
        when = self.now + pick([0.0, 1.0, 5.0, 5.0, 40.0], number // 7)
        again = RetryAt(0.0, when)
        kinds: list[Disposition] = [again, again, again]
        return pick([*kinds, DeadLettered("no"), Dropped("no"), Stopped("no")], number)

    def refuse(self, number: int) -> None:
        """A user's `message.nack()` or `message.reject()`, early or late."""
        may = {State.RUNNING, State.UNSETTLED, State.LOST, State.RELEASED}
        within = [copy for copy in self.in_users_reach if copy.state in may]
        if not (self.acks and within):
            return
        copy, disposition = pick(within, number), self.disposition(number)
        assert copy.entry is not None
        entry, now = copy.entry, self.ledger.retries.next_due
        signals = self.postponed_signals
        accepted = self._outcomes_due(
            lambda: self.ledger.refuse(entry, disposition, copy.fields)
        )
        assert accepted == (copy.state is not State.RELEASED)
        self.counts["late"] += copy.state is State.LOST
        if copy.state is State.RUNNING:
            copy.state, copy.disposition = State.FAILED, disposition
            assert self.ledger.retries.next_due == now
        elif copy.state is State.UNSETTLED and not copy.forgotten:
            copy.disposition = disposition
            self._apply(copy, disposition)
            self._the_retrier_is_rung(now, signals)

    def _apply(self, copy: Copy, disposition: Disposition) -> None:
        """Have a verdict done."""
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
            era=copy.era if copy.state is State.FAILED else -1,
        )
        copy.state = State.LOST
        self.copies.insert(self.copies.index(copy), later)
        shard_state = self.ledger.shards[copy.shard.key]
        later.entry = shard_state.entries[copy.id]
        assert later.entry is not copy.entry
        self.due[later] = disposition.due
        self.counts["retried"] += 1

    def _the_retrier_is_rung(self, before: float | None, signals: int) -> None:
        due = self.ledger.retries.next_due
        earlier = due is not None and (before is None or due < before)
        assert self.postponed_signals - signals == earlier

    def make_due(self) -> None:
        waits = self.having(State.POSTPONED)
        ripe = [c for c in self.due if c in waits and self.due[c] <= self.now]
        supply = self.supply
        number = self.ledger.retries.make_due(self.now)
        assert number == len(ripe)
        for copy in sorted(ripe, key=self.due.__getitem__):
            copy.state = State.TO_COUNT
            copy.deliveries += 1
            self._file_first(copy)
            self.out_of_turn = True
        self.told(supply, number)

    def finish(self, number: int, *, ack: bool) -> None:
        def act(entry: Entry) -> None:
            if ack and number % 2:
                self.ledger.processed(entry)
            else:
                self.ledger.finish(entry, ack=ack)

        self._finish(number, act, None, ack=ack)

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
        act: Callable[[Entry], None],
        disposition: Disposition | None,
        *,
        ack: bool,
    ) -> None:
        if not self.in_hand:
            return
        copy = pick(self.in_hand, number)
        assert copy.entry is not None
        entry, deferred, now = copy.entry, self.deferred, self.ledger.retries.next_due
        supply, signals, retries = (
            self.supply,
            self.ready_signals,
            self.postponed_signals,
        )
        self._outcomes_due(lambda: act(entry))
        copy.in_hand = False
        free = [c for c in deferred if (c.id, c.shard) == (copy.id, copy.shard)]
        due = len(free if copy.awaited else [])
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
        self._the_retrier_is_rung(now, retries)
        # Who has finished looks for the next itself.
        self.told(supply, 1 + self.ready_signals - signals)
        self.the_reader_is_rung_when_all_is_free()

    @property
    def deferred(self) -> list[Copy]:
        """What the ledger has set aside because its handler is not finished."""
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
            self.era += 1
            self.out_of_turn = True
            self.line = self.having(*WAITING)

    def hold(self, *, held: bool) -> None:
        signals = self.ready_signals
        self.ledger.hold_suspects(held=held)
        self.held = held
        if not held and self.ledger.work.length:
            assert self.ready_signals == signals + 1, "it waits, and nobody was told"

    # -- the committer -------------------------------------------------------------

    def acks_to_send(self) -> None:
        settled = self.having(State.TO_ACK)
        for batch in self.ledger.acks.to_send():
            key = batch.shard_state.shard.key
            entries = list(batch.entries)
            copies = [copy for copy in settled if copy.shard.key == key]
            # Each of them is here once, and nobody else.
            assert Counter(map(id, entries)) == Counter(id(c.entry) for c in copies)
            assert list(batch.deleted_ids) == self.deleted_ids[key]
            self.deleted_ids[key] = []
            assert batch.ids == [e.id for e in entries] + list(batch.deleted_ids)
            assert batch.ids, "an empty XACK is an error"
            assert batch.repeated == (key in self.ack_unconfirmed)
            for copy in copies:
                copy.state = State.ACKING
            self.sent.append(Sent(batch, copies))
        assert not self.having(State.TO_ACK)
        assert not any(self.deleted_ids.values())
        copies = [c for s in self.sent for c in s.copies if not c.forgotten]
        planned = Counter((c.shard, c.id) for c in copies)
        assert not planned or max(planned.values()) == 1, "an id is in two plans"

    def commit(self, number: int) -> None:
        if not self.sent:
            return
        sent = pick(self.sent, number)
        self.sent.remove(sent)
        self.ledger.ack_confirmed(sent.batch)
        self.ack_unconfirmed.discard(sent.batch.shard_state.shard.key)
        for copy in sent.copies:
            copy.state = State.DONE
            self.counts["acked"] += 1
            self.confirmed.append(copy)
        if self.waiting:
            assert self.capacity_signals, "the reader sleeps though outcomes have left"

    def lose_the_reply(self, number: int) -> None:
        if not self.sent:
            return
        sent = pick(self.sent, number)
        self.sent.remove(sent)
        self.ledger.acks.unconfirmed(sent.batch)
        self.ack_unconfirmed.add(sent.batch.shard_state.shard.key)
        key = sent.batch.shard_state.shard.key
        self.deleted_ids[key] = [*sent.batch.deleted_ids, *self.deleted_ids[key]]
        for copy in sent.copies:
            copy.state = State.TO_ACK

    def bury(self, most: int) -> None:
        dead = self.having(State.TO_DEAD_LETTER)
        taken = self.ledger.acks.dead_letters_to_send(most)
        assert len(taken) == min(most, len(dead))
        for entry in taken:
            [copy] = [copy for copy in dead if copy.entry is entry]
            copy.state = State.DEAD_LETTERING
            assert list(entry.fields) == copy.fields
            assert isinstance(entry.disposition, DeadLettered)
            self.burying.append(copy)

    def answer_burial(self, number: int) -> None:
        if not self.burying:
            return
        copy = pick(self.burying, number)
        self.burying.remove(copy)
        assert copy.entry is not None
        entry, held = copy.entry, self.ledger.flow.held
        reply = pick(["ours", "ours", "theirs", "copied", "lost"], number // 3)
        match reply:
            case "copied":
                self._outcomes_due(lambda: self.ledger.dead_letter_written(entry))
            case "lost":
                self.ledger.dead_letter_unconfirmed(entry)
            case _:
                self.ledger.dead_letter_confirmed(entry, ours=reply == "ours")
        if copy.state is State.RELEASED:
            assert self.ledger.flow.held == held
            return
        if reply == "lost":
            # One that has come again since is not sent again.
            copy.state = State.LOST if copy.forgotten else State.TO_DEAD_LETTER
        elif reply == "copied":
            copy.state = State.TO_ACK
            self.counts["dead"] += 1
        else:
            copy.state, copy.dropped = State.DONE, True
            self.counts["dead" if reply == "ours" else "lost"] += 1
        if copy.state is not State.TO_DEAD_LETTER and self.waiting:
            assert self.capacity_signals, (
                "the reader sleeps though there is less in hand"
            )

    def _outcomes_due(self, act: Callable[[], T]) -> T:
        """Do something, and see that the committer is rung if that is due."""
        before, signals = self.ledger.acks.uncommitted, self.outcome_signals
        dead_lettering = self.ledger.acks.dead_lettering
        result = act()
        after = self.ledger.acks.uncommitted
        due = {1, self.max_pending} & set(range(before + 1, after + 1))
        condemned = max(0, self.ledger.acks.dead_lettering - dead_lettering)
        assert self.outcome_signals - signals == len(due) + condemned
        return result

    # -- closing -------------------------------------------------------------------

    def release(self) -> None:
        # The reader has ended by then.
        self.waiting = False
        known = self.known_as(State.UNSETTLED, *WITH_HANDLER, *DYING)
        back = [*self.having(*WAITING, State.POSTPONED), *known]
        self._given_back(back, self.ledger.removals.release())

    # -- all that, in any order ----------------------------------------------------

    # One rule for all: of many, a run has some and never enough of each.
    @rule(
        shard=st.sampled_from(SHARDS),
        kinds=st.lists(
            st.tuples(
                st.sampled_from(["new", "new", "new", "again", "ghost", "deleted"]),
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
    def go_on(
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
            self.act(action, number)
            self.everything_adds_up()

    def act(self, action: str, number: int) -> None:
        acts: dict[str, Callable[[], None]] = {
            "t": self.take,
            "f": lambda: self.finish(number, ack=False),
            "F": lambda: self.finish(number, ack=True),
            "x": lambda: self.fail(number),
            "a": lambda: self.acknowledge(number),
            "T": lambda: self.transact(number),
            "n": lambda: self.refuse(number),
            "i": self.make_due,
            "p": self.acks_to_send,
            "c": lambda: self.commit(number),
            "u": lambda: self.lose_the_reply(number),
            "r": lambda: self.let_time_pass(number),
            "R": lambda: self.answer_renewal(number),
            "m": self.begin_turn,
            "e": lambda: self.release_probes(number % 3),
            "E": lambda: self.confirm_start(number),
            "l": self.look_for_room,
            "s": self.look_what_to_spare,
            "h": lambda: self.grow_hungry(number % 3 + 1),
            "H": lambda: self.grow_hungry(-(number % 3) - 1),
            "o": lambda: self.order_by(pick(Ordering, number)),
            "d": lambda: self.drop(pick(SHARDS, number)),
            "S": lambda: self.set_back(pick(SHARDS, number), number),
            "g": lambda: self.give_up(pick(SHARDS, number)),
            "b": lambda: self.put_back(number),
            "L": lambda: self.lose(number),
            "k": lambda: self.hold(held=True),
            "K": lambda: self.hold(held=False),
            "B": lambda: self.bury(number % 4),
            "D": lambda: self.answer_burial(number),
        }
        acts[action]()

    # -- what holds at any time ----------------------------------------------------

    @invariant()
    def everything_adds_up(self) -> None:
        self.room_is_counted()
        self.every_copy_is_where_the_model_has_it()
        self.totals_add_up()
        self.outcomes_are_counted()
        self.workers_find_what_may_run_and_nothing_else()
        self.suspects_step_aside_only_while_they_are_held()
        self.what_is_postponed_has_its_time()
        self.a_lane_runs_one_at_a_time()
        self.lanes_are_there_only_as_long_as_they_have_an_entry()
        self.nothing_is_in_two_handlers_hands()
        self.the_reader_knows_who_has_nothing_to_do()

    def room_is_counted(self) -> None:
        taking = [copy for copy in self.copies if copy.takes_room]
        assert self.ledger.flow.held == len(taking)
        assert self.ledger.flow.size == sum(copy.size for copy in taking)

    def every_copy_is_where_the_model_has_it(self) -> None:
        for copy in self.copies:
            if copy.entry is not None:
                assert copy.entry.state is copy.state
                assert copy.entry.unconfirmed == (copy.state in UNCOMMITTED | DYING)
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
            mine = {c.id for c in self.in_ledger if c.shard is shard}
            assert set(self.ledger.shards.ids(shard)) == mine

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
        assert self.ledger.acks.dead_lettering == len(self.having(*DYING))
        assert self.ledger.acks.full == (self.uncommitted >= self.max_pending)
        confirm = Counter(map(id, self.ledger.shards.unconfirmed()))
        # What was sent and has come again since is nobody's to wait for.
        mine = [c for c in self.having(*UNCOMMITTED, *DYING) if not c.forgotten]
        assert confirm == Counter(id(c.entry) for c in mine)

    def workers_find_what_may_run_and_nothing_else(self) -> None:
        firsts, deferred, ready_queue = (
            self.firsts,
            self.deferred,
            self.ledger._ready_queue,
        )
        there = [copy for copy in firsts if copy not in deferred]
        assert self.ledger.work.length == len(ready_queue.ready)
        here = [*ready_queue.ready, *ready_queue.suspects]
        found = Counter((e.shard.key, e.id) for e in here)
        assert found == Counter((c.shard.key, c.id) for c in there)
        # What is set aside is there as long as its handler, and no longer.
        lying = sum(len(a.deferred) for a in self.ledger.shards.values())
        assert lying == len(deferred)
        assert not any(copy in self.takeable for copy in deferred)
        assert set(self.line) == set(self.having(*WAITING))
        assert ready_queue.behind == len(self.line) - len(firsts)

    def suspects_step_aside_only_while_they_are_held(self) -> None:
        ready_queue = self.ledger._ready_queue
        assert all(entry.suspected for entry in ready_queue.suspects)
        assert self.held or not ready_queue.suspects, "they wait for ever"

    def what_is_postponed_has_its_time(self) -> None:
        waits = self.having(State.POSTPONED)
        first = min((self.due[copy] for copy in waits), default=None)
        assert self.ledger.retries.next_due == first

    def nothing_is_in_two_handlers_hands(self) -> None:
        """See that no id is, but where it was acked early, or lost to others."""
        at_work = Counter(
            (copy.shard, copy.id)
            for copy in self.in_hand
            if copy.awaited or copy.state in WITH_HANDLER
        )
        assert not at_work or max(at_work.values()) == 1

    def a_lane_runs_one_at_a_time(self) -> None:
        if self.ordering is not Ordering.NONE:
            running = Counter(self.lane(copy) for copy in self.holders)
            assert not running or max(running.values()) == 1

    def lanes_are_there_only_as_long_as_they_have_an_entry(self) -> None:
        ready_queue: set[Any] = set()
        if self.ordering is not Ordering.NONE:
            ready_queue = {self.lane(copy) for copy in [*self.holders, *self.line]}
        assert len(self.ledger._ready_queue._lanes) == len(ready_queue)

    # -- in the end ----------------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self._let_run_out()

    def _let_run_out(self) -> None:
        if self.ends_early:
            self.release()
            self.everything_adds_up()
            for number, _ in enumerate(self.copies):
                self.acknowledge(number)
                self.refuse(number)
        self.hold(held=False)
        self.ledger.work.begin_turn(float("-inf"))
        self.ended, self.counting = float("-inf"), self.ledger.work.counts_starts
        while self.in_hand or self.takeable or self.having(State.POSTPONED):
            if self.takeable:
                self.take()
            elif self.in_hand:
                self.finish(0, ack=True)
            else:
                self.now += 100.0
                self.make_due()
            self.everything_adds_up()
        assert self.ledger.work.take() is None
        while self.burying or self.having(State.TO_DEAD_LETTER):
            self.bury(10)
            self.answer_burial(0)
        self.acks_to_send()
        while self.sent:
            self.commit(0)
        counts = (
            self.ledger.flow.held,
            self.ledger.flow.size,
            self.ledger.acks.uncommitted,
        )
        assert counts == (0, 0, 0)
        assert self.ledger.acks.dead_lettering == 0
        assert not self.ledger._ready_queue._lanes
        assert not self.ledger._ready_queue.suspects
        assert not any(a.still_running for a in self.ledger.shards.values())
        assert not self.ledger._queue
        # Everything has left, or is open: exactly once.
        over = {copy for copy in self.copies if copy.state in {*OVER, State.UNSETTLED}}
        assert over == set(self.copies)
        if self.acks:
            assert Counter(map(id, self.confirmed)) == Counter(map(id, self.gone))
        assert self.counts["acked"] == len(self.gone)
        # And whoever has nothing to do is read for.
        self.grow_hungry(1)
        assert self.ledger.flow.read_budget(self.now) > 0


TestLedger = pytest.mark.timeout(240)(LedgerMachine.TestCase)
TestLedger.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
