"""The ledger against a model that is too simple to be wrong.

The model knows of each *copy* (an entry from the read that booked it on; an id that
has left and comes again is another copy) what a user would know, and derives all
counts from that. Rules do what reader, workers, users and committer do, in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from penstock._core.entry import Batch, Entry, Renewal, State
from penstock._core.ledger import Ledger
from penstock._core.replies import RawEntry
from penstock._core.window import Window
from penstock.message import Shard
from penstock.options import Ordering

LEASE = 30.0
SHARDS = [Shard(name, 0, name.encode()) for name in ("a", "b", "c")]
OVER = {State.GONE, State.RELEASED, State.LOST}
UNCOMMITTED = {State.SETTLED, State.COMMITTING}

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
    # In a handler's hands: taken and not finished.
    in_hand: bool = False
    # The order that it was started under; see `order_by`.
    era: int = -1
    # Open, and no longer in the books: its lease ended, or it was claimed anew.
    forgotten: bool = False
    # The ledger's entry, from when it was taken on.
    entry: Entry | None = None

    @property
    def takes_room(self) -> bool:
        return self.in_hand or self.state is State.QUEUED


@dataclass(eq=False)
class Sent:
    """A batch that waits for its reply."""

    batch: Batch
    copies: list[Copy]


@dataclass(eq=False)
class Asked:
    """A renewal that waits for its reply."""

    renewal: Renewal
    copies: list[Copy]
    when: float


picks = st.integers(0, 10**6)


def pick(things: Iterable[T], number: int) -> T:
    listed = list(things)
    return listed[number % len(listed)]


class LedgerMachine(RuleBasedStateMachine):
    """Drives a ledger and its model."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Copy] = []
        # Ghosts that wait, by shard; others are in batches.
        self.ghosts: dict[bytes, list[bytes]] = {shard.key: [] for shard in SHARDS}
        self.sent: list[Sent] = []
        self.asked: list[Asked] = []
        self.unsent: set[bytes] = set()
        self.now = 0.0
        self.swept = 0.0
        self.era = 0
        self.next_number = 1
        self.acked = 0
        self.left = 0
        self.lost = 0
        self.received = 0
        self.ghosts_met = 0
        # Ids that the server was told of and confirmed, once for each copy.
        self.confirmed: list[Copy] = []
        self.closed = False
        self.claimed_anew = False
        # The reader saw no room, and is to be rung when so few are held.
        self.waiting = False
        self.half = 0
        self.room_rings = 0
        self.outcome_rings = 0

    @initialize(
        acks=st.sampled_from([True, True, True, False]),
        ordering=st.sampled_from(Ordering),
        max_pending=st.integers(1, 6),
        max_uncommitted=st.none() | st.integers(1, 12),
        max_messages=st.integers(1, 24),
        max_bytes=st.sampled_from([1, 60, 400, 10**9]),
        ends_early=st.booleans(),
    )
    def open(
        self,
        *,
        acks: bool,
        ordering: Ordering,
        max_pending: int,
        max_uncommitted: int | None,
        max_messages: int,
        max_bytes: int,
        ends_early: bool,
    ) -> None:
        self.acks = acks
        self.ends_early = ends_early
        self.max_pending = max_pending
        self.max_messages = max_messages
        self.window = Window(max_messages, max_bytes)
        self.ledger = Ledger(
            self.window,
            max_pending=max_pending,
            max_uncommitted=max_uncommitted,
            lease=LEASE,
            acks=acks,
            on_room=self._ring_room,
            on_outcomes=self._ring_outcomes,
        )
        self.ordering = ordering
        self.ledger.order_by(ordering)

    def _ring_room(self) -> None:
        self.room_rings += 1

    def _ring_outcomes(self) -> None:
        self.outcome_rings += 1

    # -- what the model derives ----------------------------------------------------

    def having(self, *states: State) -> list[Copy]:
        return [copy for copy in self.copies if copy.state in states]

    @property
    def in_hand(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.in_hand]

    @property
    def in_books(self) -> list[Copy]:
        return [c for c in self.copies if c.state not in OVER and not c.forgotten]

    @property
    def uncommitted(self) -> int:
        ghosts = sum(len(self.known_ghosts(shard)) for shard in SHARDS)
        return len(self.having(*UNCOMMITTED)) + ghosts

    def known_ghosts(self, shard: Shard) -> list[bytes]:
        """Those that the server was not told of, or has not confirmed."""
        batches = [sent.batch for sent in self.sent]
        told = [b.ghosts for b in batches if b.account.shard is shard]
        return [*self.ghosts[shard.key], *(id_ for ids in told for id_ in ids)]

    def lane(self, copy: Copy) -> object:
        match self.ordering:
            case Ordering.NONE:
                return copy
            case Ordering.KEY:
                return copy.shard.key, copy.key
            case Ordering.SHARD:
                return copy.shard.key

    @property
    def takeable(self) -> list[Copy]:
        """The first of each lane of which none is in a handler's hands."""
        busy = {self.lane(c) for c in self.in_hand if c.era == self.era}
        first: dict[object, Copy] = {}
        for copy in self.having(State.QUEUED):
            first.setdefault(self.lane(copy), copy)
        return [copy for lane, copy in first.items() if lane not in busy]

    # -- the reader ----------------------------------------------------------------

    def look_for_room(self) -> None:
        self.half = self.window.capacity // 2
        busy = len(self.takeable) > 0
        room = self.ledger.room()
        held = self.ledger.held
        assert 0 <= room <= self.max_messages
        assert room == 0 or held + room <= self.max_messages
        assert room == 0 or held <= self.half or not busy
        self.waiting = room == 0
        self.room_rings = 0

    def read(
        self,
        shard: Shard,
        kinds: list[tuple[str, str | None, int]],
        size: int,
        deliveries: int | None,
        *,
        claimed: bool,
    ) -> None:
        self._end_leases()
        self.look_for_room()
        each = size // max(1, len(kinds))
        entries: list[RawEntry] = []
        count = 0
        # A recovery meets what is in flight, and what is pending since long ago; a
        # group that was set back brings again what is acknowledged.
        again = [copy for copy in self.copies if copy.shard is shard]
        in_books = [
            copy
            for copy in self.in_books
            if copy.shard is shard
            # Not yet: an open entry that a takeover finds deleted stays open besides.
            and not (claimed and copy.state is State.OPEN)
        ]
        for kind, key, number in kinds:
            if kind == "again" and again:
                id_ = pick(again, number).id
            else:
                id_ = b"%d-0" % self.next_number
                self.next_number += 1
            if kind == "deleted" and in_books:
                entries.append([pick(in_books, number).id, None])
                continue
            if kind in {"ghost", "deleted"}:
                ghosts = self.known_ghosts(shard)
                if ghosts and number % 2:
                    id_ = pick(ghosts, number)
                else:
                    self.ghosts[shard.key].append(id_)
                    self.ghosts_met += 1
                entries.append([id_, None])
                continue
            tail = [] if key is None else [b"key", key.encode()]
            entries.append([id_, [b"msg", b"x", *tail]])
            known = [c for c in self.in_books if c.id == id_ and c.shard is shard]
            if claimed:
                for copy in known:
                    copy.forgotten = copy.state is State.OPEN
                    self.claimed_anew |= copy.forgotten
            if not known or known[0].forgotten:
                count += 1
                copy = Copy(shard, id_, key, each, deliveries or 1, self.now)
                self.copies.append(copy)
        counts = None if deliveries is None else {e[0]: deliveries for e in entries}
        booked = self._outcomes_due(
            lambda: self.ledger.received(
                shard, entries, self.now, size, counts, claimed=claimed
            )
        )
        assert booked == count
        self.received += count

    def _end_leases(self) -> None:
        """Do as the ledger does, which looks three times a lease."""
        if self.now - self.swept > LEASE / 3:
            self.swept = self.now
            for copy in self.having(State.OPEN):
                if copy.leased_at <= self.now - LEASE:
                    copy.forgotten = True

    # -- leases --------------------------------------------------------------------

    def let_time_pass(self, number: int) -> None:
        self.now += pick([1.0, LEASE / 4, LEASE / 2, LEASE * 2], number)

    def ask_for_renewal(self) -> None:
        due = [
            copy
            for copy in self.in_books
            if copy.state is not State.OPEN and copy.leased_at <= self.now - LEASE / 3
        ]
        for renewal in self.ledger.to_renew(self.now):
            copies = [c for c in due if c.shard is renewal.account.shard]
            assert Counter(renewal.ids) == Counter(copy.id for copy in copies)
            oldest = min(copy.leased_at for copy in copies)
            assert renewal.late == (self.now - oldest >= LEASE * 2 / 3)
            due = [copy for copy in due if copy not in copies]
            self.asked.append(Asked(renewal, copies, self.now))
        assert not due

    def answer_renewal(self, number: int) -> None:
        if not self.asked:
            return
        asked = pick(self.asked, number)
        self.asked.remove(asked)
        # The number's bits say whose lease was kept.
        ours = [
            copy
            for index, copy in enumerate(asked.copies)
            if number >> index & 1 or self._has_a_twin(copy)
        ]
        gone = [copy for copy in asked.copies if copy not in ours]
        gone = [c for c in gone if c.state not in OVER | {State.COMMITTING}]
        for copy in gone:
            copy.state = State.LOST
        lost = self.ledger.lose_all_but(asked.renewal, [copy.id for copy in ours])
        assert lost == len(gone)
        self.lost += lost
        for copy in asked.copies:
            copy.leased_at = asked.when
        self.ledger.renewed(asked.renewal, asked.when)

    def _has_a_twin(self, copy: Copy) -> bool:
        """Whether an open entry has come again, and left the books to the new one."""
        return copy.forgotten and any(
            other.id == copy.id and other.shard is copy.shard
            for other in self.copies[self.copies.index(copy) + 1 :]
        )

    # -- workers and users ---------------------------------------------------------

    def take(self) -> None:
        takeable = self.takeable
        entry = self.ledger.take()
        if entry is None:
            assert not takeable
            return
        [copy] = [c for c in takeable if (c.shard, c.id) == (entry.shard, entry.id)]
        if self.ordering is Ordering.NONE and not self.era:
            assert copy is takeable[0]
        assert copy.entry is None, "given to a worker twice"
        copy.entry, copy.era = entry, self.era
        copy.state, copy.in_hand = State.RUNNING, True
        assert entry.fields
        assert (entry.size, entry.deliveries) == (copy.size, copy.deliveries)
        assert entry.leased_at == copy.leased_at

    @property
    def in_users_reach(self) -> list[Copy]:
        """What was handed out, and may be acknowledged at any time."""
        return [
            copy
            for copy in self.copies
            if copy.entry is not None
            # Not yet: a late ack of an entry that has come again takes the new one
            # out of the books.
            and not (copy.state is State.OPEN and self._has_a_twin(copy))
        ]

    def acknowledge(self, number: int) -> None:
        """A user's `message.ack()`, early, late, or again."""
        if not (self.acks and self.in_users_reach):
            return
        copy = pick(self.in_users_reach, number)
        assert copy.entry is not None
        entry = copy.entry
        accepted = self._outcomes_due(lambda: self.ledger.ack(entry))
        assert accepted == (copy.state is not State.RELEASED)
        if copy.state in {State.RUNNING, State.OPEN}:
            copy.state, copy.forgotten = State.SETTLED, False

    def finish(self, number: int, *, ack: bool) -> None:
        if not self.in_hand:
            return
        copy = pick(self.in_hand, number)
        assert copy.entry is not None
        entry = copy.entry
        copy.in_hand = False
        self._outcomes_due(lambda: self.ledger.finish(entry, ack=ack))
        if copy.state is State.RUNNING:
            if not self.acks:
                copy.state = State.GONE
                self.acked += 1
            elif ack:
                copy.state = State.SETTLED
            else:
                copy.state = State.OPEN
                self.left += 1
        if self.waiting and (self.ledger.held <= self.half or not self.takeable):
            assert self.room_rings, "the reader sleeps though there is room"

    def order_by(self, ordering: Ordering) -> None:
        # Not yet: what was in a lane frees it although it is filed anew, and what was
        # claimed by ourselves is filed where it was before.
        if self._in_a_lane() or self.claimed_anew:
            return
        self.ledger.order_by(ordering)
        self.ordering = ordering
        self.era += 1

    def _in_a_lane(self) -> bool:
        """Whether a handler is at work that frees a lane when it ends."""
        lanes = [copy.entry.lane for copy in self.in_hand if copy.entry]
        return any(lane is not None for lane in lanes)

    # -- the committer -------------------------------------------------------------

    def plan(self) -> None:
        settled = self.having(State.SETTLED)
        for batch in self.ledger.plan():
            key = batch.account.shard.key
            entries = list(batch.entries)
            copies = [copy for copy in settled if copy.shard.key == key]
            # Each of them is here once, and nobody else.
            assert Counter(map(id, entries)) == Counter(id(c.entry) for c in copies)
            assert list(batch.ghosts) == self.ghosts[key]
            self.ghosts[key] = []
            assert batch.ids == [e.id for e in entries] + list(batch.ghosts)
            assert batch.ids, "an empty XACK is an error"
            assert batch.repeated == (key in self.unsent)
            for copy in copies:
                copy.state = State.COMMITTING
            self.sent.append(Sent(batch, copies))
        assert not self.having(State.SETTLED)
        assert not any(self.ghosts.values())
        planned = Counter((c.shard, c.id) for s in self.sent for c in s.copies)
        assert not planned or max(planned.values()) == 1, "an id is in two plans"

    def commit(self, number: int) -> None:
        if not self.sent:
            return
        sent = pick(self.sent, number)
        self.sent.remove(sent)
        self.ledger.committed(sent.batch)
        self.unsent.discard(sent.batch.account.shard.key)
        for copy in sent.copies:
            copy.state = State.GONE
            self.acked += 1
            self.confirmed.append(copy)
        if self.waiting:
            assert self.room_rings, "the reader sleeps though outcomes have left"

    def lose_the_reply(self, number: int) -> None:
        if not self.sent:
            return
        sent = pick(self.sent, number)
        self.sent.remove(sent)
        self.ledger.unsent(sent.batch)
        self.unsent.add(sent.batch.account.shard.key)
        key = sent.batch.account.shard.key
        self.ghosts[key] = [*sent.batch.ghosts, *self.ghosts[key]]
        for copy in sent.copies:
            copy.state = State.SETTLED

    def _outcomes_due(self, act: Callable[[], T]) -> T:
        """Do something, and see that the committer is rung if that is due."""
        before, rings = self.ledger.uncommitted, self.outcome_rings
        result = act()
        after = self.ledger.uncommitted
        due = {1, self.max_pending} & set(range(before + 1, after + 1))
        assert self.outcome_rings - rings == len(due)
        return result

    # -- closing -------------------------------------------------------------------

    def release(self) -> None:
        self.closed = True
        expected = Counter(
            (c.shard.key, c.id, c.deliveries - (c.state is State.QUEUED))
            for c in self.in_books
            if c.state not in UNCOMMITTED
        )
        given = Counter(
            (shard.key, id_, deliveries)
            for shard, deliveries, ids in self.ledger.release()
            for id_ in ids
        )
        assert given == expected
        for copy in self.in_books:
            if copy.state not in UNCOMMITTED:
                copy.state = State.RELEASED

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
        deliveries=st.none() | st.integers(1, 5),
        claimed=st.sampled_from([False, False, True]),
        script=st.lists(
            st.tuples(st.sampled_from([*"ttttfffFFaappccurRRlo"]), picks), max_size=20
        ),
    )
    def go_on(
        self,
        *,
        shard: Shard,
        kinds: list[tuple[str, str | None, int]],
        size: int,
        deliveries: int | None,
        claimed: bool,
        script: list[tuple[str, int]],
    ) -> None:
        self.read(shard, kinds, size, deliveries, claimed=claimed)
        self.everything_adds_up()
        for action, number in script:
            self.act(action, number)
            self.everything_adds_up()

    def act(self, action: str, number: int) -> None:
        match action:
            case "t":
                self.take()
            case "f" | "F":
                self.finish(number, ack=action == "F")
            case "a":
                self.acknowledge(number)
            case "p":
                self.plan()
            case "c":
                self.commit(number)
            case "u":
                self.lose_the_reply(number)
            case "r":
                self.let_time_pass(number)
                self.ask_for_renewal()
            case "R":
                self.answer_renewal(number)
            case "l":
                self.look_for_room()
            case "o":
                self.order_by(pick(Ordering, number))

    # -- what holds at any time ----------------------------------------------------

    @invariant()
    def everything_adds_up(self) -> None:
        self.room_is_counted()
        self.every_copy_is_where_the_model_has_it()
        self.totals_add_up()
        self.outcomes_are_counted()
        self.workers_find_what_may_run_and_nothing_else()
        self.a_lane_runs_one_at_a_time()
        self.lanes_are_there_only_as_long_as_they_have_an_entry()

    def room_is_counted(self) -> None:
        taking = [copy for copy in self.copies if copy.takes_room]
        assert self.ledger.held == len(taking)
        assert self.ledger.size == sum(copy.size for copy in taking)

    def every_copy_is_where_the_model_has_it(self) -> None:
        for copy in self.copies:
            if copy.entry is not None:
                assert copy.entry.state is copy.state
                assert copy.entry.uncommitted == (copy.state in UNCOMMITTED)
                if copy.state not in {State.RELEASED, State.LOST}:
                    running = copy.state is State.RUNNING
                    assert bool(copy.entry.fields) == running
        books = Counter(
            (key, id_)
            for key, account in self.ledger._accounts.items()
            for id_ in account.entries
        )
        assert books == Counter((c.shard.key, c.id) for c in self.in_books)

    def totals_add_up(self) -> None:
        totals = self.ledger.totals
        assert totals.received == self.received == len(self.copies)
        assert totals.acked == self.acked
        assert totals.left == self.left
        assert totals.ghosts == self.ghosts_met
        assert totals.lost == self.lost

    def outcomes_are_counted(self) -> None:
        assert self.ledger.uncommitted == self.uncommitted
        assert self.ledger.full == (self.uncommitted >= self.max_pending)
        confirm = Counter(map(id, self.ledger.to_confirm()))
        assert confirm == Counter(id(c.entry) for c in self.having(*UNCOMMITTED))

    def workers_find_what_may_run_and_nothing_else(self) -> None:
        takeable = self.takeable
        assert self.ledger.queued == len(takeable)
        found = Counter((e.shard.key, e.id) for e in self.ledger._queue)
        assert found == Counter((c.shard.key, c.id) for c in takeable)

    def a_lane_runs_one_at_a_time(self) -> None:
        if self.ordering is not Ordering.NONE:
            running = Counter(self.lane(c) for c in self.in_hand if c.era == self.era)
            assert not running or max(running.values()) == 1

    def lanes_are_there_only_as_long_as_they_have_an_entry(self) -> None:
        lanes: set[Any] = set()
        if self.ordering is not Ordering.NONE and not self.closed:
            running = [c for c in self.in_hand if c.era == self.era]
            lanes = {self.lane(c) for c in [*running, *self.having(State.QUEUED)]}
        assert len(self.ledger._lanes) == len(lanes)

    # -- in the end ----------------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self._let_run_out()

    def _let_run_out(self) -> None:
        waiting = self.waiting
        if self.ends_early:
            self.release()
            self.everything_adds_up()
            for number, _ in enumerate(self.copies):
                self.acknowledge(number)
        while self.in_hand or self.takeable:
            if self.takeable:
                self.take()
            else:
                self.finish(0, ack=True)
            self.everything_adds_up()
        assert self.ledger.take() is None
        self.plan()
        while self.sent:
            self.commit(0)
        counts = self.ledger.held, self.ledger.size, self.ledger.uncommitted
        assert counts == (0, 0, 0)
        assert not self.ledger._lanes
        assert not self.ledger._queue
        # Everything has left, or is open: exactly once.
        over = {copy for copy in self.copies if copy.state in {*OVER, State.OPEN}}
        assert over == set(self.copies)
        if self.acks:
            gone = self.having(State.GONE)
            assert Counter(map(id, self.confirmed)) == Counter(map(id, gone))
        assert self.acked == len(self.having(State.GONE))
        # And whoever waited for room was told that there is some.
        if waiting and not self.closed:
            assert self.room_rings
        assert self.ledger.room() > 0


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
