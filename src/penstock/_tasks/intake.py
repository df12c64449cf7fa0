"""Where workers get entries from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from penstock._core.delay import Delay
from penstock._core.entry import Entry
from penstock._core.ledger import Ledger
from penstock._tasks.bells import Bell, Queueing
from penstock.errors import PenstockError

__all__ = ["Intake"]

# A handler that never awaits would keep reader and committer from their work, so a
# turn of the event loop is due this often. It costs some 3 us.
_TURN: Final = 0.001


class Intake:
    """Hands entries of the ledger to workers, and holds those up that find none.

    Args:
        ledger: The consumer's ledger.
        on_overdue: Called when leases have to be looked after before anything is
            handed out; `arrived` answers it.
        delay: Under DELAYED, told what is handed out.
        handed_out: Rung then.
    """

    __slots__ = (
        "_delay",
        "_error",
        "_handed_out",
        "_idle",
        "_ledger",
        "_on_overdue",
        "_paused",
        "_told",
        "_turn_ends",
        "closed",
    )

    def __init__(
        self,
        ledger: Ledger,
        on_overdue: Callable[[], None],
        delay: Delay | None = None,
        handed_out: Bell | None = None,
    ) -> None:
        self._ledger = ledger
        self._on_overdue = on_overdue
        self._delay = delay
        self._handed_out = handed_out
        self._idle = Queueing()
        # Why no more will come, to be raised once the queue has run dry.
        self._error: PenstockError | None = None
        self._told = False
        self._turn_ends = 0.0
        self._paused = False
        # Nothing is handed out any more.
        self.closed = False

    def give_way(self) -> None:
        """Have the next `entry` let other tasks run first: one was just woken.

        So the reader asks for more while there still is something to handle, and the
        server works at the same time as the handlers.
        """
        self._turn_ends = 0.0

    def arrived(self, count: int) -> None:
        """Wake as many workers as there are new entries."""
        self._idle.wake(count)

    def pause(self) -> None:
        """Hand nothing out until `resume`."""
        self._paused = True
        self._turn_ends = 0.0

    def resume(self) -> None:
        """Hand out again."""
        self._paused = False
        self._idle.wake_all()

    def close(self) -> None:
        """Hand nothing out from now on."""
        self.closed = True
        self._turn_ends = 0.0
        self._idle.wake_all()

    def fail(self, error: PenstockError) -> None:
        """Have workers told, after what is queued, why nothing more comes."""
        self._error = error
        self._idle.wake_all()

    def raise_untold(self) -> None:
        """Raise why nothing more came, unless somebody was told.

        Raises:
            PenstockError: Reading failed for good, and nobody knows.
        """
        if self._error is not None and not self._told:
            raise self._error

    def poll(self) -> Entry | None:
        """Take an entry if one can be had without waiting and no turn is due."""
        if monotonic() >= self._turn_ends:
            return None  # so it is when closed or paused, too
        # Straight from the ledger: every message comes here.
        return self._ledger.take() if self._delay is None else self.take()

    def take(self) -> Entry | None:
        """Take an entry if one can be had without waiting; None once closed."""
        if self.closed or self._paused:
            return None
        entry = self._ledger.take()
        if self._delay is not None and self._handed_out is not None and entry:
            self._delay.handed_out(entry, monotonic())
            self._handed_out.ring()
        return entry

    async def turn(self) -> None:
        """Give the event loop a turn, if one is due."""
        if monotonic() >= self._turn_ends:
            await asyncio.sleep(0)
            now = monotonic()
            # Once closed or while paused it stays due, so that `poll` gives nothing;
            # and so it does until leases that may be over have been looked after.
            late = self.closed or self._paused or self._ledger.overdue(now)
            self._turn_ends = 0.0 if late else now + _TURN

    async def gathered(self, count: int) -> None:
        """Wait until that many can be taken, or as many as the queue will hold.

        Cancelling it takes nothing.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        ledger = self._ledger
        while not self.closed:
            if ledger.queued >= count or (ledger.queued and ledger.crammed):
                return
            if self._error is not None and not ledger.queued:
                self._told = True
                raise self._error
            await self._wait(count)

    async def entry(self) -> Entry | None:
        """Wait for the next entry; None once closed.

        Cancelling it takes nothing.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        await self.turn()
        while not self.closed:
            if self._ledger.overdue(monotonic()):
                self._on_overdue()
                await self._wait(0)
                continue
            entry = self.take()
            if entry is not None:
                return entry
            if self._error is not None:
                self._told = True
                raise self._error
            await self._wait(1)
        return None

    async def _wait(self, count: int) -> None:
        """Wait for entries to arrive, and let it be known how many are wanted."""
        self._ledger.hunger(count)
        try:
            await self._idle.wait()
        finally:
            self._ledger.hunger(-count)
