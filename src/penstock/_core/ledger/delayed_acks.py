"""Delayed acknowledgements: under DELAYED, entries are acknowledged by time alone."""

from __future__ import annotations

from collections import deque

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import LOST

__all__ = ["DelayedAcks"]


class DelayedAcks:
    """Entries in the order of handing out, each due the same time after that.

    Args:
        seconds: The time.
    """

    __slots__ = ("_handed", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._handed: deque[tuple[float, Entry]] = deque()

    @property
    def next_due(self) -> float | None:
        """The time at which the next entry is due; None if there is none."""
        return self._handed[0][0] if self._handed else None

    def handed_out(self, entry: Entry, now: float) -> bool:
        """Record that a handler got an entry; return whether it is due next."""
        self._handed.append((now + self._seconds, entry))
        return len(self._handed) == 1

    def take_due(self, now: float) -> list[Entry]:
        """Take the entries that are due, without those that were delivered again."""
        handed, due = self._handed, []
        while handed and handed[0][0] <= now:
            _, entry = handed.popleft()
            if entry.state is not LOST:
                due.append(entry)
        return due
