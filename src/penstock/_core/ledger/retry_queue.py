"""Retry queue: what becomes of failed entries, and when retries are due."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from penstock._core.ledger.entry import Entry, move
from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Disposition,
    Dropped,
    RetryAt,
)
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.states import (
    BECOME_DUE,
    DISCARD,
    FAILED,
    LEAVE_UNSETTLED,
    POSTPONED,
    RETRY,
    UNSETTLED,
)

__all__ = ["RetryQueue"]


class RetryQueue:
    """Applies dispositions, and keeps retries until they are due.

    Args:
        ready_queue: Gets the retries that are due.
        flow: What is held.
        acks: Gets entries that are dropped or dead-lettered.
        on_postponed: Called when `next_due` has become earlier.
    """

    __slots__ = (
        "_acks",
        "_flow",
        "_numbers",
        "_on_postponed",
        "_postponed",
        "_ready_queue",
    )

    def __init__(
        self,
        ready_queue: ReadyQueue,
        flow: FlowControl,
        acks: PendingAcks,
        on_postponed: Callable[[], None],
    ) -> None:
        self._ready_queue = ready_queue
        self._flow = flow
        self._acks = acks
        self._on_postponed = on_postponed
        # Postponed entries by the time of their next attempt; entries that have left
        # meanwhile are skipped. The number keeps entries from being compared.
        self._postponed: list[tuple[float, int, Entry]] = []
        self._numbers = count()

    def apply(self, entry: Entry, disposition: Disposition) -> None:
        """Apply a disposition to an entry that is not held now."""
        match disposition:
            case RetryAt():
                self._postpone(entry, disposition)
            case DeadLettered():
                self._flow.keep(entry)
                self._acks.dead_letter(entry)
            case Dropped():
                entry.shard_state.counters.dropped += 1
                self._acks.settle(entry, DISCARD)
            case _:  # Stopped
                self.leave(entry)

    def leave(self, entry: Entry) -> None:
        """Leave an entry without an outcome."""
        if entry.state is not UNSETTLED:
            move(entry, LEAVE_UNSETTLED)
        entry.fields = ()
        entry.shard_state.counters.left += 1

    def _postpone(self, entry: Entry, disposition: RetryAt) -> None:
        state, lane = entry.shard_state, entry.lane
        if entry.state is not FAILED:
            lane = None  # it was left unsettled, and gave up its lane with that
        later = Entry(
            state,
            entry.id,
            entry.fields,
            entry.size,
            entry.deliveries,
            entry.leased_at,
            POSTPONED,
            lane,
        )
        move(entry, RETRY)
        # It keeps its place: the shard's entries are in the order of reading.
        state.entries[entry.id] = later
        self._flow.keep(later)
        # Its lane waits for it.
        entry.lane = None
        state.counters.count_retry(entry.handler)
        heappush(self._postponed, (disposition.due, next(self._numbers), later))
        if self._postponed[0][2] is later:
            self._on_postponed()

    @property
    def next_due(self) -> float | None:
        """The time at which the next retry is due; None if there is none."""
        heap = self._postponed
        while heap and heap[0][2].state is not POSTPONED:
            heappop(heap)
        return heap[0][0] if heap else None

    def make_due(self, now: float) -> int:
        """Put the retries that are due before all other entries; return how many."""
        number = 0
        while (due := self.next_due) is not None and due <= now:
            entry = heappop(self._postponed)[2]
            move(entry, BECOME_DUE)
            entry.deliveries += 1
            self._ready_queue.add_first(entry)
            number += 1
        return number

    def close(self) -> None:
        """Forget all retries."""
        self._postponed.clear()
