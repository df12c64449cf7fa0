"""What failed: tried again later, buried, dropped, or left to somebody else."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from penstock._core.ledger.counters import Counters
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
    """Does what was decided on, and knows when the next attempt of what is due.

    Args:
        counters: Where it is counted.
        ready_queue: What waits.
        flow: What is held.
        pending_acks: What the server is to be told.
        on_postponed: Rung when `next_due` has become earlier.
    """

    __slots__ = (
        "_counters",
        "_flow",
        "_numbers",
        "_on_postponed",
        "_pending_acks",
        "_postponed",
        "_ready_queue",
    )

    def __init__(
        self,
        counters: Counters,
        *,
        ready_queue: ReadyQueue,
        flow: FlowControl,
        pending_acks: PendingAcks,
        on_postponed: Callable[[], None],
    ) -> None:
        self._ready_queue = ready_queue
        self._flow = flow
        self._pending_acks = pending_acks
        self._counters = counters
        self._on_postponed = on_postponed
        # What was postponed, by the time of its next attempt; what has left meanwhile
        # is skipped. The number keeps entries from being compared.
        self._postponed: list[tuple[float, int, Entry]] = []
        self._numbers = count()

    def apply(self, entry: Entry, disposition: Disposition) -> None:
        """Do what was decided on; the entry takes no room now."""
        match disposition:
            case RetryAt():
                self._postpone(entry, disposition)
            case DeadLettered():
                self._flow.keep(entry)
                self._pending_acks.dead_letter(entry)
            case Dropped():
                self._counters.dropped += 1
                self._pending_acks.settle(entry, DISCARD)
            case _:  # Left
                self.leave(entry)

    def leave(self, entry: Entry) -> None:
        """Leave an entry without an outcome."""
        if entry.state is not UNSETTLED:
            move(entry, LEAVE_UNSETTLED)
        entry.fields = ()
        self._counters.left += 1

    def _postpone(self, entry: Entry, disposition: RetryAt) -> None:
        shard_state, lane = entry.shard_state, entry.lane
        if entry.state is not FAILED:
            lane = None  # it was left open, and its lane with it
        later = Entry(
            shard_state,
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
        shard_state.entries[entry.id] = later
        self._flow.keep(later)
        # Its lane waits for it.
        entry.lane = None
        self._counters.retried += 1
        heappush(self._postponed, (disposition.due, next(self._numbers), later))
        if self._postponed[0][2] is later:
            self._on_postponed()

    @property
    def next_due(self) -> float | None:
        """When the next postponed entry is due; None if there is none."""
        heap = self._postponed
        while heap and heap[0][2].state is not POSTPONED:
            heappop(heap)
        return heap[0][0] if heap else None

    def make_due(self, now: float) -> int:
        """Have what is due by now taken before all others; gives how many it is."""
        number = 0
        while (due := self.next_due) is not None and due <= now:
            entry = heappop(self._postponed)[2]
            move(entry, BECOME_DUE)
            entry.deliveries += 1
            self._ready_queue.add_first(entry)
            number += 1
        return number

    def close(self) -> None:
        """Forget what was postponed."""
        self._postponed.clear()
