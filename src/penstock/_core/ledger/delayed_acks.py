"""Delayed acknowledgements: under DELAYED, entries are acknowledged by time alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import LOST

__all__ = ["DelayedAcks"]


class DelayedAcks:
    """Entries in the order of handing out, each due the same time after that.

    Args:
        seconds: The time.
        on_first: Called when an entry is handed out while none waits.
    """

    __slots__ = ("_handed", "_on_first", "_seconds")

    def __init__(self, seconds: float, on_first: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_first = on_first
        self._handed: deque[tuple[float, Entry]] = deque()

    @property
    def next_due(self) -> float | None:
        """The time at which the next entry is due; None if there is none."""
        return self._handed[0][0] if self._handed else None

    def handed_out(self, entry: Entry, now: float) -> None:
        """Record that a handler got an entry."""
        self._handed.append((now + self._seconds, entry))
        if len(self._handed) == 1:
            self._on_first()

    def take_due(self, now: float) -> list[Entry]:
        """Take the entries that are due, without those that were delivered again."""
        handed, due = self._handed, []
        while handed and handed[0][0] <= now:
            _, entry = handed.popleft()
            if entry.state is not LOST:
                due.append(entry)
        return due
