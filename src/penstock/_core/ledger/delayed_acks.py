"""DELAYED: what was handed out ripens for acknowledgement by time alone."""

from __future__ import annotations

from collections import deque

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import LOST

__all__ = ["DelayedAcks"]


class DelayedAcks:
    """Entries in the order of handing out, each due the same time after it.

    Args:
        seconds: How long after.
    """

    __slots__ = ("_handed", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._handed: deque[tuple[float, Entry]] = deque()

    @property
    def next_due(self) -> float | None:
        """When the next one is due; None when nothing is out."""
        return self._handed[0][0] if self._handed else None

    def handed_out(self, entry: Entry, now: float) -> bool:
        """Record that a handler was given an entry; return whether it is due next."""
        self._handed.append((now + self._seconds, entry))
        return len(self._handed) == 1

    def take_due(self, now: float) -> list[Entry]:
        """Take out what is due by now, but for what has come again since."""
        handed, take_due = self._handed, []
        while handed and handed[0][0] <= now:
            _, entry = handed.popleft()
            if entry.state is not LOST:
                take_due.append(entry)
        return take_due
