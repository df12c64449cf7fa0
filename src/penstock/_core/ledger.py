"""The ledger: state machine and bounded queue of everything a consumer has in hand.

What an entry is, its states and the table of what moves it are in `entry.py`; here is
what the events do. Repeating an outcome that an entry has is no event, see `ack`.

Two more things hang on an entry, and are kept apart from its state because they end
with the handler, not with the outcome: the *room* it takes (from read to handler's
end), and its *lane*: with an ordering, entries of one lane run one at a time in the
order of the stream; those behind wait in the lane, which is there only as long as an
entry of it is. So nothing grows with the number of keys.

The ledger is synchronous and calls out by two plain callables, which must only ring a
bell: `on_room` when a reader that found no room may look again, `on_outcomes` when the
first outcome waits for the committer and when as many wait as may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from penstock._core import envelope
from penstock._core.entry import (
    ACK,
    ACKED,
    CONFIRM,
    FINISH,
    LEAVE,
    LOSE,
    LOST,
    OPEN,
    PLAN,
    QUEUED,
    RELEASE,
    RELEASED,
    RUNNING,
    SETTLED,
    TAKE,
    UNSENT,
    Account,
    Batch,
    Entry,
    Lane,
    Renewal,
    Totals,
    illegal,
    move,
    move_all,
)
from penstock._core.replies import RawEntry
from penstock._core.window import Window
from penstock.message import Shard
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
        lease: Seconds that an entry without an outcome is ours.
        acks: Whether there is anything to acknowledge (not so in REALTIME).
        on_room: Rung when there is room again after `room` gave 0.
        on_outcomes: Rung when outcomes should be looked at.
    """

    __slots__ = (
        "_accounts",
        "_acks",
        "_closed",
        "_lanes",
        "_lease",
        "_max_pending",
        "_max_uncommitted",
        "_on_outcomes",
        "_on_room",
        "_order",
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
    ) -> None:
        self._window = window
        self._max_pending = max_pending
        self._max_uncommitted = max_uncommitted
        self._lease = lease
        self._acks = acks
        self._on_room = on_room
        self._on_outcomes = on_outcomes
        # By the shard's key.
        self._accounts: dict[bytes, Account] = {}
        # Entries that a worker may take now, in order.
        self._queue: deque[Entry] = deque()
        # Lanes with an entry in the queue or running; those behind it wait here.
        self._lanes: dict[Lane, deque[Entry]] = {}
        self._order = Ordering.NONE
        # The reader found no room and waits to be rung once this few are held.
        self._thirsty = False
        self._wake_at = 0
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

    def room(self) -> int:
        """Give how many entries may be read now; at 0 `on_room` will ring.

        It is 0 as long as less than half is free and workers have something to do:
        a read for every freed place would cost a round trip a message.
        """
        self._wake_at = self._window.capacity // 2
        enough = self.held <= self._wake_at or not self._queue
        if self._max_uncommitted is not None:
            enough = enough and self.uncommitted <= self._max_uncommitted
        room = self._window.room(self.held, self.size) if enough else 0
        self._thirsty = not room
        return room

    def received(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        size: int,
        deliveries: Mapping[bytes, int] | None = None,
        *,
        claimed: bool = False,
    ) -> int:
        """Book what a read brought; gives how many are new and can be taken.

        An id that is in hand already is not booked twice: a recovery meets what is
        in flight, and so does a read after the group was set back.

        Args:
            shard: Where the entries came from.
            entries: As the server gave them.
            now: The time.
            size: Bytes of the reply's part that they are.
            deliveries: Their delivery counts after this read, where not all are 1.
            claimed: Whether they were taken over because their lease had ended; then
                one that was left open here is handed out again.
        """
        if now - self._swept > self._lease / 3:
            self._forget(now)
        account = self._account(shard)
        known, queue, order = account.entries, self._queue, self._order
        each = size // len(entries) if entries else 0
        times = 1
        count = 0
        for id_, fields in entries:
            if id_ in known:
                if not (claimed and known[id_].state is OPEN):
                    continue
                # Out first, so that the books stay in the order of reading.
                del known[id_]
            if fields is None:
                self._ghost(account, id_)
                continue
            if deliveries is not None:
                times = deliveries.get(id_, 1)
            known[id_] = entry = Entry(account, id_, fields, each, times, now)
            count += 1
            if order is _NO_ORDER:
                queue.append(entry)
            else:
                self._file(entry)
        if count:
            self.held += count
            self.size += count * each
            self.totals.received += count
            self._window.learned(count, count * each)
        return count

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
        if id_ in account.known_ghosts:
            return
        self.totals.ghosts += 1
        account.ghosts.append(id_)
        account.known_ghosts.add(id_)
        self._outcome()

    def deleted(self, shard: Shard, ids: Iterable[bytes]) -> None:
        """Count pending entries that a takeover found deleted, and that are gone."""
        self.totals.ghosts += len(set(ids) - self._account(shard).known_ghosts)

    def spare(self) -> int:
        """Give how many entries may be taken over now; at 0 `on_room` will ring."""
        spare = self._window.room(self.held, self.size)
        if not spare:
            self._wake_at = self._window.capacity // 2
            self._thirsty = True
        return spare

    # -- the workers' side ---------------------------------------------------------

    @property
    def queued(self) -> int:
        """Entries that a worker may take now."""
        return len(self._queue)

    def take(self) -> Entry | None:
        """Take the next entry that may run, or None."""
        if not self._queue:
            return None
        entry = self._queue.popleft()
        try:
            entry.state = TAKE[entry.state]
        except KeyError:
            raise illegal(entry, TAKE) from None
        if self._thirsty and not self._queue:
            # A reader that found too little room must not leave workers idle.
            self._on_room()
        return entry

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
                # What `_settle` does, without the calls: every message comes here.
                entry.fields = ()
                entry.state = SETTLED
                entry.account.settled.append(entry)
                self.uncommitted = waiting = self.uncommitted + 1
                if waiting == 1 or waiting == self._max_pending:  # noqa: PLR1714
                    self._on_outcomes()
            elif not self._acks:
                self._settle(entry)
            else:
                move(entry, LEAVE)
                entry.fields = ()
                self.totals.left += 1
        if entry.lane is not None:
            self._free_lane(entry.lane)
        if self._thirsty and (self.held <= self._wake_at or not self._queue):
            self._on_room()

    def _settle(self, entry: Entry) -> None:
        # The message keeps the fields as long as its user does.
        entry.fields = ()
        if not self._acks:
            move(entry, FINISH)
            del entry.account.entries[entry.id]
            self.totals.acked += 1
            return
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

    # -- order ---------------------------------------------------------------------

    def order_by(self, ordering: Ordering) -> None:
        """Choose what is kept in order; files what is queued anew."""
        self._order = ordering
        waiting = list(self._queue)
        for lane in self._lanes.values():
            waiting.extend(lane)
        self._queue.clear()
        self._lanes.clear()
        # Queue and lanes are mixed up now; the books have the order of reading. What
        # runs has no lane any more: those of the new order are not its to free.
        queued = {id(entry) for entry in waiting}
        for account in self._accounts.values():
            for entry in account.entries.values():
                entry.lane = None
                if id(entry) in queued:
                    self._file(entry)

    def _file(self, entry: Entry) -> None:
        """Put an entry where a worker finds it once its turn has come."""
        if self._order is Ordering.NONE:
            self._queue.append(entry)
            return
        shard = entry.account.shard.key
        by_key = self._order is Ordering.KEY
        entry.lane = (shard, envelope.key(entry.fields) if by_key else None)
        behind = self._lanes.get(entry.lane)
        if behind is None:
            self._lanes[entry.lane] = deque()
            self._queue.append(entry)
        else:
            behind.append(entry)

    def _free_lane(self, lane: Lane) -> None:
        behind = self._lanes.get(lane)
        if behind is None:
            return  # filed anew by `order_by` while it ran
        if behind:
            self._queue.append(behind.popleft())
        else:
            del self._lanes[lane]

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
            del books[entry.id]
        account.known_ghosts.difference_update(batch.ghosts)
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
        if entry.state is QUEUED:
            self.held -= 1
            self.size -= entry.size
            lane = entry.lane
            if lane is None:
                self._queue.remove(entry)
            elif entry in self._queue:
                self._queue.remove(entry)
                self._free_lane(lane)
            else:
                self._lanes[lane].remove(entry)
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
        self._queue.clear()
        self._lanes.clear()
        for account in self._accounts.values():
            back: dict[int, list[bytes]] = {}
            for entry in account.entries.values():
                if entry.state in RELEASE:
                    unseen = entry.state is QUEUED
                    if unseen:
                        self.held -= 1
                        self.size -= entry.size
                    move(entry, RELEASE)
                    back.setdefault(entry.deliveries - unseen, []).append(entry.id)
            for deliveries, ids in back.items():
                for id_ in ids:
                    del account.entries[id_]
                yield account.shard, deliveries, ids

    def close(self) -> None:
        """Let go of everything; the books must not keep entries alive, see `Entry`."""
        self._closed = True
        for _ in self.release():
            pass
        for account in self._accounts.values():
            account.entries.clear()
            account.settled.clear()

    def to_confirm(self) -> list[Entry]:
        """List what is acknowledged here and not confirmed by the server."""
        return [
            entry
            for account in self._accounts.values()
            for entry in account.entries.values()
            if entry.uncommitted
        ]
