"""Work queue: hands entries to workers."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from penstock._core.ledger.counting_cost import CountingCost
from penstock._core.ledger.entry import Entry, illegal, move
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.lease_clock import LeaseClock
from penstock._core.ledger.limits import LedgerLimits
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.states import (
    QUEUED,
    REDELIVERED,
    START,
    TAKE,
    TAKE_REDELIVERED,
    TAKEN,
    TO_COUNT,
)

__all__ = ["WorkQueue"]


class WorkQueue:
    """Hands entries to workers, as far as they may run.

    Args:
        ready_queue: The entries that wait.
        flow: What is held.
        leases: When entries were read or renewed.
        window: Knows whether the rate is low.
        limits: What bounds the ledger.

    Attributes:
        counting_cost: What counting a start costs this process.
        counts_starts: Whether each start is counted before the handler begins, in this
            turn.
        hold_at: When shards may have to be held, because their leases are over.
        on_hold_due: Called with the time when that has come.
    """

    __slots__ = (
        "_acknowledges",
        "_ended",
        "_flow",
        "_leases",
        "_queue",
        "_ready_queue",
        "_single_attempt",
        "_window",
        "counting_cost",
        "counts_starts",
        "hold_at",
        "on_hold_due",
    )

    def __init__(
        self,
        ready_queue: ReadyQueue,
        flow: FlowControl,
        leases: LeaseClock,
        window: PrefetchWindow,
        limits: LedgerLimits,
    ) -> None:
        self._ready_queue = ready_queue
        # Entries that a worker may take now, in order.
        self._queue = ready_queue.ready
        self._flow = flow
        self._leases = leases
        self._window = window
        self._acknowledges = limits.acknowledges
        self._single_attempt = limits.single_attempt
        # Leases that began by then have ended, as of this turn.
        self._ended = -inf
        self.counting_cost = CountingCost()
        self.counts_starts = limits.single_attempt
        self.hold_at = inf
        self.on_hold_due: Callable[[float], None] = lambda _: None

    @property
    def length(self) -> int:
        """Entries that a worker may take now."""
        return 0 if self._ready_queue.blocked else self._flow.takeable

    def untracked(self) -> list[Entry]:
        """Return the entries that wait, if they are not acknowledged; else nothing."""
        return [] if self._acknowledges else list(self._queue)

    def begin_turn(self, now: float) -> None:
        """Record the time, for all entries that are taken until the next turn.

        Whether starts are counted depends on the rate, and whether an entry is still
        ours depends on the time. Both would cost too much for each message.
        """
        self._ended = self._leases.ended(now)
        if now >= self.hold_at:
            self.on_hold_due(now)
        self.counts_starts = self._acknowledges and (
            self._single_attempt or self._is_slow(now)
        )

    def _is_slow(self, now: float) -> bool:
        """Return whether some more commands for each message don't matter."""
        rate = self._window.rate
        return self._window.slow and (
            rate is None or self.counting_cost.is_affordable(rate, now)
        )

    def hold_shard(self, key: bytes, *, held: bool) -> None:
        """Let no entry of a shard be taken, or end that."""
        self._ready_queue.hold_shard(key, held=held)
        if held and self._flow.reader_waiting:
            self._flow.freed()

    def is_held(self, entry: Entry) -> bool:
        """Return whether an entry is of a shard of which none may be taken now."""
        return self._ready_queue.is_held(entry)

    @property
    def next_is_counted(self) -> bool:
        """Whether the next entry has to be taken by `take_counted`."""
        entry = self._first()
        return entry is not None and (self.counts_starts or entry.state is TO_COUNT)

    @property
    def next_is_repeated(self) -> bool:
        """Whether the next entry is on a further attempt."""
        entry = self._first()
        return entry is not None and entry.deliveries > 1

    @property
    def next_is_probe(self) -> bool:
        """Whether the next entry is a possible poison message that runs alone."""
        entry = self._first()
        return entry is not None and entry.probe

    def _first(self) -> Entry | None:
        """Return the entry that can be taken next, by `take` or `take_counted`."""
        queue = self._queue
        while queue:
            entry = queue.popleft()
            if not self._defer(entry):
                queue.appendleft(entry)
                late = entry.leased_at <= self._ended
                return None if late or self._ready_queue.blocked else entry
        return None

    def take(self) -> Entry | None:
        """Take the next entry that may run; if None, `take_counted` may have one."""
        queue = self._queue
        while queue and not self.counts_starts:
            entry = queue.popleft()
            if entry.leased_at <= self._ended:
                queue.appendleft(entry)
                return None
            try:
                entry.state = TAKE[entry.state]
            except KeyError:
                if self._defer(entry):
                    continue
                if entry.state is TO_COUNT:
                    queue.appendleft(entry)
                    return None
                if entry.state is not REDELIVERED:
                    raise illegal(entry, TAKE) from None
                move(entry, TAKE_REDELIVERED)
            flow = self._flow
            if flow.reader_waiting and (
                flow.idle_workers or len(queue) <= flow.wake_waiting
            ):
                flow.freed()
            return entry
        return None

    def take_fresh(self, most: int) -> list[Entry]:
        """Take up to `most` entries at once that are next and on their first attempt.

        It stops where something else is next, or starts have to be counted.
        """
        queue, taken = self._queue, list[Entry]()
        if self.counts_starts:
            return taken
        while queue and len(taken) < most:
            entry = queue[0]
            if entry.state is not QUEUED or entry.deliveries > 1:
                break
            if entry.leased_at <= self._ended:
                break
            entry.state = TAKEN
            taken.append(queue.popleft())
        if taken and self._flow.reader_waiting:
            self._flow.freed()
        return taken

    def take_counted(self, most: int = 1, *, apart: bool = False) -> list[Entry]:
        """Take the next entries whose start has to be counted before they run.

        A possible poison message that has to run alone is taken by itself.

        Args:
            most: How many at most.
            apart: Whether an entry on a further attempt is taken by itself, too.
        """
        taken: list[Entry] = []
        while len(taken) < most and self.next_is_counted:
            entry = self._queue[0]
            alone = entry.probe or (apart and entry.deliveries > 1)
            if alone and taken:
                break
            self._queue.popleft()
            move(entry, START)
            taken.append(entry)
            if alone:
                break
        if taken and self._flow.reader_waiting:
            self._flow.freed()
        return taken

    def _defer(self, entry: Entry) -> bool:
        """Set the first entry of the queue aside if it can't be taken.

        A handler may be running an earlier delivery of it, or it is a possible poison
        message and those are held.
        """
        state = entry.shard_state
        if entry.id in state.still_running:
            state.deferred[entry.id] = entry
        elif not self._ready_queue.defer(entry):
            return False
        if self._flow.reader_waiting:
            self._flow.freed()
        return True
