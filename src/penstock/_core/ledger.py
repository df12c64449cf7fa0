"""The ledger: state machine and bounded queue of everything a consumer has in hand.

What an entry is, its states and the table of what moves it are in `entry.py`; here is
what the events do. Repeating an outcome that an entry has is no event, see `ack`.

Two more things hang on an entry, and are kept apart from its state because they end
with the handler, not with the outcome: the *room* it takes, see `room.py`, and its
*lane*, see `lanes.py`. What the server is to be told is in `outcomes.py`.

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
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Final

from penstock._core.entry import (
    ACK,
    ACKED,
    AGAIN,
    BURYING,
    DEAD,
    DROP,
    DUE,
    FAILED,
    GIVE_UP,
    GONE,
    IN_HAND,
    LEAVE,
    LOSE,
    LOST,
    NACK,
    OPEN,
    POSTPONED,
    PUT_BACK,
    QUEUED,
    RELEASE,
    RELEASED,
    RETRY,
    RIPEN,
    RUNNING,
    SETTLED,
    START,
    TAKE,
    TAKE_AGAIN,
    WAITING,
    Account,
    Batch,
    Entry,
    Renewal,
    State,
    Totals,
    illegal,
    move,
    move_all,
)
from penstock._core.lanes import Lanes
from penstock._core.leases import counted_again, marked, to_renew
from penstock._core.outcomes import Outcomes
from penstock._core.replies import RawEntry
from penstock._core.room import Room
from penstock._core.verdict import Dead, Dropped, Postponed, Verdict
from penstock._core.window import Window
from penstock.message import EntryId, Shard
from penstock.options import Ordering

__all__ = ["Ledger"]

_NO_ORDER: Final = Ordering.NONE


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
        on_room: Rung when there is room again after `room` gave 0.
        on_outcomes: Rung when outcomes should be looked at.
        on_ready: Rung when an entry may be taken that no read has brought just now.
        on_postponed: Rung when `next_due` has become earlier.
        on_exhausted: Told of an entry that came back with all its attempts used up.
    """

    __slots__ = (
        "_accounts",
        "_acks",
        "_closed",
        "_lanes",
        "_lease",
        "_max_attempts",
        "_max_uncommitted",
        "_numbers",
        "_on_exhausted",
        "_on_postponed",
        "_on_ready",
        "_outcomes",
        "_postponed",
        "_queue",
        "_room",
        "_swept",
        "_window",
        "totals",
    )

    def __init__(
        self,
        window: Window,
        *,
        max_pending: int,
        max_uncommitted: int | None = None,
        max_attempts: int | None = None,
        lease: float,
        acks: bool,
        on_room: Callable[[], None],
        on_outcomes: Callable[[], None],
        on_ready: Callable[[], None],
        on_postponed: Callable[[], None],
        on_exhausted: Callable[[Entry], None],
    ) -> None:
        self._window = window
        self._max_uncommitted = max_uncommitted
        self._max_attempts = max_attempts
        self._lease = lease
        self._acks = acks
        self._on_ready = on_ready
        self._on_postponed = on_postponed
        self._on_exhausted = on_exhausted
        self.totals = Totals()
        # By the shard's key.
        self._accounts: dict[bytes, Account] = {}
        self._lanes = Lanes()
        # Entries that a worker may take now, in order.
        self._queue = self._lanes.ready
        self._room = Room(window, self._lanes, on_room)
        self._outcomes = Outcomes(self._accounts, self.totals, max_pending, on_outcomes)
        # What was postponed, by the time of its next attempt; what has left meanwhile
        # is skipped. The number keeps entries from being compared.
        self._postponed: list[tuple[float, int, Entry]] = []
        self._numbers = count()
        # Everything was let go.
        self._closed = False
        # When the books were last searched for ended leases.
        self._swept = 0.0

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
        back does it count anew, see `_comes_again`.

        Args:
            shard: Where the entries came from.
            entries: As the server gave them.
            now: The time.
            size: Bytes of the reply's part that they are.
            again: Whether they were set back to, so that what is in hand is to be
                handed out again.
        """
        account = self._account(shard)
        if not self._acks:
            return self._queue_up(account, entries, now, size)
        if now - self._swept > self._lease / 3:
            self._forget(now)
        known, queue, lanes = account.entries, self._queue, self._lanes
        unordered, twice = lanes.order is _NO_ORDER, account.twice
        each = size // len(entries) if entries else 0
        number = 0
        for id_, fields in _not_lately(account, entries):
            if id_ in known:
                if not self._comes_again(known[id_], claimed=False, again=again):
                    continue
                # Out first, so that the books stay in the order of reading.
                del known[id_]
            if fields is None:
                self._ghost(account, id_)
                continue
            known[id_] = entry = Entry(account, id_, fields, each, 1, now)
            if twice and id_ in twice:
                entry.state = AGAIN
            number += 1
            if unordered:
                queue.append(entry)
            else:
                lanes.file(entry)
        return self._booked(number, number * each)

    def came_back(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        attempts: Mapping[bytes, int],
        *,
        claimed: bool = False,
    ) -> int:
        """Book entries that had been given to somebody; gives how many are new.

        One that a handler had may have killed the process: it is a suspect. Those with
        no attempt left are told of by `on_exhausted`.

        Args:
            shard: Where they are from.
            entries: Ids and fields; None for the fields of a deleted one, none for one
                that was in hand when it was asked for. If it is not any more, it is
                somebody else's.
            now: The time.
            attempts: How often a handler has had each, as far as the server knows.
            claimed: Whether they were taken over because their lease had ended; then
                one that was left open here is handed out again.
        """
        account, known = self._account(shard), self._account(shard).entries
        number = size = 0
        for id_, fields in _not_lately(account, entries):
            if id_ in known:
                if not self._comes_again(known[id_], claimed=claimed, again=False):
                    continue
                del known[id_]
            if not fields:
                if fields is None:
                    self._ghost(account, id_)
                continue
            before, bytes_ = attempts.get(id_, 0), sum(map(len, fields))
            entry = Entry(account, id_, fields, bytes_, before + 1, now, DUE)
            known[id_] = entry
            if self._exhausted(before):
                entry.deliveries, entry.state = before, OPEN
                self.totals.received += 1
                self._on_exhausted(entry)
                continue
            # Whoever has it here by an earlier read is alive.
            entry.suspect = before > 0 and id_ not in account.twice
            self._lanes.file(entry)
            number += 1
            size += bytes_
        return self._booked(number, size)

    def _exhausted(self, attempts: int) -> bool:
        # One delivery proves nothing: it may have waited beside the one that killed.
        most = self._max_attempts
        return most is not None and attempts >= max(2, most)

    @contextmanager
    def recovering(self, shard: Shard) -> Iterator[None]:
        """Keep out of the books what is confirmed while pending entries are read.

        Reads and acknowledgements have a connection each. A reply may list as pending
        what was acknowledged before it came.
        """
        account = self._account(shard)
        account.lately = set()
        try:
            yield
        finally:
            account.lately = None

    def _booked(self, number: int, size: int) -> int:
        if number:
            self._room.filled(number, size)
            self.totals.received += number
        return number

    def _queue_up(
        self, account: Account, entries: Sequence[RawEntry], now: float, size: int
    ) -> int:
        """Queue what is not acknowledged: the books need not know of it."""
        each = size // max(1, len(entries))
        made = [Entry(account, id_, fields, each, 1, now) for id_, fields in entries]
        if self._lanes.order is _NO_ORDER:
            self._queue.extend(made)
        else:
            for entry in made:
                self._lanes.file(entry)
        return self._booked(len(made), each * len(made))

    def _comes_again(self, entry: Entry, *, claimed: bool, again: bool) -> bool:
        """Take an entry out of hand that has come again; False if it stays there."""
        account = entry.account
        match entry.state:
            case State.OPEN:
                return claimed or again
            case State.RUNNING | State.FAILED if again:
                move(entry, LOSE)
                account.twice[entry.id] = entry
                return True
            case State.SETTLED | State.POSTPONED | State.DEAD if again:
                self._take_out(entry)
                move(entry, LOSE)
                return True
            case State.COMMITTING | State.BURYING if again:
                account.set_back = True
                return True
            case State.COMMITTING:
                # The group may have been made anew after it was acknowledged.
                self._acknowledge_again(account, entry.id)
        return False

    def _acknowledge_again(self, account: Account, id_: bytes) -> None:
        if id_ not in account.known_ghosts:
            account.ghosts.append(id_)
            account.known_ghosts.add(id_)
            self._outcomes.add()

    def _forget(self, now: float) -> None:
        """Take open entries whose lease has ended out of the books."""
        self._swept = now
        for account in self._accounts.values():
            ended = [
                entry.id
                for entry in account.entries.values()
                if entry.state is OPEN and entry.leased_at <= now - self._lease
            ]
            for id_ in ended:
                del account.entries[id_]

    def _account(self, shard: Shard) -> Account:
        account = self._accounts.get(shard.key)
        if account is None:
            account = self._accounts[shard.key] = Account(shard)
        return account

    def _ghost(self, account: Account, id_: bytes) -> None:
        if id_ not in account.known_ghosts:
            self.totals.ghosts += 1
            self._acknowledge_again(account, id_)

    def deleted(self, shard: Shard, ids: Iterable[bytes]) -> None:
        """Count pending entries that a takeover found deleted, and that are gone."""
        self.totals.ghosts += len(set(ids) - self._account(shard).known_ghosts)

    def drop(self, shard: Shard) -> int:
        """Forget what waits of a shard, for good; gives how many entries it was."""
        account = self._account(shard)
        gone = self._withdraw(account)
        move_all(gone, DROP)
        return len(gone)

    def in_hand(self, shard: Shard) -> Collection[bytes]:
        """List the ids of a shard that are read and not let go."""
        return self._account(shard).entries.keys()

    def _withdraw(self, account: Account) -> list[Entry]:
        """Take out of books and queue what waits of a shard."""
        later = [e for e in account.entries.values() if e.state is POSTPONED]
        gone = later + self._lanes.withdraw(account, later)
        while account.aside:
            gone.append(self._not_aside(next(iter(account.aside.values()))))
        for entry in gone:
            self._leave_room(entry)
            account.entries.pop(entry.id, None)
        return gone

    def _not_aside(self, entry: Entry) -> Entry:
        """Take an entry from where it waits for its handler; its lane is free."""
        del entry.account.aside[entry.id]
        self._lanes.free(entry)
        return entry

    def _leave_room(self, entry: Entry) -> None:
        """Let go of an entry's body: it has left, or is to be acknowledged."""
        entry.fields = ()
        self._room.held -= 1
        self._room.size -= entry.size

    def _take_room(self, entry: Entry) -> None:
        self._room.held += 1
        self._room.size += entry.size

    # -- the workers' side ---------------------------------------------------------

    @property
    def queued(self) -> int:
        """Entries that a worker may take now."""
        return self._room.takeable

    @property
    def next_is_due(self) -> bool:
        """Whether there is one to take by `take_due`, before all others."""
        entry = self._first()
        return entry is not None and entry.state is DUE

    @property
    def next_is_repeated(self) -> bool:
        """Whether the next one to be taken is on a further attempt."""
        entry = self._first()
        return entry is not None and entry.deliveries > 1

    def _first(self) -> Entry | None:
        """Give the entry that can be taken next, whoever has to be told first."""
        queue = self._queue
        while queue:
            entry = queue.popleft()
            if not self._steps_aside(entry):
                queue.appendleft(entry)
                return entry
        return None

    def take(self) -> Entry | None:
        """Take the next entry that may run, or None: then `take_due` may have one."""
        queue = self._queue
        while queue:
            entry = queue.popleft()
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

    def take_due(self) -> Entry:
        """Take the next entry of which the server has to be told first."""
        entry = self._lanes.take_due()
        move(entry, START)
        if self._room.thirsty:
            self._room.freed()
        return entry

    def put_back(self, entry: Entry) -> None:
        """Take an entry back whose handler did not start after all."""
        if entry.state is RUNNING:
            move(entry, PUT_BACK)
            self._lanes.put_back(entry)
            self._on_ready()
        else:
            self.finish(entry, ack=False)  # released or lost meanwhile

    def may_start(self, entry: Entry) -> bool:
        """Whether an entry that was taken is ours still."""
        return entry.state is RUNNING

    def lock_suspects(self, *, locked: bool) -> None:
        """Have no suspect taken until further notice, or take that back."""
        self._lanes.lock(locked=locked)
        if self._queue and not locked:
            self._on_ready()

    def _steps_aside(self, entry: Entry) -> bool:
        """Set an entry aside if it can't be taken, though it is first in the queue.

        A handler may have it by an earlier read, or a suspect has to wait.
        """
        account = entry.account
        if entry.id in account.twice:
            account.aside[entry.id] = entry
        elif not self._lanes.steps_aside(entry):
            return False
        if self._room.thirsty:
            self._room.freed()
        return True

    def to_mark(self, now: float) -> list[Renewal]:
        """List what waits and is counted by the server, where that can be mended.

        It can while the pace is slow: then it costs little, and it is where entries
        wait for long. They are DUE from now on. Not so what may be somebody else's by
        now: a renewal would take it back.
        """
        if not (self._acks and self._window.slow):
            return []
        late = now - self._lease * 2 / 3
        return marked(
            [
                entry
                for entry in self._lanes.waiting()
                if entry.state is QUEUED and entry.leased_at > late
            ]
        )

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
            self._settle(entry, ACK)
        return True

    def _counts_still(self, entry: Entry) -> bool:
        """Tell whether one that is left open is the one that counts.

        It may have left the books with its lease, and have come again since.
        """
        account = entry.account
        if entry.id in account.known_ghosts:
            return False
        return account.entries.setdefault(entry.id, entry) is entry

    def refuse(self, entry: Entry, verdict: Verdict, fields: Sequence[bytes]) -> bool:
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
            self._apply(entry, verdict)
        return True

    def fail(self, entry: Entry, verdict: Verdict) -> None:
        """Finish with an entry whose handler failed.

        What the handler had said before counts for more.
        """
        if entry.state is RUNNING:
            self.refuse(entry, verdict, entry.fields)
        self.finish(entry, ack=False)

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
                # What `_settle` does without the calls: every message comes here.
                entry.fields = ()
                entry.state = SETTLED
                entry.account.settled.append(entry)
                self._outcomes.add()
            elif not self._acks:
                entry.fields = ()
                entry.state = GONE
                self.totals.acked += 1
            else:
                self._leave(entry)
        elif entry.state is FAILED:
            assert entry.verdict is not None  # noqa: S101 - `refuse` sets both
            self._apply(entry, entry.verdict)
        elif entry.state is LOST:
            self._make_way(entry, late=ack)
        if entry.lane is not None:
            self._lanes.free(entry)
            if entry.suspect:
                self._on_ready()
        if room.thirsty and (room.hungry or room.held <= room.wake_held):
            room.freed()

    def _apply(self, entry: Entry, verdict: Verdict) -> None:
        """Do what was decided on; it takes no room now."""
        match verdict:
            case Postponed():
                self._postpone(entry, verdict)
            case Dead():
                self._take_room(entry)
                self._outcomes.condemn(entry)
            case Dropped():
                self.totals.dropped += 1
                self._settle(entry, GIVE_UP)
            case _:  # Left
                self._leave(entry)

    def _leave(self, entry: Entry) -> None:
        if entry.state is not OPEN:
            move(entry, LEAVE)
        entry.fields = ()
        self.totals.left += 1

    def _postpone(self, entry: Entry, verdict: Postponed) -> None:
        account, lane = entry.account, entry.lane
        if entry.state is not FAILED:
            lane = None  # it was left open, and its lane with it
        later = Entry(
            account,
            entry.id,
            entry.fields,
            entry.size,
            entry.deliveries,
            entry.leased_at,
            POSTPONED,
            lane,
        )
        move(entry, RETRY)
        # The same place in the books: they are in the order of reading.
        account.entries[entry.id] = later
        self._take_room(later)
        # Its lane waits for it; not so the other suspects.
        entry.lane = None
        if entry.suspect:
            self._lanes.end_trial(entry)
            self._on_ready()
        self.totals.retried += 1
        heappush(self._postponed, (verdict.due, next(self._numbers), later))
        if self._postponed[0][2] is later:
            self._on_postponed()

    def _make_way(self, entry: Entry, *, late: bool) -> None:
        """Let the same entry by a later read be taken."""
        self.totals.late += late
        account = entry.account
        if account.twice.get(entry.id) is not entry:
            return  # it is another's handler that is waited for
        del account.twice[entry.id]
        waiting = account.aside.pop(entry.id, None)
        if waiting is not None:
            self._queue.append(waiting)
            self._on_ready()

    def _settle(self, entry: Entry, event: Mapping[State, State]) -> None:
        # The message keeps the fields as long as its user does.
        entry.fields = ()
        try:
            entry.state = event[entry.state]
        except KeyError:
            raise illegal(entry, event) from None
        self._outcomes.settled(entry)

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
        entries = [e for a in self._accounts.values() for e in a.entries.values()]
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
        heap = self._postponed
        while heap and heap[0][2].state is not POSTPONED:
            heappop(heap)
        return heap[0][0] if heap else None

    def ripen(self, now: float) -> int:
        """Have what is due by now taken before all others; gives how many it is."""
        number = 0
        while (due := self.next_due) is not None and due <= now:
            entry = heappop(self._postponed)[2]
            move(entry, RIPEN)
            entry.deliveries += 1
            self._lanes.file_first(entry)
            number += 1
        return number

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

    def plan(self) -> list[Batch]:
        """Take all acknowledgements for sending, a batch per shard."""
        return self._outcomes.plan()

    def committed(self, batch: Batch) -> None:
        """Let a batch go: the server has answered, or has nothing to be told."""
        self._outcomes.committed(batch)
        self._room.look_again()

    def unsent(self, batch: Batch) -> None:
        """Take a batch back: its reply did not come, or asked to try again."""
        self._outcomes.unsent(batch)

    def to_bury(self, most: int) -> list[Entry]:
        """Take up to so many entries to be copied to the dead letters, for sending."""
        return self._outcomes.to_bury(most)

    def buried(self, entry: Entry, *, ours: bool) -> None:
        """Let an entry go: it is copied and acknowledged, or somebody else's."""
        if entry.state is not RELEASED:
            self._leave_room(entry)
            self._outcomes.buried(entry, ours=ours)
            self._room.look_again()

    def copied(self, entry: Entry) -> None:
        """Have an entry acknowledged: its dead letter is written."""
        if entry.state is not RELEASED:
            self._leave_room(entry)
            self._outcomes.copied(entry)
            self._room.look_again()

    def unburied(self, entry: Entry) -> None:
        """Take one back: its reply did not come, or was a refusal."""
        if entry.state is RELEASED:
            return
        self._outcomes.unburied(entry)
        if entry.account.entries.get(entry.id) is not entry:
            # It has come again since, and it is that one that counts.
            self._take_out(entry)
            move(entry, LOSE)
            self._room.look_again()

    # -- leases --------------------------------------------------------------------

    def to_renew(self, now: float) -> list[Renewal]:
        """List what has used up a third of its lease or more."""
        return to_renew(self._accounts.values(), self._lease, now)

    def to_count_again(self, now: float) -> list[Renewal]:
        """List what the server may count otherwise than we do, after an outage."""
        return counted_again(self._accounts.values(), self._lease, now)

    def lose_all_but(self, renewal: Renewal, ours: Iterable[bytes]) -> int:
        """Book which of a renewal's entries are ours still; gives how many are not."""
        kept = set(ours)
        lost = [
            entry
            for entry in renewal.entries
            if entry.id not in kept and entry.state in LOSE
        ]
        for entry in lost:
            self._lose(entry)
        if lost:
            self._room.look_again()
        return len(lost)

    def lose(self, entry: Entry) -> None:
        """Book that an entry in a handler's hands is not ours any more."""
        if entry.state in LOSE:
            self._lose(entry)

    def renewed(self, renewal: Renewal, now: float) -> None:
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
        if not self._acks:
            return False
        end, lines = now - self._lease, (self._queue, self._lanes.suspects)
        return any(line and line[0].leased_at <= end for line in lines)

    def lease_left(self, entry: Entry, now: float) -> float:
        """Give the seconds until others may take an entry over, if nobody renews it."""
        if not self._acks:
            return float("inf")
        if entry.state in IN_HAND or entry.state is OPEN:
            return max(0.0, entry.leased_at + self._lease - now)
        return 0.0

    def _lose(self, entry: Entry) -> None:
        self._take_out(entry)
        move(entry, LOSE)
        self.totals.lost += 1
        books = entry.account.entries
        if books.get(entry.id) is entry:  # else it has come again
            del books[entry.id]

    def _take_out(self, entry: Entry) -> None:
        """Take an entry that no handler has from wherever it stands."""
        state, ready = entry.state, len(self._queue)
        if state in WAITING:
            self._leave_room(entry)
            if entry.id in entry.account.aside:
                self._not_aside(entry)
            else:
                self._lanes.remove(entry)
        elif state is POSTPONED:
            self._leave_room(entry)
            self._lanes.free(entry)
        elif state is DEAD or state is BURYING:
            self._leave_room(entry)
            self._outcomes.pardon(entry)
        elif state is SETTLED:
            self._outcomes.withdraw(entry)
        if len(self._queue) > ready:
            self._on_ready()  # what its lane held up

    # -- closing -------------------------------------------------------------------

    def release(self) -> Iterator[tuple[Shard, int, list[bytes]]]:
        """Let go of all that has no outcome: shard, delivery count, ids.

        The count to be set is one lower for what no handler has seen, so that being
        queued here is no attempt.
        """
        also = {OPEN, RUNNING, FAILED, DEAD, BURYING}
        for account in self._accounts.values():
            yield from self._give_up(account, also)

    def give_up(self, shard: Shard) -> list[tuple[Shard, int, list[bytes]]]:
        """Let go of a shard's entries, but not of what handlers are at."""
        return list(self._give_up(self._account(shard), {OPEN}))

    def _give_up(
        self, account: Account, also: Collection[State]
    ) -> Iterator[tuple[Shard, int, list[bytes]]]:
        back: dict[int, list[bytes]] = {}
        for entry in self._withdraw(account):
            seen = entry.state is POSTPONED
            move(entry, RELEASE)
            back.setdefault(entry.deliveries - (not seen), []).append(entry.id)
        for entry in [e for e in account.entries.values() if e.state in also]:
            self._take_out(entry)
            move(entry, RELEASE)
            del account.entries[entry.id]
            back.setdefault(entry.deliveries, []).append(entry.id)
        for deliveries, ids in back.items():
            yield account.shard, deliveries, ids

    def close(self) -> None:
        """Let go of everything; the books must not keep entries alive, see `Entry`."""
        self._closed = True
        for _ in self.release():
            pass
        for account in self._accounts.values():
            account.entries.clear()
            account.settled.clear()
            account.twice.clear()
        self._postponed.clear()

    def to_confirm(self) -> list[Entry]:
        """List what has an outcome here that the server has not confirmed."""
        return [
            entry
            for account in self._accounts.values()
            for entry in account.entries.values()
            if entry.untold
        ]


def _not_lately(account: Account, entries: Sequence[RawEntry]) -> Sequence[RawEntry]:
    """Leave out what was acknowledged while the read was on its way."""
    lately = account.lately
    return [entry for entry in entries if entry[0] not in lately] if lately else entries
