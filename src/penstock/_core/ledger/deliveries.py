"""What comes: new entries, those that come back from before, and those that come again.

An id is in the books once. What comes although it is there has been read before: by
recovery or a takeover, which is no news; or because the group was set back, and then
it counts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from penstock._core.ledger.accounts import ShardStates
from penstock._core.ledger.entry import (
    AGAIN,
    DUE,
    LOSE,
    OPEN,
    SIZED_ABOVE,
    Counters,
    Entry,
    ShardState,
    State,
    move,
)
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.removals import Removals
from penstock._core.protocol.replies import RawEntry
from penstock.message import Shard
from penstock.options import Ordering

__all__ = ["Deliveries"]

_NO_ORDER: Final = Ordering.NONE
# Without a bound on attempts, starts that a suspect has had when it first runs alone.
_TRIES: Final = 4


class Deliveries:
    """Books what was read.

    Args:
        accounts: The books.
        totals: Where it is counted.
        lanes: Where it waits.
        room: What is held.
        outcomes: Told of what is to be acknowledged unseen.
        departures: Takes out what has come again.
        lease: Seconds that an entry without an outcome is ours.
        max_attempts: Attempts after which what comes back is not tried again; None for
            no bound.
        acks: Whether there is anything to acknowledge.
        on_ready: Rung when an entry may be taken that nobody was told of.
        on_exhausted: Told of an entry that came back with all its attempts used up.
    """

    __slots__ = (
        "_accounts",
        "_acks",
        "_departures",
        "_lanes",
        "_lease",
        "_max_attempts",
        "_met",
        "_on_exhausted",
        "_on_ready",
        "_outcomes",
        "_queue",
        "_room",
        "_swept",
        "_totals",
        "_tries",
    )

    def __init__(
        self,
        accounts: ShardStates,
        totals: Counters,
        *,
        lanes: ReadyQueue,
        room: FlowControl,
        outcomes: PendingAcks,
        departures: Removals,
        lease: float,
        max_attempts: int | None,
        acks: bool,
        on_ready: Callable[[], None],
        on_exhausted: Callable[[Entry], None],
    ) -> None:
        self._accounts = accounts
        self._lanes = lanes
        self._queue = lanes.ready
        self._room = room
        self._outcomes = outcomes
        self._departures = departures
        self._totals = totals
        self._lease = lease
        self._max_attempts = max_attempts
        # Starts after which a suspect runs alone: its next one is the last allowed.
        self._tries = _TRIES if max_attempts is None else max(1, max_attempts - 1)
        self._acks = acks
        self._on_ready = on_ready
        self._on_exhausted = on_exhausted
        # When the books were last searched for ended leases.
        self._swept = 0.0
        # Pending entries that are deleted, and were not told of yet.
        self._met: dict[Shard, list[bytes]] = {}

    def received(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        size: int,
        *,
        again: bool,
    ) -> int:
        """Book what a read of new entries brought; see `Ledger.received`."""
        account = self._accounts.of(shard)
        if not self._acks:
            return self._queue_up(account, entries, now, size)
        if now - self._swept > self._lease / 3:
            self._swept = now
            self._accounts.forget_open(now - self._lease)
        known, queue, lanes = account.entries, self._queue, self._lanes
        unordered, twice = lanes.order is _NO_ORDER, account.twice
        each = size // len(entries) if entries else 0
        large = size > SIZED_ABOVE
        number = sizes = 0
        for id_, fields in _not_lately(account, entries):
            if id_ in known:
                if not self._comes_again(known[id_], claimed=False, again=again):
                    continue
                # Out first, so that the books stay in the order of reading.
                del known[id_]
            if fields is None:
                self._ghost(account, id_)
                continue
            if large:
                each = sum(map(len, fields))
                sizes += each
            known[id_] = entry = Entry(account, id_, fields, each, 1, now)
            if twice and id_ in twice:
                entry.state = AGAIN
            number += 1
            if unordered:
                queue.append(entry)
            else:
                lanes.file(entry)
        return self._booked(number, sizes if large else number * each)

    def came_back(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        counts: Mapping[bytes, int],
        *,
        claimed: bool,
    ) -> int:
        """Book entries that had been given to somebody; see `Ledger.came_back`."""
        account, known = self._accounts.of(shard), self._accounts.of(shard).entries
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
            bytes_, starts = sum(map(len, fields)), max(0, counts.get(id_, 0) - 1)
            entry = Entry(account, id_, fields, bytes_, starts + 1, now)
            known[id_] = entry
            if self._max_attempts is not None and starts >= self._max_attempts:
                entry.deliveries, entry.state = starts, OPEN
                self._totals.received += 1
                self._on_exhausted(entry)
                continue
            # If a handler here has it by an earlier read, it has killed nobody.
            running = id_ in account.twice
            if running or counts.get(id_):
                entry.state, entry.suspect = DUE, not running
                entry.probe = entry.suspect and starts >= self._tries
            self._lanes.file(entry)
            number += 1
            size += bytes_
        return self._booked(number, size)

    @contextmanager
    def recovering(self, shard: Shard) -> Iterator[None]:
        """Keep out of the books what is confirmed while pending entries are read."""
        account = self._accounts.of(shard)
        account.lists += 1
        if account.lately is None:
            account.lately = set()
        try:
            yield
        finally:
            account.lists -= 1
            if not account.lists:
                account.lately = None

    def deleted(self, shard: Shard, ids: Iterable[bytes]) -> None:
        """Count pending entries that a takeover found deleted, and that are gone."""
        account = self._accounts.of(shard)
        for id_ in dict.fromkeys(ids):
            if id_ not in account.known_ghosts:
                self._meet(account, id_)

    def deleted_met(self) -> list[tuple[Shard, list[bytes]]]:
        """Give the deleted entries that were met since this was asked last."""
        met, self._met = self._met, {}
        return list(met.items())

    def _meet(self, account: ShardState, id_: bytes) -> None:
        self._totals.ghosts += 1
        self._met.setdefault(account.shard, []).append(id_)

    def make_way(self, entry: Entry) -> None:
        """Let the same entry by a later read be taken: its handler has finished."""
        account = entry.account
        if account.twice.get(entry.id) is not entry:
            return  # it is another's handler that is waited for
        del account.twice[entry.id]
        waiting = account.aside.pop(entry.id, None)
        if waiting is not None:
            self._queue.append(waiting)
            self._on_ready()

    def _booked(self, number: int, size: int) -> int:
        if number:
            self._room.filled(number, size)
            self._totals.received += number
        return number

    def _queue_up(
        self, account: ShardState, entries: Sequence[RawEntry], now: float, size: int
    ) -> int:
        """Queue what is not acknowledged: the books need not know of it."""
        if size > SIZED_ABOVE:
            made = [
                Entry(account, id_, fields, sum(map(len, fields)), 1, now)
                for id_, fields in entries
            ]
            size = sum(entry.size for entry in made)
        else:
            each = size // max(1, len(entries))
            made = [Entry(account, id_, words, each, 1, now) for id_, words in entries]
            size = each * len(made)
        if self._lanes.order is _NO_ORDER:
            self._queue.extend(made)
        else:
            for entry in made:
                self._lanes.file(entry)
        return self._booked(len(made), size)

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
                self._departures.supersede(entry)
                return True
            case State.COMMITTING | State.BURYING if again:
                account.set_back = True
                return True
            case State.COMMITTING:
                # The group may have been made anew after it was acknowledged.
                self._outcomes.acknowledge_again(account, entry.id)
        return False

    def _ghost(self, account: ShardState, id_: bytes) -> None:
        if id_ not in account.known_ghosts:
            self._meet(account, id_)
            self._outcomes.acknowledge_again(account, id_)


def _not_lately(account: ShardState, entries: Sequence[RawEntry]) -> Sequence[RawEntry]:
    """Leave out what was acknowledged while the read was on its way."""
    lately = account.lately
    return [entry for entry in entries if entry[0] not in lately] if lately else entries
