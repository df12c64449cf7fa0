"""How much may be read now, and who waits for what.

Room is taken from the read until the handler has finished; while an entry waits for
another attempt or for its dead letter, too, since its body is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.ready_queue import ReadyQueue

__all__ = ["FlowControl"]

# A read is worth its round trip when it may bring this part of what should wait.
_BATCH: Final = 0.5


class FlowControl:
    """Turns what is held, what waits and who has nothing to do into how much to read.

    Args:
        prefetch_window: How much may be held.
        ready_queue: What waits.
        on_room: Rung when there is room again after there was none.

    Attributes:
        held: Entries that take room.
        size: Their bytes.
        reader_waiting: The reader found no room, and is to be rung.
        idle_workers: Workers that wait for entries.
        wake_waiting: It is rung when no more than this many wait for a worker.
        wake_held: And no more than this many are held.
    """

    __slots__ = (
        "_nothing_to_claim",
        "_on_room",
        "_prefetch_window",
        "_ready_queue",
        "held",
        "idle_workers",
        "reader_waiting",
        "size",
        "wake_held",
        "wake_waiting",
    )

    def __init__(
        self,
        prefetch_window: PrefetchWindow,
        ready_queue: ReadyQueue,
        on_room: Callable[[], None],
    ) -> None:
        self._prefetch_window = prefetch_window
        self._ready_queue = ready_queue
        self._on_room = on_room
        self.held = 0
        self.size = 0
        self.idle_workers = 0
        self.reader_waiting = False
        self.wake_waiting = 0
        self.wake_held = 0
        # The claimer found no room either.
        self._nothing_to_claim = False

    def paced(self, received: int, now: float) -> None:
        """Take the pace, by all that was read until now."""
        self._prefetch_window.paced(received - self.held, now)

    def read_budget(self, *, late: bool) -> int:
        """Give how many entries may be read now; at 0 `on_room` will ring.

        It is 0 as long as workers have plenty to do: a read for every freed place
        would cost a round trip a message.

        Args:
            late: Whether too many outcomes wait for the server.
        """
        flow = 0 if late else self._wanted(_BATCH)
        self.reader_waiting = not flow
        if flow and self._nothing_to_claim:
            self._nothing_to_claim = False
            self._on_room()
        return flow

    def claim_budget(self) -> int:
        """Give how many entries may be taken over now; at 0 `on_room` will ring."""
        # Suspects that wait to run alone go one after the other.
        claim_budget = 0 if self._ready_queue.probes() else self._wanted(0.0)
        if not claim_budget:
            self.reader_waiting = self._nothing_to_claim = True
        return claim_budget

    def _wanted(self, batch: float) -> int:
        """Give how many entries to ask for, but not less than that part of the aim."""
        prefetch_window, ready = self._prefetch_window, self.takeable
        aim = prefetch_window.aim(self.idle_workers)
        free = prefetch_window.free(self.held, self.size)
        waiting = ready + self._ready_queue.behind
        wanted = min(aim - waiting, free)
        if waiting and wanted < aim * batch:
            wanted = 0
        least = max(1, round(aim * _BATCH))
        self.wake_waiting, self.wake_held = (
            aim - least,
            prefetch_window.capacity - least,
        )
        # What waits in lanes is of no use to those who have nothing to do.
        return max(0, wanted, min(self.idle_workers - ready, free))

    @property
    def takeable(self) -> int:
        """Entries that a worker may take now."""
        return len(self._ready_queue.ready)

    @property
    def fits(self) -> int:
        """How many more entries may be held, by what they are thought to weigh."""
        return self._prefetch_window.free(self.held, self.size)

    @property
    def at_capacity(self) -> bool:
        """Whether no more may be held."""
        return not self.fits

    def waiting_changed(self, change: int) -> None:
        """Take note of workers that begin to wait for entries, or have ended to."""
        self.idle_workers += change
        if change > 0 and self.reader_waiting:
            self._on_room()

    def filled(self, count: int, size: int) -> None:
        """Take note of what a read brought."""
        self.held += count
        self.size += size
        self._prefetch_window.learned(count, size)

    def keep(self, entry: Entry) -> None:
        """Take room for an entry whose handler has finished, but that is not done."""
        self.held += 1
        self.size += entry.size

    def let_go(self, entry: Entry) -> None:
        """Let go of an entry's body: it has left, or is to be acknowledged."""
        entry.fields = ()
        self.held -= 1
        self.size -= entry.size

    def freed(self) -> None:
        """Ring if somebody has nothing to do, or a batch is worth its round trip."""
        ready = self.takeable
        if self.idle_workers > ready or (
            ready + self._ready_queue.behind <= self.wake_waiting
            and self.held <= self.wake_held
        ):
            self._on_room()

    def wake_reader(self) -> None:
        """Ring, if somebody waits to be rung."""
        if self.reader_waiting:
            self._on_room()
