"""What comes: new entries, those that come back from before, and those that come again.

An id is in the books once. What comes although it is there has been read before: by
recovery or a takeover, which is no news; or because the group was set back, and then
it counts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from penstock._core.ledger.counters import Counters
from penstock._core.ledger.entry import (
    SIZED_ABOVE,
    Entry,
    ShardState,
    ShardStates,
    move,
)
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.removals import Removals
from penstock._core.ledger.states import LOSE, REDELIVERED, TO_COUNT, UNSETTLED, State
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
        shard_states: The books.
        counters: Where it is counted.
        ready_queue: Where it waits.
        flow: What is held.
        pending_acks: Told of what is to be acknowledged unseen.
        removals: Takes out what has come again.
        lease: Seconds that an entry without an outcome is ours.
        max_attempts: Attempts after which what comes back is not tried again; None for
            no bound.
        acks: Whether there is anything to acknowledge.
        on_ready: Rung when an entry may be taken that nobody was told of.
        on_exhausted: Told of an entry that came back with all its attempts used up.
    """

    __slots__ = (
        "_acks",
        "_counters",
        "_flow",
        "_lease",
        "_max_attempts",
        "_met",
        "_on_exhausted",
        "_on_ready",
        "_pending_acks",
        "_queue",
        "_ready_queue",
        "_removals",
        "_shard_states",
        "_swept",
        "_tries",
    )

    def __init__(
        self,
        shard_states: ShardStates,
        counters: Counters,
        *,
        ready_queue: ReadyQueue,
        flow: FlowControl,
        pending_acks: PendingAcks,
        removals: Removals,
        lease: float,
        max_attempts: int | None,
        acks: bool,
        on_ready: Callable[[], None],
        on_exhausted: Callable[[Entry], None],
    ) -> None:
        self._shard_states = shard_states
        self._ready_queue = ready_queue
        self._queue = ready_queue.ready
        self._flow = flow
        self._pending_acks = pending_acks
        self._removals = removals
        self._counters = counters
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
        shard_state = self._shard_states.of(shard)
        if not self._acks:
            return self._queue_up(shard_state, entries, now, size)
        if now - self._swept > self._lease / 3:
            self._swept = now
            self._shard_states.forget_open(now - self._lease)
        known, queue, ready_queue = shard_state.entries, self._queue, self._ready_queue
        unordered, still_running = (
            ready_queue.order is _NO_ORDER,
            shard_state.still_running,
        )
        each = size // len(entries) if entries else 0
        large = size > SIZED_ABOVE
        number = sizes = 0
        for id_, fields in _not_lately(shard_state, entries):
            if id_ in known:
                if not self._is_redelivered(known[id_], claimed=False, again=again):
                    continue
                # Out first, so that the books stay in the order of reading.
                del known[id_]
            if fields is None:
                self._acknowledge_deleted(shard_state, id_)
                continue
            if large:
                each = sum(map(len, fields))
                sizes += each
            known[id_] = entry = Entry(shard_state, id_, fields, each, 1, now)
            if still_running and id_ in still_running:
                entry.state = REDELIVERED
            number += 1
            if unordered:
                queue.append(entry)
            else:
                ready_queue.add(entry)
        return self._booked(number, sizes if large else number * each)

    def redelivered(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        counts: Mapping[bytes, int],
        *,
        claimed: bool,
    ) -> int:
        """Book entries that had been given to somebody; see `Ledger.redelivered`."""
        shard_state, known = (
            self._shard_states.of(shard),
            self._shard_states.of(shard).entries,
        )
        number = size = 0
        for id_, fields in _not_lately(shard_state, entries):
            if id_ in known:
                if not self._is_redelivered(known[id_], claimed=claimed, again=False):
                    continue
                del known[id_]
            if not fields:
                if fields is None:
                    self._acknowledge_deleted(shard_state, id_)
                continue
            bytes_, starts = sum(map(len, fields)), max(0, counts.get(id_, 0) - 1)
            entry = Entry(shard_state, id_, fields, bytes_, starts + 1, now)
            known[id_] = entry
            if self._max_attempts is not None and starts >= self._max_attempts:
                entry.deliveries, entry.state = starts, UNSETTLED
                self._counters.received += 1
                self._on_exhausted(entry)
                continue
            # If a handler here has it by an earlier read, it has killed nobody.
            running = id_ in shard_state.still_running
            if running or counts.get(id_):
                entry.state, entry.suspected = TO_COUNT, not running
                entry.probe = entry.suspected and starts >= self._tries
            self._ready_queue.add(entry)
            number += 1
            size += bytes_
        return self._booked(number, size)

    @contextmanager
    def recovering(self, shard: Shard) -> Iterator[None]:
        """Keep out of the books what is confirmed while pending entries are read."""
        shard_state = self._shard_states.of(shard)
        shard_state.pending_reads += 1
        if shard_state.recently_acked is None:
            shard_state.recently_acked = set()
        try:
            yield
        finally:
            shard_state.pending_reads -= 1
            if not shard_state.pending_reads:
                shard_state.recently_acked = None

    def deleted(self, shard: Shard, ids: Iterable[bytes]) -> None:
        """Count pending entries that a takeover found deleted, and that are gone."""
        shard_state = self._shard_states.of(shard)
        for id_ in dict.fromkeys(ids):
            if id_ not in shard_state.deleted_in_flight:
                self._count_deleted_entry(shard_state, id_)

    def take_deleted(self) -> list[tuple[Shard, list[bytes]]]:
        """Give the deleted entries that were met since this was asked last."""
        met, self._met = self._met, {}
        return list(met.items())

    def _count_deleted_entry(self, shard_state: ShardState, id_: bytes) -> None:
        self._counters.deleted_ids += 1
        self._met.setdefault(shard_state.shard, []).append(id_)

    def release_deferred(self, entry: Entry) -> None:
        """Let the same entry by a later read be taken: its handler has finished."""
        shard_state = entry.shard_state
        if shard_state.still_running.get(entry.id) is not entry:
            return  # it is another's handler that is waited for
        del shard_state.still_running[entry.id]
        waiting = shard_state.deferred.pop(entry.id, None)
        if waiting is not None:
            self._queue.append(waiting)
            self._on_ready()

    def _booked(self, number: int, size: int) -> int:
        if number:
            self._flow.filled(number, size)
            self._counters.received += number
        return number

    def _queue_up(
        self,
        shard_state: ShardState,
        entries: Sequence[RawEntry],
        now: float,
        size: int,
    ) -> int:
        """Queue what is not acknowledged: the books need not know of it."""
        if size > SIZED_ABOVE:
            made = [
                Entry(shard_state, id_, fields, sum(map(len, fields)), 1, now)
                for id_, fields in entries
            ]
            size = sum(entry.size for entry in made)
        else:
            each = size // max(1, len(entries))
            made = [
                Entry(shard_state, id_, words, each, 1, now) for id_, words in entries
            ]
            size = each * len(made)
        if self._ready_queue.order is _NO_ORDER:
            self._queue.extend(made)
        else:
            for entry in made:
                self._ready_queue.add(entry)
        return self._booked(len(made), size)

    def _is_redelivered(self, entry: Entry, *, claimed: bool, again: bool) -> bool:
        """Take an entry out of hand that has come again; False if it stays there."""
        shard_state = entry.shard_state
        match entry.state:
            case State.UNSETTLED:
                return claimed or again
            case State.RUNNING | State.FAILED if again:
                move(entry, LOSE)
                shard_state.still_running[entry.id] = entry
                return True
            case State.TO_ACK | State.POSTPONED | State.TO_DEAD_LETTER if again:
                self._removals.supersede(entry)
                return True
            case State.ACKING | State.DEAD_LETTERING if again:
                shard_state.set_back = True
                return True
            case State.ACKING:
                # The group may have been made anew after it was acknowledged.
                self._pending_acks.acknowledge_again(shard_state, entry.id)
        return False

    def _acknowledge_deleted(self, shard_state: ShardState, id_: bytes) -> None:
        if id_ not in shard_state.deleted_in_flight:
            self._count_deleted_entry(shard_state, id_)
            self._pending_acks.acknowledge_again(shard_state, id_)


def _not_lately(
    shard_state: ShardState, entries: Sequence[RawEntry]
) -> Sequence[RawEntry]:
    """Leave out what was acknowledged while the read was on its way."""
    recently_acked = shard_state.recently_acked
    return (
        [entry for entry in entries if entry[0] not in recently_acked]
        if recently_acked
        else entries
    )
