"""Deliveries: new entries, recovered and claimed ones, and entries delivered again.

The ledger has an id once. Another delivery of it is no news if it comes from recovery
or from a claim. If the group was rewound, it replaces the first one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from penstock._core.ledger.entry import (
    SIZED_ABOVE,
    Entry,
    ShardState,
    ShardStates,
    move,
)
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.limits import LedgerLimits, LedgerSignals
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.removals import Removals
from penstock._core.ledger.states import (
    LOSE,
    QUEUED,
    REDELIVERED,
    TO_COUNT,
    UNSETTLED,
    State,
)
from penstock._core.protocol.replies import RawEntry
from penstock.message import Shard
from penstock.options import Ordering

__all__ = ["Deliveries"]

_NO_ORDER: Final = Ordering.NONE
# Without a bound on attempts: starts after which a possible poison message runs alone.
_PROBE_AFTER: Final = 4


class Deliveries:
    """Records deliveries.

    Args:
        shards: The states of the shards.
        ready_queue: Gets the entries.
        flow: What is held.
        acks: Gets ids that are to be acknowledged unseen.
        removals: Removes entries that were delivered again.
        limits: What bounds the ledger.
        signals: Whom it wakes.
    """

    __slots__ = (
        "_acks",
        "_deleted",
        "_flow",
        "_limits",
        "_probe_after",
        "_ready_queue",
        "_removals",
        "_shards",
        "_signals",
        "_unsettled_removed_at",
    )

    def __init__(
        self,
        shards: ShardStates,
        *,
        ready_queue: ReadyQueue,
        flow: FlowControl,
        acks: PendingAcks,
        removals: Removals,
        limits: LedgerLimits,
        signals: LedgerSignals,
    ) -> None:
        self._shards = shards
        self._ready_queue = ready_queue
        self._flow = flow
        self._acks = acks
        self._removals = removals
        self._limits = limits
        self._signals = signals
        # Starts after which a possible poison message runs alone: its next attempt is
        # the last one allowed.
        most = limits.max_attempts
        self._probe_after = _PROBE_AFTER if most is None else max(1, most - 1)
        # When unsettled entries whose lease is over were last removed.
        self._unsettled_removed_at = 0.0
        # Pending entries that are deleted, and were not reported yet.
        self._deleted: dict[Shard, list[bytes]] = {}

    def received(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        size: int,
        *,
        rewound: bool = False,
    ) -> int:
        """Record what a read of new entries has brought.

        An id that the ledger has already is not recorded twice, unless the group was
        rewound.

        Args:
            shard: Where the entries are from.
            entries: The entries as the server sent them.
            now: The time.
            size: Bytes of their part of the reply.
            rewound: Whether the group was rewound to them, so that entries which the
                ledger has are handed out again.

        Returns:
            How many entries can be taken.
        """
        state = self._shards.of(shard)
        if not self._limits.acknowledges:
            return self._queue_untracked(state, entries, now, size)
        if now - self._unsettled_removed_at > self._limits.lease / 3:
            self._unsettled_removed_at = now
            self._shards.forget_unsettled(now - self._limits.lease)
        known, ready_queue = state.entries, self._ready_queue
        queue = ready_queue.queue_of(state)
        unordered, running = ready_queue.order is _NO_ORDER, state.still_running
        each = size // len(entries) if entries else 0
        large = size > SIZED_ABOVE
        if state.undelivered:
            state.undelivered.difference_update(id_ for id_, _ in entries)
        number = sizes = 0
        for id_, fields in _without_acknowledged(state, entries):
            if id_ in known:
                if not self._is_replaced(known[id_], claimed=False, rewound=rewound):
                    continue
                # Removed first, so that the entries stay in the order of reading.
                del known[id_]
            if fields is None:
                self._acknowledge_deleted(state, id_)
                continue
            if large:
                each = sum(map(len, fields))
                sizes += each
            begin = REDELIVERED if running and id_ in running else QUEUED
            known[id_] = entry = Entry(state, id_, fields, each, 1, now, begin)
            number += 1
            if unordered:
                queue.append(entry)
            else:
                ready_queue.add(entry)
        return self._recorded(state, number, sizes if large else number * each)

    def recovered(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        now: float,
        counts: Mapping[bytes, int],
        *,
        claimed: bool = False,
    ) -> int:
        """Record entries that had been delivered before, to whomever.

        An entry that a handler may have had is a possible poison message: its handler
        may have killed the process. The server has to confirm its start before it
        runs. On its last allowed attempt it runs alone. Entries without an attempt
        left are passed to `on_exhausted`.

        Args:
            shard: Where the entries are from.
            entries: Ids and fields. Fields are None if the entry is deleted, and empty
                if the ledger had it when it was asked for. If it has left the ledger
                since, another consumer has it.
            now: The time.
            counts: The server's delivery counts: one more than the number of handler
                starts that it knows of, 0 for an entry that certainly had none.
            claimed: Whether the entries were claimed because their lease had ended.
                Then one that was left unsettled here is handed out again.

        Returns:
            How many entries can be taken.
        """
        state = self._shards.of(shard)
        known, number, size = state.entries, 0, 0
        for id_, fields in _without_acknowledged(state, entries):
            if id_ in known:
                if not self._is_replaced(known[id_], claimed=claimed, rewound=False):
                    continue
                del known[id_]
            if not fields:
                if fields is None:
                    self._acknowledge_deleted(state, id_)
                continue
            entry = self._recover(state, id_, fields, now, counts.get(id_, 0))
            if entry is not None:
                number += 1
                size += entry.size
        return self._recorded(state, number, size)

    def _recover(
        self,
        state: ShardState,
        id_: bytes,
        fields: Sequence[bytes],
        now: float,
        count: int,
    ) -> Entry | None:
        """Record one entry; return it unless its attempts are used up."""
        starts, size = max(0, count - 1), sum(map(len, fields))
        most = self._limits.max_attempts
        if most is not None and starts >= most:
            entry = Entry(state, id_, fields, size, starts, now, UNSETTLED)
            state.entries[id_] = entry
            state.counters.received += 1
            self._signals.on_exhausted(entry)
            return None
        # If a handler here runs an earlier delivery of it, it has killed nobody.
        running = id_ in state.still_running
        begin = TO_COUNT if running or count else QUEUED
        entry = Entry(state, id_, fields, size, starts + 1, now, begin)
        entry.suspected = bool(count) and not running
        entry.probe = entry.suspected and starts >= self._probe_after
        state.entries[id_] = entry
        self._ready_queue.add(entry)
        return entry

    @contextmanager
    def recovering(self, shard: Shard) -> Iterator[None]:
        """Keep entries out that are confirmed while pending entries are read.

        Reads and acknowledgements have a connection each. A reply may list as pending
        what was acknowledged before the reply is read.
        """
        state = self._shards.of(shard)
        state.pending_reads += 1
        if state.recently_acked is None:
            state.recently_acked = set()
        try:
            yield
        finally:
            state.pending_reads -= 1
            if not state.pending_reads:
                state.recently_acked = None

    def deleted(self, shard: Shard, ids: Iterable[bytes]) -> None:
        """Count pending entries that a claim found deleted, and has removed."""
        state = self._shards.of(shard)
        for id_ in dict.fromkeys(ids):
            if id_ not in state.deleted_in_flight:
                self._count_deleted(state, id_)

    def take_deleted(self) -> list[tuple[Shard, list[bytes]]]:
        """Return the deleted entries that were found since the last call."""
        found, self._deleted = self._deleted, {}
        return list(found.items())

    def _count_deleted(self, state: ShardState, id_: bytes) -> None:
        state.counters.deleted += 1
        self._deleted.setdefault(state.shard, []).append(id_)

    def release_deferred(self, entry: Entry) -> None:
        """Let a later delivery be taken: the handler of this one has finished."""
        state = entry.shard_state
        if state.still_running.get(entry.id) is not entry:
            return  # the later delivery waits for another handler
        del state.still_running[entry.id]
        waiting = state.deferred.pop(entry.id, None)
        if waiting is not None:
            self._ready_queue.queue_of(waiting.shard_state).append(waiting)
            self._signals.on_ready()

    def _recorded(self, state: ShardState, number: int, size: int) -> int:
        if number:
            self._flow.filled(number, size)
            state.counters.received += number
        return number

    def _queue_untracked(
        self, state: ShardState, entries: Sequence[RawEntry], now: float, size: int
    ) -> int:
        """Queue entries that are not acknowledged, and so not tracked by their ids."""
        if size > SIZED_ABOVE:
            made = [
                Entry(state, id_, fields, sum(map(len, fields)), 1, now)
                for id_, fields in entries
            ]
            size = sum(entry.size for entry in made)
        else:
            each = size // max(1, len(entries))
            made = [Entry(state, id_, words, each, 1, now) for id_, words in entries]
            size = each * len(made)
        if self._ready_queue.order is _NO_ORDER:
            self._ready_queue.queue_of(state).extend(made)
        else:
            for entry in made:
                self._ready_queue.add(entry)
        return self._recorded(state, len(made), size)

    def _is_replaced(self, entry: Entry, *, claimed: bool, rewound: bool) -> bool:
        """Return whether another delivery of an entry replaces it."""
        state = entry.shard_state
        match entry.state:
            case State.UNSETTLED:
                return claimed or rewound
            case State.RUNNING | State.FAILED if rewound:
                move(entry, LOSE)
                state.still_running[entry.id] = entry
                return True
            case State.TO_ACK | State.POSTPONED | State.TO_DEAD_LETTER if rewound:
                self._removals.supersede(entry)
                return True
            case State.ACKING | State.DEAD_LETTERING if rewound:
                state.redelivered = True
                return True
            case State.ACKING:
                # The group may have been recreated after it was acknowledged.
                self._acks.acknowledge_deleted(state, entry.id)
        return False

    def _acknowledge_deleted(self, state: ShardState, id_: bytes) -> None:
        if id_ not in state.deleted_in_flight:
            self._count_deleted(state, id_)
            self._acks.acknowledge_deleted(state, id_)


def _without_acknowledged(
    state: ShardState, entries: Sequence[RawEntry]
) -> Sequence[RawEntry]:
    """Leave out entries that were acknowledged while the reply was on its way."""
    acked = state.recently_acked
    return [entry for entry in entries if entry[0] not in acked] if acked else entries
