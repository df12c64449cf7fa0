"""The waiters of an entry queue: callers that wait for one entry, or for several."""

from __future__ import annotations

from penstock._core.ledger.ledger import Ledger
from penstock._tasks.wakeups import WaiterQueue

__all__ = ["Waiters"]


class Waiters:
    """Callers that wait for entries, until they are woken.

    While a caller waits, flow control counts the entries that it wants. Once closed, no
    caller waits.

    Args:
        ledger: The consumer's ledger.
    """

    __slots__ = ("_closed", "_flow", "_for_one", "_for_several", "_work")

    def __init__(self, ledger: Ledger) -> None:
        self._work = ledger.work
        self._flow = ledger.flow
        # One is woken for each entry. All of the others are woken, since each has to
        # check whether there are as many entries as it wants.
        self._for_one = WaiterQueue()
        self._for_several = WaiterQueue()
        self._closed = False

    def notify_ready(self, count: int) -> None:
        """Wake callers: this many entries are new, or may be taken now."""
        if count:
            self._for_one.wake(1)
            self._for_several.wake_all()

    def wake_another(self) -> None:
        """Wake another worker if there is an entry for it.

        Each worker that gets an entry wakes the next one. So all workers run where
        handlers take long. Where handlers are quick, a few workers do all the work and
        the others stay asleep: to wake them for each read would cost more than the
        handling.
        """
        if self._work.length:
            self._for_one.wake(1)

    def wake_all(self) -> None:
        """Wake all callers, so that they check again."""
        self._for_one.wake_all()
        self._for_several.wake_all()

    def close(self) -> None:
        """Wake all callers, and let none wait from now on: no more wake-ups come."""
        self._closed = True
        self.wake_all()

    async def wait(self, wanted: int, *, several: bool) -> None:
        """Wait to be woken.

        Args:
            wanted: The number of entries that flow control counts as wanted meanwhile;
                0 for a caller that may not take the entries that there are.
            several: Whether the caller waits for several entries.
        """
        if self._closed:
            return  # for example while an attempt was being counted
        waiting = self._for_several if several else self._for_one
        self._flow.waiting_changed(wanted)
        try:
            await waiting.wait()
        finally:
            self._flow.waiting_changed(-wanted)
