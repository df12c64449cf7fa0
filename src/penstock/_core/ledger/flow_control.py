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
        window: How much may be held.
        lanes: What waits.
        on_room: Rung when there is room again after there was none.

    Attributes:
        held: Entries that take room.
        size: Their bytes.
        thirsty: The reader found no room, and is to be rung.
        hungry: Workers that wait for entries.
        wake_waiting: It is rung when no more than this many wait for a worker.
        wake_held: And no more than this many are held.
    """

    __slots__ = (
        "_lanes",
        "_nothing_spare",
        "_on_room",
        "_window",
        "held",
        "hungry",
        "size",
        "thirsty",
        "wake_held",
        "wake_waiting",
    )

    def __init__(
        self, window: PrefetchWindow, lanes: ReadyQueue, on_room: Callable[[], None]
    ) -> None:
        self._window = window
        self._lanes = lanes
        self._on_room = on_room
        self.held = 0
        self.size = 0
        self.hungry = 0
        self.thirsty = False
        self.wake_waiting = 0
        self.wake_held = 0
        # The claimer found no room either.
        self._nothing_spare = False

    def paced(self, received: int, now: float) -> None:
        """Take the pace, by all that was read until now."""
        self._window.paced(received - self.held, now)

    def to_read(self, *, late: bool) -> int:
        """Give how many entries may be read now; at 0 `on_room` will ring.

        It is 0 as long as workers have plenty to do: a read for every freed place
        would cost a round trip a message.

        Args:
            late: Whether too many outcomes wait for the server.
        """
        room = 0 if late else self._wanted(_BATCH)
        self.thirsty = not room
        if room and self._nothing_spare:
            self._nothing_spare = False
            self._on_room()
        return room

    def to_take_over(self) -> int:
        """Give how many entries may be taken over now; at 0 `on_room` will ring."""
        # Suspects that wait to run alone go one after the other.
        spare = 0 if self._lanes.probes() else self._wanted(0.0)
        if not spare:
            self.thirsty = self._nothing_spare = True
        return spare

    def _wanted(self, batch: float) -> int:
        """Give how many entries to ask for, but not less than that part of the aim."""
        window, ready = self._window, self.takeable
        aim = window.aim(self.hungry)
        free = window.free(self.held, self.size)
        waiting = ready + self._lanes.behind
        wanted = min(aim - waiting, free)
        if waiting and wanted < aim * batch:
            wanted = 0
        least = max(1, round(aim * _BATCH))
        self.wake_waiting, self.wake_held = aim - least, window.capacity - least
        # What waits in lanes is of no use to those who have nothing to do.
        return max(0, wanted, min(self.hungry - ready, free))

    @property
    def takeable(self) -> int:
        """Entries that a worker may take now."""
        return len(self._lanes.ready)

    @property
    def fits(self) -> int:
        """How many more entries may be held, by what they are thought to weigh."""
        return self._window.free(self.held, self.size)

    @property
    def crammed(self) -> bool:
        """Whether no more may be held."""
        return not self.fits

    def hunger(self, change: int) -> None:
        """Take note of workers that begin to wait for entries, or have ended to."""
        self.hungry += change
        if change > 0 and self.thirsty:
            self._on_room()

    def filled(self, count: int, size: int) -> None:
        """Take note of what a read brought."""
        self.held += count
        self.size += size
        self._window.learned(count, size)

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
        if self.hungry > ready or (
            ready + self._lanes.behind <= self.wake_waiting
            and self.held <= self.wake_held
        ):
            self._on_room()

    def look_again(self) -> None:
        """Ring, if somebody waits to be rung."""
        if self.thirsty:
            self._on_room()
