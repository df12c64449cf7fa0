"""The ledger against a model that is too simple to be wrong.

The model knows of each *copy* (an entry from the read that booked it on; an id that
has left and comes again is another copy) what a user would know, and derives all
counts from that. Rules do what reader, workers, users and committer do, in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

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
WAITING = {State.QUEUED, State.AGAIN}

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
    # Open or sent, and no longer in the books: its lease ended, or it came again.
    forgotten: bool = False
    # It came again while its handler was at it: the new one waits for that.
    awaited: bool = False
    # A seek has let it go.
    dropped: bool = False
    # The ledger's entry, from when it was taken on.
    entry: Entry | None = None

    @property
    def takes_room(self) -> bool:
        return self.in_hand or self.state in WAITING


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


Kind: TypeAlias = tuple[str, str | None, int]
"""What an entry of a read is: its kind, its key, and a number to pick by."""


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
        self.set_back = False
        # Workers that have nothing to do.
        self.hungry = 0
        # The reader saw no room, and how many should wait then; the claimer, none.
        self.waiting = False
        self.aim = 0
        self.nothing_spare = False
        self.room_rings = 0
        self.outcome_rings = 0
        self.ready_rings = 0

    @initialize(
        acks=st.sampled_from([True, True, True, False]),
        ordering=st.sampled_from(Ordering),
        max_pending=st.integers(1, 6),
        max_uncommitted=st.none() | st.integers(1, 12),
        max_messages=st.integers(1, 24),
        max_bytes=st.sampled_from([1, 60, 400, 10**9]),
        max_wait=st.sampled_from([0.5, 10.0, 1000.0]),
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
        max_wait: float,
        ends_early: bool,
    ) -> None:
        self.acks = acks
        self.ends_early = ends_early
        self.max_pending = max_pending
        self.max_uncommitted = max_uncommitted
        self.max_messages = max_messages
        self.window = Window(max_messages, max_bytes, max_wait)
        self.ledger = Ledger(
            self.window,
            max_pending=max_pending,
            max_uncommitted=max_uncommitted,
            lease=LEASE,
            acks=acks,
            on_room=self._ring_room,
            on_outcomes=self._ring_outcomes,
            on_ready=self._ring_ready,
        )
        self.ordering = ordering
        self.ledger.order_by(ordering)

    def _ring_room(self) -> None:
        self.room_rings += 1

    def _ring_outcomes(self) -> None:
        self.outcome_rings += 1

    def _ring_ready(self) -> None:
        self.ready_rings += 1

    # -- what the model derives ----------------------------------------------------

    @property
    def gone(self) -> list[Copy]:
        """What was handled to its end."""
        return [copy for copy in self.having(State.GONE) if not copy.dropped]

    def having(self, *states: State) -> list[Copy]:
        return [copy for copy in self.copies if copy.state in states]

    @property
    def in_hand(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.in_hand]

    @property
    def in_books(self) -> list[Copy]:
        if not self.acks:
            return []
        return [c for c in self.copies if c.state not in OVER and not c.forgotten]

    def known_as(self, *states: State) -> list[Copy]:
        return [copy for copy in self.in_books if copy.state in states]

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
    def firsts(self) -> list[Copy]:
        """The first of each lane of which none is in a handler's hands."""
        busy = {self.lane(c) for c in self.in_hand if c.era == self.era}
        first: dict[object, Copy] = {}
        for copy in self.having(*WAITING):
            first.setdefault(self.lane(copy), copy)
        return [copy for lane, copy in first.items() if lane not in busy]

    @property
    def takeable(self) -> list[Copy]:
        """Those of them that no handler has by an earlier read."""
        return [copy for copy in self.firsts if not self.twins(copy, awaited=True)]

    def twins(self, copy: Copy, *, awaited: bool = False) -> list[Copy]:
        """Copies of the same id that are in the books; or in hand and awaited."""
        others = [c for c in self.in_hand if c.awaited] if awaited else self.in_books
        same = [c for c in others if (c.id, c.shard) == (copy.id, copy.shard)]
        return [other for other in same if other is not copy]

    @property
    def late(self) -> bool:
        most = self.max_uncommitted
        return most is not None and self.uncommitted > most

    # -- the reader ----------------------------------------------------------------

    def look_for_room(self) -> None:
        rings = self.room_rings
        room = self.ledger.room(self.now)
        held = self.ledger.held
        assert 0 <= room <= self.max_messages
        assert room == 0 or held + room <= self.window.capacity
        assert not (room and self.late)
        self.aim = self.window.aim(self.hungry)
        waiting = self.ledger.queued + self.ledger._lanes.behind
        assert room <= max(self.aim - waiting, self.hungry)
        if room and self.nothing_spare:
            assert self.room_rings == rings + 1, "the claimer has to be told"
            self.nothing_spare = False
        self.waiting = room == 0
        self.room_rings = 0
        self.the_reader_knows_who_has_nothing_to_do()

    def look_what_to_spare(self) -> None:
        spare = self.ledger.spare(self.now)
        assert 0 <= spare <= self.max_messages
        assert spare == 0 or self.ledger.held + spare <= self.window.capacity
        self.nothing_spare |= spare == 0

    def the_reader_knows_who_has_nothing_to_do(self) -> None:
        """See that it is rung as soon as it could read for somebody."""
        if self.waiting and not self.room_rings and not self.late:
            could = self.hungry > self.ledger.queued and not self.ledger.crammed
            assert not could, "the reader sleeps though a worker starves"

    def read_anew(self, shard: Shard, kinds: list[Kind], size: int) -> None:
        """Have something come where nothing is pending and a seek drops what waits."""
        self.read(
            shard,
            [("new", key, number) for _, key, number in kinds],
            size,
            None,
            "read",
        )

    def read(
        self,
        shard: Shard,
        kinds: list[Kind],
        size: int,
        deliveries: int | None,
        how: str,
    ) -> None:
        """Have something come by a read, a claim, or because it was set back to."""
        claimed, again = how == "claim", how == "again"
        self._end_leases()
        self.look_for_room()
        each = size // max(1, len(kinds))
        entries: list[RawEntry] = []
        count = 0
        # A recovery meets what is in flight, and what is pending since long ago; a
        # group that was set back brings again what is acknowledged.
        past = [copy for copy in self.copies if copy.shard is shard]
        for kind, key, number in kinds:
            ghosts = self.known_ghosts(shard)
            if kind in {"again", "deleted"} and past:
                id_ = pick(past, number).id
            elif kind == "ghost" and ghosts and number % 2:
                id_ = pick(ghosts, number)
            else:
                id_ = b"%d-0" % self.next_number
                self.next_number += 1
            known = [c for c in self.in_books if c.id == id_ and c.shard is shard]
            # What is new is never told of as deleted.
            gone = kind in {"ghost", "deleted"} and not again
            if gone:
                entries.append([id_, None])
            else:
                tail = [] if key is None else [b"key", key.encode()]
                entries.append([id_, [b"msg", b"x", *tail]])
            if known and not self._comes_again(known[0], claimed=claimed, again=again):
                continue
            if gone:
                if id_ not in self.known_ghosts(shard):
                    self.ghosts[shard.key].append(id_)
                    self.ghosts_met += 1
                continue
            count += 1
            copy = Copy(shard, id_, key, each, deliveries or 1, self.now)
            if self.twins(copy, awaited=True):
                copy.state = State.AGAIN
            self.copies.append(copy)
        counts = None if deliveries is None else {e[0]: deliveries for e in entries}
        booked = self._outcomes_due(
            lambda: self.ledger.received(
                shard, entries, self.now, size, counts, claimed=claimed, again=again
            )
        )
        assert booked == count
        self.received += count
        # Who reads looks again; who claims has brought something for the hungry.
        if claimed:
            self.waiting = False
        else:
            self.look_for_room()

    def _comes_again(self, copy: Copy, *, claimed: bool, again: bool) -> bool:
        """Let go of a copy that has come again; False if it stays."""
        self.set_back |= again
        match copy.state:
            case State.OPEN if claimed or again:
                copy.forgotten = True
            case State.RUNNING if again:
                copy.state = State.LOST
                copy.awaited = True
            case State.SETTLED if again:
                copy.state = State.LOST
            case State.COMMITTING if again:
                copy.forgotten = True
            case State.COMMITTING:
                if copy.id not in self.known_ghosts(copy.shard):
                    self.ghosts[copy.shard.key].append(copy.id)
                return False
            case _:
                return False
        return True

    # -- seeking, and shards that are read no more ---------------------------------

    def drop(self, shard: Shard) -> None:
        gone = [c for c in self.having(*WAITING) if c.shard is shard]
        assert self.ledger.drop(shard) == len(gone)
        for copy in gone:
            copy.state, copy.dropped = State.GONE, True
        self.look_for_room()

    def give_up(self, shard: Shard) -> None:
        gone = [*self.having(*WAITING), *self.known_as(State.OPEN)]
        gone = [c for c in gone if c.shard is shard]
        self._given_back(gone, self.ledger.give_up(shard))
        self.look_for_room()

    def _given_back(
        self,
        copies: list[Copy],
        given: Iterable[tuple[Shard, int, list[bytes]]],
    ) -> None:
        expected = Counter(
            (c.shard.key, c.id, c.deliveries - (c.state in WAITING)) for c in copies
        )
        assert expected == Counter(
            (shard.key, id_, deliveries)
            for shard, deliveries, ids in given
            for id_ in ids
        )
        for copy in copies:
            copy.state = State.RELEASED

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
        self.ask_for_renewal()

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
        ours = [copy for index, copy in enumerate(asked.copies) if number >> index & 1]
        gone = [copy for copy in asked.copies if copy not in ours]
        gone = [c for c in gone if c.state not in OVER | {State.COMMITTING}]
        for copy in gone:
            copy.state = State.LOST
        lost = self.ledger.lose_all_but(asked.renewal, [copy.id for copy in ours])
        assert lost == len(gone)
        if lost and self.waiting:
            assert self.room_rings, "the reader sleeps though there is less in hand"
        here = [c for c in asked.copies if c.state not in OVER]
        assert Counter(asked.renewal.ids) == Counter(copy.id for copy in here)
        self.lost += lost
        for copy in asked.copies:
            copy.leased_at = asked.when
        self.ledger.renewed(asked.renewal, asked.when)

    # -- workers and users ---------------------------------------------------------

    def take(self) -> None:
        takeable = self.takeable
        entry = self.ledger.take()
        self.the_reader_is_rung_when_all_is_free()
        if entry is None:
            assert not takeable
            assert not self.ledger.queued
            return
        [copy] = [c for c in takeable if (c.shard, c.id) == (entry.shard, entry.id)]
        if self.ordering is Ordering.NONE and not self.era and not self.set_back:
            assert copy is takeable[0]
        assert copy.entry is None, "given to a worker twice"
        copy.entry, copy.era = entry, self.era
        copy.state, copy.in_hand = State.RUNNING, True
        assert entry.fields
        assert (entry.size, entry.deliveries) == (copy.size, copy.deliveries)
        assert entry.leased_at == copy.leased_at

    def the_reader_is_rung_when_all_is_free(self) -> None:
        free = self.window.capacity - self.ledger.held >= self.aim > 0
        waits = self.ledger.queued or self.ledger._lanes.behind
        if self.waiting and not self.late and free and not waits:
            assert self.room_rings, "the reader sleeps though nothing waits"

    def grow_hungry(self, change: int) -> None:
        change = max(change, -self.hungry)
        self.hungry += change
        self.ledger.hunger(change)
        if change > 0 and self.waiting:
            assert self.room_rings, "the reader sleeps though a worker starves"

    @property
    def in_users_reach(self) -> list[Copy]:
        """What was handed out, and may be acknowledged at any time."""
        return [copy for copy in self.copies if copy.entry is not None]

    def acknowledge(self, number: int) -> None:
        """A user's `message.ack()`, early, late, or again."""
        if not (self.acks and self.in_users_reach):
            return
        copy = pick(self.in_users_reach, number)
        assert copy.entry is not None
        entry = copy.entry
        accepted = self._outcomes_due(lambda: self.ledger.ack(entry))
        assert accepted == (copy.state is not State.RELEASED)
        told = copy.state is State.OPEN and (
            # The new one counts, or the server is told in another way.
            self.twins(copy) or copy.id in self.known_ghosts(copy.shard)
        )
        if copy.state in {State.RUNNING, State.OPEN} and not told:
            copy.state, copy.forgotten = State.SETTLED, False

    def finish(self, number: int, *, ack: bool) -> None:
        if not self.in_hand:
            return
        copy = pick(self.in_hand, number)
        assert copy.entry is not None
        entry = copy.entry
        aside = self.aside
        copy.in_hand = False
        rings = self.ready_rings
        self._outcomes_due(lambda: self.ledger.finish(entry, ack=ack))
        free = [c for c in aside if (c.id, c.shard) == (copy.id, copy.shard)]
        assert self.ready_rings - rings == len(free if copy.awaited else [])
        if copy.state is State.RUNNING:
            if not self.acks:
                copy.state = State.GONE
                self.acked += 1
            elif ack:
                copy.state = State.SETTLED
            else:
                copy.state = State.OPEN
                self.left += 1
        self.the_reader_is_rung_when_all_is_free()

    @property
    def aside(self) -> list[Copy]:
        """What the ledger has set aside because its handler is not finished."""
        ids = {
            (key, id_)
            for key, account in self.ledger._accounts.items()
            for id_ in account.aside
        }
        return [c for c in self.firsts if (c.shard.key, c.id) in ids]

    def order_by(self, ordering: Ordering) -> None:
        self.ledger.order_by(ordering)
        self.ordering = ordering
        self.era += 1

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
        copies = [c for s in self.sent for c in s.copies if not c.forgotten]
        planned = Counter((c.shard, c.id) for c in copies)
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
        # The reader has ended by then.
        self.waiting = False
        known = self.known_as(State.OPEN, State.RUNNING)
        back = [*self.having(*WAITING), *known]
        self._given_back(back, self.ledger.release())

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
        how=st.sampled_from(["read", "read", "claim", "again", "again"]),
        script=st.lists(
            st.tuples(st.sampled_from([*"ttttttfffFFFaappccurRRlsohhHdg"]), picks),
            max_size=20,
        ),
    )
    def go_on(
        self,
        *,
        shard: Shard,
        kinds: list[Kind],
        size: int,
        deliveries: int | None,
        how: str,
        script: list[tuple[str, int]],
    ) -> None:
        if self.acks:
            self.read(shard, kinds, size, deliveries, how)
        else:
            self.read_anew(shard, kinds, size)
        self.everything_adds_up()
        for action, number in script:
            self.act(action, number)
            self.everything_adds_up()

    def act(self, action: str, number: int) -> None:
        acts: dict[str, Callable[[], None]] = {
            "t": self.take,
            "f": lambda: self.finish(number, ack=False),
            "F": lambda: self.finish(number, ack=True),
            "a": lambda: self.acknowledge(number),
            "p": self.plan,
            "c": lambda: self.commit(number),
            "u": lambda: self.lose_the_reply(number),
            "r": lambda: self.let_time_pass(number),
            "R": lambda: self.answer_renewal(number),
            "l": self.look_for_room,
            "s": self.look_what_to_spare,
            "h": lambda: self.grow_hungry(number % 3 + 1),
            "H": lambda: self.grow_hungry(-(number % 3) - 1),
            "o": lambda: self.order_by(pick(Ordering, number)),
            "d": lambda: self.drop(pick(SHARDS, number)),
            "g": lambda: self.give_up(pick(SHARDS, number)),
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
        self.a_lane_runs_one_at_a_time()
        self.lanes_are_there_only_as_long_as_they_have_an_entry()
        self.nothing_is_in_two_handlers_hands()
        self.the_reader_knows_who_has_nothing_to_do()

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
        for shard in SHARDS:
            mine = {c.id for c in self.in_books if c.shard is shard}
            assert set(self.ledger.in_hand(shard)) == mine

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
        # What was sent and has come again since is nobody's to wait for.
        mine = [c for c in self.having(*UNCOMMITTED) if not c.forgotten]
        assert confirm == Counter(id(c.entry) for c in mine)

    def workers_find_what_may_run_and_nothing_else(self) -> None:
        firsts, aside = self.firsts, self.aside
        ready = [copy for copy in firsts if copy not in aside]
        assert self.ledger.queued == len(ready)
        found = Counter((e.shard.key, e.id) for e in self.ledger._queue)
        assert found == Counter((c.shard.key, c.id) for c in ready)
        # What is set aside is there as long as its handler, and no longer.
        lying = sum(len(a.aside) for a in self.ledger._accounts.values())
        assert lying == len(aside)
        assert not any(copy in self.takeable for copy in aside)
        behind = len(self.having(*WAITING)) - len(firsts)
        assert self.ledger._lanes.behind == behind

    def nothing_is_in_two_handlers_hands(self) -> None:
        """See that no id is, but where it was acked early, or lost to others."""
        at_work = Counter(
            (copy.shard, copy.id)
            for copy in self.in_hand
            if copy.awaited or copy.state is State.RUNNING
        )
        assert not at_work or max(at_work.values()) == 1

    def a_lane_runs_one_at_a_time(self) -> None:
        if self.ordering is not Ordering.NONE:
            running = Counter(self.lane(c) for c in self.in_hand if c.era == self.era)
            assert not running or max(running.values()) == 1

    def lanes_are_there_only_as_long_as_they_have_an_entry(self) -> None:
        lanes: set[Any] = set()
        if self.ordering is not Ordering.NONE:
            running = [c for c in self.in_hand if c.era == self.era]
            lanes = {self.lane(c) for c in [*running, *self.having(*WAITING)]}
        assert len(self.ledger._lanes._lanes) == len(lanes)

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
        assert not self.ledger._lanes._lanes
        assert not any(a.twice for a in self.ledger._accounts.values())
        assert not self.ledger._queue
        # Everything has left, or is open: exactly once.
        over = {copy for copy in self.copies if copy.state in {*OVER, State.OPEN}}
        assert over == set(self.copies)
        if self.acks:
            assert Counter(map(id, self.confirmed)) == Counter(map(id, self.gone))
        assert self.acked == len(self.gone)
        # And whoever has nothing to do is read for.
        self.grow_hungry(1)
        assert self.ledger.room(self.now) > 0


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
