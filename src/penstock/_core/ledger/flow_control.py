"""Flow control: how many entries may be read now, and when to wake the reader.

An entry counts as held from its delivery until its handler has finished. It also counts
while it waits for another attempt or for its dead letter, since its body is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock._core.ledger.entry import Entry, ShardStates
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.ready_queue import ReadyQueue

__all__ = ["FlowControl"]

# A read is worth its round trip if it may bring this share of what should wait.
_BATCH: Final = 0.5


class FlowControl:
    """Decides how much to read, from what is held, what waits, and who is idle.

    Args:
        window: How much may be held.
        ready_queue: The entries that wait.
        shards: Count the entries that were read.
        acks: The outcomes that wait for the server.
        max_uncommitted: Outcomes that may wait before nothing more is read; None for
            no bound.
        on_capacity: Called when there is capacity again after a budget of 0.

    Attributes:
        held: Entries that are held.
        size: Their bytes.
        reader_waiting: Whether the reader had a budget of 0, and is to be woken.
        idle_workers: Workers that wait for entries.
        wake_waiting: The reader is woken if no more than this many wait for a worker,
        wake_held: and no more than this many are held.
    """

    __slots__ = (
        "_acks",
        "_max_uncommitted",
        "_nothing_to_claim",
        "_on_capacity",
        "_ready_queue",
        "_shards",
        "_window",
        "held",
        "idle_workers",
        "reader_waiting",
        "size",
        "wake_held",
        "wake_waiting",
    )

    def __init__(
        self,
        window: PrefetchWindow,
        ready_queue: ReadyQueue,
        *,
        shards: ShardStates,
        acks: PendingAcks,
        max_uncommitted: int | None,
        on_capacity: Callable[[], None],
    ) -> None:
        self._window = window
        self._ready_queue = ready_queue
        self._shards = shards
        self._acks = acks
        self._max_uncommitted = max_uncommitted
        self._on_capacity = on_capacity
        self.held = 0
        self.size = 0
        self.idle_workers = 0
        self.reader_waiting = False
        self.wake_waiting = 0
        self.wake_held = 0
        # The claimer had a budget of 0 as well.
        self._nothing_to_claim = False

    def read_budget(self, now: float) -> int:
        """Return how many entries may be read now; after 0, `on_capacity` is called.

        It is 0 as long as workers have plenty to do: a read forevery entry that is
        finished would cost a round trip for each message. It is 0, too, while too many
        outcomes wait for the server.
        """
        self._take_rate(now)
        most = self._max_uncommitted
        late = most is not None and self._acks.uncommitted > most
        budget = 0 if late else self._wanted(_BATCH)
        self.reader_waiting = not budget
        if budget and self._nothing_to_claim:
            self._nothing_to_claim = False
            self._on_capacity()
        return budget

    def claim_budget(self, now: float) -> int:
        """Return how many entries may be claimed now; after 0, `on_capacity` is called.

        It is 0 while possible poison messages wait to run alone, one after the other.
        """
        self._take_rate(now)
        budget = 0 if self._ready_queue.probes() else self._wanted(0.0)
        if not budget:
            self.reader_waiting = self._nothing_to_claim = True
        return budget

    def _take_rate(self, now: float) -> None:
        received = sum(each.received for each in self._shards.counters.values())
        self._window.take_rate(received - self.held, now)

    def _wanted(self, batch: float) -> int:
        """Return how many entries to ask for, or 0 if that is less than a batch.

        Args:
            batch: The share of what should wait that makes a read worth its round trip.
        """
        window, ready = self._window, self.takeable
        aim = window.aim(self.idle_workers)
        free = window.free(self.held, self.size)
        waiting = ready + self._ready_queue.behind
        wanted = min(aim - waiting, free)
        if waiting and wanted < aim * batch:
            wanted = 0
        least = max(1, round(aim * _BATCH))
        self.wake_waiting, self.wake_held = aim - least, window.capacity - least
        # Entries that wait in lanes are of no use to idle workers.
        return max(0, wanted, min(self.idle_workers - ready, free))

    @property
    def rate(self) -> float | None:
        """Messages that were done in a second; None before that is known."""
        return self._window.rate

    @property
    def takeable(self) -> int:
        """Entries that a worker may take now."""
        return len(self._ready_queue.ready)

    @property
    def capacity(self) -> int:
        """How many entries may be held in all, by their estimated size."""
        return self._window.capacity

    @property
    def fits(self) -> int:
        """How many more entries may be held, by their estimated size."""
        return self._window.free(self.held, self.size)

    @property
    def at_capacity(self) -> bool:
        """Whether no more entries may be held."""
        return not self.fits

    def waiting_changed(self, change: int) -> None:
        """Record that workers have begun (or, if negative, ended) to wait."""
        self.idle_workers += change
        if change > 0 and self.reader_waiting:
            self._on_capacity()

    def filled(self, count: int, size: int) -> None:
        """Record entries that a read has brought."""
        self.held += count
        self.size += size
        self._window.learn_size(count, size)

    def keep(self, entry: Entry) -> None:
        """Hold an entry whose handler has finished, but that is not done."""
        self.held += 1
        self.size += entry.size

    def release(self, entry: Entry) -> None:
        """Drop the body of an entry that has left, or is to be acknowledged."""
        entry.fields = ()
        self.held -= 1
        self.size -= entry.size

    def freed(self) -> None:
        """Wake the reader if a worker is idle, or a read is worth its round trip."""
        ready = self.takeable
        if self.idle_workers > ready or (
            ready + self._ready_queue.behind <= self.wake_waiting
            and self.held <= self.wake_held
        ):
            self._on_capacity()

    def wake_reader(self) -> None:
        """Wake the reader if it waits for capacity."""
        if self.reader_waiting:
            self._on_capacity()
