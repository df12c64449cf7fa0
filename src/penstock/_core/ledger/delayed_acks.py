"""Delayed acknowledgements: under DELAYED, entries are acknowledged by time alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import ACK

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
        self._handed: OrderedDict[Entry, float] = OrderedDict()

    @property
    def next_due(self) -> float | None:
        """The time at which the next entry is due; None if there is none."""
        return next(iter(self._handed.values()), None)

    def handed_out(self, entry: Entry, now: float) -> None:
        """Record that a handler got an entry; only the last time counts."""
        handed = self._handed
        if entry in handed:
            handed.move_to_end(entry)  # it was put back meanwhile
        handed[entry] = now + self._seconds
        if len(handed) == 1:
            self._on_first()

    def take_due(self, now: float) -> list[Entry]:
        """Take the entries that are due, as far as they are to be acknowledged.

        Those are left out that have an outcome, or were put back or delivered again.
        """
        handed, due = self._handed, []
        while (at := self.next_due) is not None and at <= now:
            entry, _ = handed.popitem(last=False)
            if entry.state in ACK:
                due.append(entry)
        return due
