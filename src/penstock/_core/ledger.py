"""The ledger: state machine and bounded queue of everything a consumer has in hand.

What an entry is, its states and the table of what moves it are in `entry.py`; here is
what the events do. Repeating an outcome that an entry has is no event, see `ack`.

Two more things hang on an entry, and are kept apart from its state because they end
with the handler, not with the outcome: the *room* it takes (from read to handler's
end), and its *lane*, see `lanes.py`.

The ledger is synchronous and calls out by plain callables, which must only ring a bell:
`on_room` when a reader that found no room may look again, `on_outcomes` when the first
outcome waits for the committer and when as many wait as may, `on_ready` when an entry
may be taken that nobody was told of.
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
from typing import Final

from penstock._core.entry import (
    ACK,
    ACKED,
    AGAIN,
    CONFIRM,
    DROP,
    GONE,
    LEAVE,
    LOSE,
    LOST,
    OPEN,
    PLAN,
    RELEASE,
    RELEASED,
    RUNNING,
    SETTLED,
    TAKE,
    TAKE_AGAIN,
    UNSENT,
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
from penstock._core.replies import RawEntry
from penstock._core.window import Window
from penstock.message import EntryId, Shard
from penstock.options import Ordering

__all__ = ["Ledger"]

_NO_ORDER: Final = Ordering.NONE
# A read is worth its round trip when it may bring this part of what should wait.
_BATCH: Final = 0.5


class Ledger:
    """Holds what a consumer has read until it is acknowledged or given back.

    Args:
        window: How much may be held.
        max_pending: Outcomes that are sent without waiting for the interval.
        max_uncommitted: Outcomes that may wait before nothing more is read: a server
            may go on serving reads and refuse to be told. None for no bound.
        lease: Seconds that an entry without an outcome is ours.
        acks: Whether there is anything to acknowledge (not so in REALTIME).
        on_room: Rung when there is room again after `room` gave 0.
        on_outcomes: Rung when outcomes should be looked at.
        on_ready: Rung when an entry may be taken that no read has brought just now.
    """

    __slots__ = (
        "_accounts",
        "_acks",
        "_closed",
        "_hungry",
        "_lanes",
        "_lease",
        "_max_pending",
        "_max_uncommitted",
        "_nothing_spare",
        "_on_outcomes",
        "_on_ready",
        "_on_room",
        "_queue",
        "_swept",
        "_thirsty",
        "_unsent",
        "_wake_at",
        "_window",
        "held",
        "size",
        "totals",
        "uncommitted",
    )

    def __init__(
        self,
        window: Window,
        *,
        max_pending: int,
        max_uncommitted: int | None = None,
        lease: float,
        acks: bool,
        on_room: Callable[[], None],
        on_outcomes: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._window = window
        self._max_pending = max_pending
        self._max_uncommitted = max_uncommitted
        self._lease = lease
        self._acks = acks
        self._on_room = on_room
        self._on_outcomes = on_outcomes
        self._on_ready = on_ready
        # By the shard's key.
        self._accounts: dict[bytes, Account] = {}
        self._lanes = Lanes()
        # Entries that a worker may take now, in order.
        self._queue = self._lanes.ready
        # Workers that wait for entries.
        self._hungry = 0
        # The reader found no room and waits to be rung once this few wait for a worker
        # and this few are held.
        self._thirsty = False
        self._wake_at = (0, 0)
        # So did the claimer.
        self._nothing_spare = False
        # Everything was let go.
        self._closed = False
        # When the books were last searched for ended leases.
        self._swept = 0.0
        # Keys of accounts whose last acknowledgement got no reply.
        self._unsent: set[bytes] = set()
        # Entries that take room (queued or running) and their bytes.
        self.held = 0
        self.size = 0
        # Entries settled or committing, and ghosts.
        self.uncommitted = 0
        self.totals = Totals()

    # -- the reader's side ---------------------------------------------------------

    def room(self, now: float) -> int:
        """Give how many entries may be read now; at 0 `on_room` will ring.

        It is 0 as long as workers have plenty to do: a read for every freed place
        would cost a round trip a message.

        Args:
            now: The time.
        """
        self._window.paced(self.totals.received - self.held, now)
        most = self._max_uncommitted
        late = most is not None and self.uncommitted > most
        room = 0 if late else self._wanted(_BATCH)
        self._thirsty = not room
        if room and self._nothing_spare:
            self._nothing_spare = False
            self._on_room()
        return room

    def spare(self, now: float) -> int:
        """Give how many entries may be taken over now; at 0 `on_room` will ring."""
        self._window.paced(self.totals.received - self.held, now)
        spare = self._wanted(0.0)
        if not spare:
            self._thirsty = self._nothing_spare = True
        return spare

    def _wanted(self, batch: float) -> int:
        """Give how many entries to ask for, but not less than that part of the aim."""
        window, ready = self._window, len(self._queue)
        aim = window.aim(self._hungry)
        free = window.free(self.held, self.size)
        waiting = ready + self._lanes.behind
        wanted = min(aim - waiting, free)
        if waiting and wanted < aim * batch:
            wanted = 0
        least = max(1, round(aim * _BATCH))
        self._wake_at = aim - least, window.capacity - least
        # What waits in lanes is of no use to those who have nothing to do.
        return max(0, wanted, min(self._hungry - ready, free))

    @property
    def crammed(self) -> bool:
        """Whether no more may be held."""
        return not self._window.free(self.held, self.size)

    def hunger(self, change: int) -> None:
        """Take note of workers that begin to wait for entries, or have ended to."""
        self._hungry += change
        if change > 0 and self._thirsty:
            self._on_room()

    def _freed(self) -> None:
        """Ring if somebody has nothing to do, or a batch is worth its round trip."""
        (waiting, held), ready = self._wake_at, len(self._queue)
        if self._hungry > ready or (
            ready + self._lanes.behind <= waiting and self.held <= held
        ):
            self._on_room()

    def received(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        size: int,
        deliveries: Mapping[bytes, int] | None = None,
        *,
        claimed: bool = False,
        again: bool = False,
    ) -> int:
        """Book what a read brought; gives how many are new and can be taken.

        An id that is in hand already is not booked twice: a recovery meets what is
        in flight. Only after the group was set back does it count anew, see
        `_comes_again`.

        Args:
            shard: Where the entries came from.
            entries: As the server gave them.
            now: The time.
            size: Bytes of the reply's part that they are.
            deliveries: Their delivery counts after this read, where not all are 1.
            claimed: Whether they were taken over because their lease had ended; then
                one that was left open here is handed out again.
            again: Whether they were set back to on purpose, so that what is in hand
                is to be handed out again.
        """
        account = self._account(shard)
        if not self._acks:
            return self._queue_up(account, entries, now, size)
        if now - self._swept > self._lease / 3:
            self._forget(now)
        known, queue, lanes = account.entries, self._queue, self._lanes
        unordered, twice = lanes.order is _NO_ORDER, account.twice
        each = size // len(entries) if entries else 0
        times = 1
        count = 0
        for id_, fields in _not_lately(account, entries):
            if id_ in known:
                if not self._comes_again(known[id_], claimed=claimed, again=again):
                    continue
                # Out first, so that the books stay in the order of reading.
                del known[id_]
            if fields is None:
                self._ghost(account, id_)
                continue
            if deliveries is not None:
                times = deliveries.get(id_, 1)
            known[id_] = entry = Entry(account, id_, fields, each, times, now)
            if twice and id_ in twice:
                entry.state = AGAIN
            count += 1
            if unordered:
                queue.append(entry)
            else:
                lanes.file(entry)
        return self._booked(count, count * each)

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

    def _booked(self, count: int, size: int) -> int:
        if count:
            self.held += count
            self.size += size
            self.totals.received += count
            self._window.learned(count, size)
        return count

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
            case State.RUNNING if again:
                move(entry, LOSE)
                account.twice[entry.id] = entry
                return True
            case State.SETTLED if again:
                self.uncommitted -= 1
                account.settled.remove(entry)
                move(entry, LOSE)
                return True
            case State.COMMITTING if again:
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
            self._outcome()

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
        gone = self._lanes.withdraw(account)
        while account.aside:
            gone.append(self._not_aside(next(iter(account.aside.values()))))
        for entry in gone:
            self.held -= 1
            self.size -= entry.size
            account.entries.pop(entry.id, None)
        return gone

    def _not_aside(self, entry: Entry) -> Entry:
        """Take an entry from where it waits for its handler; its lane is free."""
        del entry.account.aside[entry.id]
        if entry.lane is not None:
            self._lanes.free(entry.lane)
        return entry

    # -- the workers' side ---------------------------------------------------------

    @property
    def queued(self) -> int:
        """Entries that a worker may take now."""
        return len(self._queue)

    def take(self) -> Entry | None:
        """Take the next entry that may run, or None."""
        queue = self._queue
        while queue:
            entry = queue.popleft()
            try:
                entry.state = TAKE[entry.state]
            except KeyError:
                if not self._take_again(entry):
                    continue
            if self._thirsty and (self._hungry or len(queue) <= self._wake_at[0]):
                self._freed()
            return entry
        return None

    def _take_again(self, entry: Entry) -> bool:
        """Take an entry that was set back to; False while its handler is at it."""
        if entry.state is not AGAIN:
            raise illegal(entry, TAKE)
        account = entry.account
        if entry.id in account.twice:
            account.aside[entry.id] = entry
            if self._thirsty:
                self._freed()
            return False
        move(entry, TAKE_AGAIN)
        return True

    def ack(self, entry: Entry) -> bool:
        """Record that an entry is done; False if it was given back before.

        Acknowledging what is acknowledged is no event and changes nothing, nor does
        acknowledging what is somebody else's by now, or has come again since.
        """
        if entry.state in ACKED or entry.state is LOST:
            return True
        if entry.state is RELEASED:
            return False
        if entry.state is OPEN:
            # It may have left the books with its lease, and have come again since:
            # then it is the one in hand that counts.
            if self._closed:
                return False
            if entry.id in entry.account.known_ghosts:
                return True
            if entry.account.entries.setdefault(entry.id, entry) is not entry:
                return True
        self._settle(entry)
        return True

    def finish(self, entry: Entry, *, ack: bool) -> None:
        """Take an entry out of its handler's hands: its room and lane are free.

        Args:
            entry: The entry; acked by its handler already, or running, or given
                back meanwhile.
            ack: Whether to acknowledge it, if it has no outcome.
        """
        self.held -= 1
        self.size -= entry.size
        if entry.state is RUNNING:
            if ack and self._acks:
                # What `_settle` does without the calls: every message comes here.
                entry.fields = ()
                entry.state = SETTLED
                entry.account.settled.append(entry)
                self.uncommitted = waiting = self.uncommitted + 1
                if waiting == 1 or waiting == self._max_pending:  # noqa: PLR1714
                    self._on_outcomes()
            elif not self._acks:
                entry.fields = ()
                entry.state = GONE
                self.totals.acked += 1
            else:
                move(entry, LEAVE)
                entry.fields = ()
                self.totals.left += 1
        elif entry.state is LOST:
            self._make_way(entry)
        if entry.lane is not None:
            self._lanes.free(entry.lane)
        if self._thirsty and (self._hungry or self.held <= self._wake_at[1]):
            self._freed()

    def _make_way(self, entry: Entry) -> None:
        """Let the same entry by a later read be taken."""
        account = entry.account
        if account.twice.get(entry.id) is not entry:
            return  # it is another's handler that is waited for
        del account.twice[entry.id]
        waiting = account.aside.pop(entry.id, None)
        if waiting is not None:
            self._queue.append(waiting)
            self._on_ready()

    def _settle(self, entry: Entry) -> None:
        # The message keeps the fields as long as its user does.
        entry.fields = ()
        try:
            entry.state = ACK[entry.state]
        except KeyError:
            raise illegal(entry, ACK) from None
        entry.account.settled.append(entry)
        self._outcome()

    def _outcome(self) -> None:
        self.uncommitted = waiting = self.uncommitted + 1
        if waiting == 1 or waiting == self._max_pending:  # noqa: PLR1714 - hot
            self._on_outcomes()

    def order_by(self, ordering: Ordering) -> None:
        """Choose what is kept in order; files what is queued anew."""
        for account in self._accounts.values():
            # They find their way back when they are met again.
            self._queue.extend(account.aside.values())
            account.aside.clear()
        entries = [e for a in self._accounts.values() for e in a.entries.values()]
        if not self._acks:
            # The books know nothing, and ids only rise.
            entries = sorted(self._lanes.waiting(), key=lambda e: EntryId.parse(e.id))
        self._lanes.reorder(ordering, entries)
        if self._thirsty:
            self._freed()  # fewer may be taken at once now

    # -- the committer's side ------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether as many outcomes wait as may."""
        return self.uncommitted >= self._max_pending

    def plan(self) -> list[Batch]:
        """Take all outcomes for sending, a batch per shard."""
        batches = []
        for key, account in self._accounts.items():
            if not account.settled and not account.ghosts:
                continue
            move_all(account.settled, PLAN)
            repeated = key in self._unsent
            batches.append(Batch(account, account.settled, account.ghosts, repeated))
            account.settled, account.ghosts = [], []
        return batches

    def committed(self, batch: Batch) -> None:
        """Let a batch go: the server has answered, or has nothing to be told."""
        account = batch.account
        self._unsent.discard(account.shard.key)
        move_all(batch.entries, CONFIRM)
        books = account.entries
        for entry in batch.entries:
            if not account.set_back or books.get(entry.id) is entry:
                del books[entry.id]
        account.known_ghosts.difference_update(batch.ghosts)
        if account.lately is not None:
            account.lately.update(batch.ids)
        self.uncommitted -= len(batch.entries) + len(batch.ghosts)
        self.totals.acked += len(batch.entries)
        if self._thirsty:
            self._on_room()

    def unsent(self, batch: Batch) -> None:
        """Take a batch back: its reply did not come, or asked to try again."""
        account = batch.account
        self._unsent.add(account.shard.key)
        move_all(batch.entries, UNSENT)
        account.settled[:0] = batch.entries
        account.ghosts[:0] = batch.ghosts

    # -- leases --------------------------------------------------------------------

    def to_renew(self, now: float) -> list[Renewal]:
        """List what has used up a third of its lease or more, per shard.

        Entries that are left open are not among them: nobody is at work on them.
        """
        third, end = now - self._lease / 3, now - self._lease
        renewals = []
        for account in self._accounts.values():
            due = [
                entry
                for entry in account.entries.values()
                if entry.leased_at <= third and entry.state is not OPEN
            ]
            if due:
                # Past two thirds we may come too late, and must ask first.
                late = any(entry.leased_at <= (third + end) / 2 for entry in due)
                renewals.append(Renewal(account, due, late))
        return renewals

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
        if lost and self._thirsty:
            self._on_room()
        return len(lost)

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
        if not (self._acks and self._queue):
            return False
        return self._queue[0].leased_at <= now - self._lease

    def _lose(self, entry: Entry) -> None:
        if entry.state in WAITING:
            self.held -= 1
            self.size -= entry.size
            if entry.id in entry.account.aside:
                self._not_aside(entry)
            else:
                self._lanes.remove(entry)
        elif entry.state is SETTLED:
            self.uncommitted -= 1
            entry.account.settled.remove(entry)
        move(entry, LOSE)
        self.totals.lost += 1
        books = entry.account.entries
        if books.get(entry.id) is entry:  # else it has come again
            del books[entry.id]

    # -- closing -------------------------------------------------------------------

    def release(self) -> Iterator[tuple[Shard, int, list[bytes]]]:
        """Let go of all that has no outcome: shard, delivery count, ids.

        The count to be set is one lower for what no handler has seen, so that being
        queued here is no attempt.
        """
        for account in self._accounts.values():
            yield from self._give_up(account, {OPEN, RUNNING})

    def give_up(self, shard: Shard) -> list[tuple[Shard, int, list[bytes]]]:
        """Let go of a shard's entries, but not of what handlers are at."""
        return list(self._give_up(self._account(shard), {OPEN}))

    def _give_up(
        self, account: Account, also: Collection[State]
    ) -> Iterator[tuple[Shard, int, list[bytes]]]:
        back: dict[int, list[bytes]] = {}
        for entry in self._withdraw(account):
            move(entry, RELEASE)
            back.setdefault(entry.deliveries - 1, []).append(entry.id)
        seen = [entry for entry in account.entries.values() if entry.state in also]
        for entry in seen:
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

    def to_confirm(self) -> list[Entry]:
        """List what is acknowledged here and not confirmed by the server."""
        return [
            entry
            for account in self._accounts.values()
            for entry in account.entries.values()
            if entry.uncommitted
        ]


def _not_lately(account: Account, entries: Sequence[RawEntry]) -> Sequence[RawEntry]:
    """Leave out what was acknowledged while the read was on its way."""
    lately = account.lately
    return [entry for entry in entries if entry[0] not in lately] if lately else entries
