"""What failed: tried again later, buried, dropped, or left to somebody else."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from penstock._core.ledger.entry import (
    FAILED,
    GIVE_UP,
    LEAVE,
    OPEN,
    POSTPONED,
    RETRY,
    RIPEN,
    Counters,
    Entry,
    move,
)
from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Disposition,
    Dropped,
    RetryAt,
)
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue

__all__ = ["RetryQueue"]


class RetryQueue:
    """Does what was decided on, and knows when the next attempt of what is due.

    Args:
        totals: Where it is counted.
        lanes: What waits.
        room: What is held.
        outcomes: What the server is to be told.
        on_postponed: Rung when `next_due` has become earlier.
    """

    __slots__ = (
        "_lanes",
        "_numbers",
        "_on_postponed",
        "_outcomes",
        "_postponed",
        "_room",
        "_totals",
    )

    def __init__(
        self,
        totals: Counters,
        *,
        lanes: ReadyQueue,
        room: FlowControl,
        outcomes: PendingAcks,
        on_postponed: Callable[[], None],
    ) -> None:
        self._lanes = lanes
        self._room = room
        self._outcomes = outcomes
        self._totals = totals
        self._on_postponed = on_postponed
        # What was postponed, by the time of its next attempt; what has left meanwhile
        # is skipped. The number keeps entries from being compared.
        self._postponed: list[tuple[float, int, Entry]] = []
        self._numbers = count()

    def apply(self, entry: Entry, verdict: Disposition) -> None:
        """Do what was decided on; the entry takes no room now."""
        match verdict:
            case RetryAt():
                self._postpone(entry, verdict)
            case DeadLettered():
                self._room.keep(entry)
                self._outcomes.condemn(entry)
            case Dropped():
                self._totals.dropped += 1
                self._outcomes.settle(entry, GIVE_UP)
            case _:  # Left
                self.leave(entry)

    def leave(self, entry: Entry) -> None:
        """Leave an entry without an outcome."""
        if entry.state is not OPEN:
            move(entry, LEAVE)
        entry.fields = ()
        self._totals.left += 1

    def _postpone(self, entry: Entry, verdict: RetryAt) -> None:
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
        self._room.keep(later)
        # Its lane waits for it.
        entry.lane = None
        self._totals.retried += 1
        heappush(self._postponed, (verdict.due, next(self._numbers), later))
        if self._postponed[0][2] is later:
            self._on_postponed()

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

    def close(self) -> None:
        """Forget what was postponed."""
        self._postponed.clear()
