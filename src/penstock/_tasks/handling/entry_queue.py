"""Where workers get entries from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.poison import PoisonGuard
from penstock._tasks.clock import now
from penstock._tasks.wakeups import AutoResetEvent, WaiterQueue
from penstock.errors import PenstockError

__all__ = ["EntryQueue", "Goal"]

# A handler that never awaits would keep reader and committer from their work, so a
# turn of the event loop is due this often. It costs some 3 us.
_TURN: Final = 0.001


class Goal(Protocol):
    """Something after which no more messages are wanted."""

    reached: bool

    def look(self) -> None: ...


class EntryQueue:
    """Hands entries of the ledger to workers, and holds those up that find none.

    Args:
        ledger: The consumer's ledger.
        on_overdue: Called when leases have to be looked after before anything is
            handed out; `arrived` answers it.
        begin: Counts attempts that are about to start; returns those that may.
        guard: Tells when a possible poison message may run, and when others may.
        lease: The lease in seconds.
        confirms: Whether outcomes are sent by themselves, and not on demand.
        delay: Under DELAYED, told what is handed out.
        handed_out: Set when that is the first entry that waits.
        check: Refuses calls from another event loop or thread.
    """

    __slots__ = (
        "__weakref__",
        "_begin",
        "_confirms",
        "_crashed",
        "_delay",
        "_error",
        "_gatherers",
        "_guard",
        "_handed_out",
        "_ledger",
        "_on_overdue",
        "_paused",
        "_reported",
        "_stopped",
        "_timer",
        "_turn_ends",
        "_workers",
        "check",
        "closed",
        "lease",
    )

    def __init__(
        self,
        ledger: Ledger,
        on_overdue: Callable[[], None],
        begin: Callable[[Sequence[Entry]], Awaitable[list[Entry]]],
        guard: PoisonGuard,
        *,
        lease: float,
        confirms: bool,
        delay: DelayedAcks | None = None,
        handed_out: AutoResetEvent | None = None,
        check: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._on_overdue = on_overdue
        self._begin = begin
        self._guard = guard
        self.lease = lease
        self._confirms = confirms
        self.check = check
        self._delay = delay
        self._handed_out = handed_out
        # Those that have nothing to do, and those that wait for a number of entries.
        self._workers = WaiterQueue()
        self._gatherers = WaiterQueue()
        # Why no more will come, to be raised once the queue has run dry.
        self._error: BaseException | None = None
        self._reported = False
        # Whether that was no reply of the server's, but the end of our own tasks.
        self._crashed = False
        self._turn_ends = 0.0
        # When to look again what the guard allows.
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        # Nothing more is handed out, although there may be something.
        self._stopped = False
        # Nothing is handed out any more.
        self.closed = False

    # -- what the guard asks of it -------------------------------------------------

    @property
    def running(self) -> Sequence[Entry]:
        """The messages that are being handled."""
        return self._ledger.running

    @property
    def untracked(self) -> int:
        """How many more are, of which no more is known."""
        return self._ledger.untracked

    def hold(self) -> None:
        """Have the guard asked before anything else is taken."""
        self._turn_ends = 0.0
        self._ledger.on_finished = self._look
        self._on_overdue()

    def wake(self) -> None:
        """Look again what may be taken."""
        if self._guard.until is None:
            self._ledger.on_finished = None
        self.wake_all()

    def _look(self) -> None:
        self._guard.look(now())
        self._look_in_time()

    def _look_in_time(self) -> None:
        """Look when the guard's patience ends; one timer, however often it is asked."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        until = self._guard.until
        if until is not None and not self.closed:
            wait = max(0.0, until - now())
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)

    def _may_take(self) -> bool:
        """Return whether a handler may start, for the message that is next."""
        if self._ledger.work.next_is_probe:
            return self._admitted()
        self._guard.withdraw(self)
        return self._guard.is_open(now())

    def _admitted(self) -> bool:
        """Return whether the probe that is next may run now."""
        admitted = self._guard.admits(self, now())
        if not admitted:
            self._look_in_time()
        return admitted

    # ------------------------------------------------------------------------------

    def give_way(self) -> None:
        """Have the next `entry` let other tasks run first: one was just woken.

        So the reader asks for more while there still is something to handle, and the
        server works at the same time as the handlers.
        """
        self._turn_ends = 0.0

    def arrived(self, count: int) -> None:
        """Have entries taken that are new, or may be taken now."""
        if count:
            self._workers.wake(1)
            self._gatherers.wake_all()

    def _promote(self) -> None:
        """Wake another worker if there is something for it.

        Whoever gets something wakes the next, so all are woken where handlers take
        their time. Where they don't, a few do it all, and the others sleep on: to wake
        them for each read would cost more than the handling.
        """
        if self._ledger.work.length:
            self._workers.wake(1)

    def wake_all(self) -> None:
        """Have all who wait look again."""
        self._workers.wake_all()
        self._gatherers.wake_all()

    def pause(self) -> None:
        """Hand nothing out until `resume`."""
        self._paused = True
        self._turn_ends = 0.0

    def resume(self) -> None:
        """Hand out again."""
        self._paused = False
        self.wake_all()

    def close(self) -> None:
        """Hand nothing out from now on."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._turn_ends = 0.0
        self.wake_all()

    def fail(self, error: PenstockError) -> None:
        """Have workers told, after what is queued, why nothing more comes."""
        self._error = error
        self.wake_all()

    def stop(self, error: PenstockError) -> None:
        """Hand nothing more out, and have workers told why."""
        self.fail(error)
        self._stopped = True
        self._turn_ends = 0.0

    def crash(self, error: BaseException) -> None:
        """Hand nothing more out: a task in the background has failed.

        Whoever waits for an entry is told, though the consumer closes because of it.
        """
        if self._error is None:
            self._error = error
        self._crashed = self._stopped = True
        self._turn_ends = 0.0
        self.wake_all()

    def is_failure(self, error: BaseException) -> bool:
        """Return whether an exception says why nothing more comes."""
        return error is self._error

    def raise_unreported(self) -> None:
        """Raise why nothing more came, unless somebody was told.

        Raises:
            BaseException: Reading failed for good, and nobody knows.
        """
        if self._error is not None and not self._reported:
            raise self._error

    def _raise_crash(self) -> None:
        if self._crashed and self._error is not None:
            self._reported = True
            raise self._error

    @property
    def _shut(self) -> bool:
        """Whether nothing is handed out now."""
        return self.closed or self._paused or self._stopped

    def poll(self) -> Entry | None:
        """Take an entry if one can be had without waiting and no turn is due."""
        if now() >= self._turn_ends:
            return None  # so it is when closed, paused or held by the guard, too
        # Straight from the ledger: every message comes here.
        return self._ledger.work.take() if self._delay is None else self.take()

    def take(self) -> Entry | None:
        """Take an entry if one can be had without waiting; None once closed."""
        if self._shut:
            return None
        return self._out(self._ledger.work.take())

    def _out(self, entry: Entry | None) -> Entry | None:
        if self._delay is not None and self._handed_out is not None and entry:
            first = self._delay.handed_out(entry, now())
            if first:
                self._handed_out.set()
        return entry

    async def one(self) -> Entry | None:
        """Take an entry if one is there; its start may have to be counted first.

        Cancelling it takes nothing.
        """
        for entry in await self._counted(1, apart=False):
            return entry
        return self.take() if self._may_take() else None

    async def _counted(self, most: int, *, apart: bool) -> list[Entry]:
        """Take entries whose start has to be counted, if those are next.

        Args:
            most: How many at most.
            apart: Whether one on a further attempt comes alone.
        """
        ledger = self._ledger
        while ledger.work.next_is_counted and not self._shut and self._may_take():
            entries = ledger.work.take_counted(most, apart=apart)
            started = await self._started(entries)
            if self._shut:
                for entry in reversed(started):
                    ledger.put_back(entry)
            elif started:
                for entry in started:
                    self._out(entry)
                return started
        return []

    async def _started(self, entries: Sequence[Entry]) -> list[Entry]:
        """Have starts counted; returns the entries that may start."""
        probe = entries[0] if entries[0].probe else None
        if probe is not None:
            self._guard.started(probe, now(), confirms=self._confirms)
            self._look_in_time()
        else:
            self._promote()  # it may take a while
        try:
            return await self._begin(entries)
        finally:
            if probe is not None:
                self._look()

    async def several(self, most: int, *, apart: bool) -> list[Entry]:
        """Take what is there.

        Cancelling it takes nothing.

        Args:
            most: How many at most.
            apart: Whether an entry on a further attempt comes alone: it may be why
                those beside it failed.
        """
        ledger = self._ledger
        entries: list[Entry] = []
        try:
            while len(entries) < most:
                left = most - len(entries)
                if entries and (
                    ledger.work.next_is_probe
                    or (apart and ledger.work.next_is_repeated)
                ):
                    break
                if not self._may_take():
                    break
                more = self._fresh(left) or await self._counted(left, apart=apart)
                if not more and (entry := self.take()) is not None:
                    more = [entry]
                if not more:
                    break
                entries += more
                if more[-1].probe or (apart and more[-1].deliveries > 1):
                    break
        except BaseException:
            for entry in reversed(entries):
                ledger.put_back(entry)
            raise
        return entries

    def _fresh(self, most: int) -> list[Entry]:
        """Take what nobody has to be told of first, in one go."""
        fresh = [] if self._shut else self._ledger.work.take_fresh(most)
        if self._delay is not None:
            for entry in fresh:
                self._out(entry)
        return fresh

    async def batch(
        self, size: int, linger: float, goal: Goal | None = None
    ) -> list[Entry]:
        """Wait for a batch; empty once closed, or a goal is reached.

        Cancelling it takes nothing.

        Args:
            size: Entries at most.
            linger: Seconds to wait for that many from the first one on.
            goal: After which no more is wanted.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        while not self.closed:
            await self.turn()
            await self.gathered(1, goal=goal)
            if goal is not None and goal.reached:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(linger):
                    await self.gathered(size, apart=True)
            late = self._ledger.leases.overdue(now())
            if late:
                self._on_overdue()
            if late or self._paused or not self._may_take():
                await self._wait(self._gatherers, 0)
            elif entries := await self.several(size, apart=True):
                return entries
        return []

    async def turn(self) -> None:
        """Give the event loop a turn, if one is due."""
        if now() >= self._turn_ends:
            self.check()
            await asyncio.sleep(0)
            at = now()
            self._ledger.work.begin_turn(at)
            # Once closed or while paused it stays due, so that `poll` gives nothing;
            # and so it does until leases that may be over have been looked after, and
            # while a possible poison message waits or runs.
            late = self._shut or self._ledger.leases.overdue(at)
            late = late or not self._guard.is_open(at)
            self._turn_ends = 0.0 if late else at + _TURN

    async def gathered(
        self, count: int, *, apart: bool = False, goal: Goal | None = None
    ) -> None:
        """Wait until that many can be taken, or as many as the queue will hold.

        Cancelling it takes nothing.

        Args:
            count: How many.
            apart: Whether an entry on a further attempt is enough, since it comes
                alone.
            goal: After which no more is waited for.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        ledger = self._ledger
        while not self.closed:
            if self._error is not None and (self._stopped or not ledger.work.length):
                self._reported = True
                raise self._error
            ready = not self._paused and self._has(count, apart=apart)
            if ready and self._may_take():
                return
            if goal is not None:
                goal.look()
                if goal.reached:
                    return
            await self._wait(self._gatherers, 0 if self._paused else count)
        self._raise_crash()

    def _has(self, count: int, *, apart: bool) -> bool:
        """Return whether there is as much as `gathered` waits for."""
        ledger = self._ledger
        if ledger.work.length >= count or (
            ledger.work.length and ledger.flow.at_capacity
        ):
            return True
        return apart and ledger.work.next_is_repeated

    async def entry(self, goal: Goal | None = None) -> Entry | None:
        """Wait for the next entry; None once closed, or a goal is reached.

        Cancelling it takes nothing.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        await self.turn()
        while not self.closed:
            if self._ledger.leases.overdue(now()):
                self._on_overdue()
                await self._wait(self._workers, 0)
                continue
            entry = await self.one()
            if entry is not None:
                self._promote()
                return entry
            held = not self._shut and not self._guard.is_open(now())
            if self._error is not None and not held:
                self._reported = True
                raise self._error
            if goal is not None:
                goal.look()
                if goal.reached:
                    break
            # What the guard holds back is enough to do.
            await self._wait(self._workers, 0 if held else 1)
        self._raise_crash()
        return None

    async def _wait(self, among: WaiterQueue, count: int) -> None:
        """Wait for entries to arrive, and let it be known how many are wanted."""
        if self.closed:
            return  # while an attempt was being counted, say: nobody wakes us any more
        self._ledger.flow.waiting_changed(count)
        try:
            await among.wait()
        finally:
            self._ledger.flow.waiting_changed(-count)
