"""The entry queue: where workers, loops and calls wait for entries and take them."""

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
from penstock._tasks.handling.poison_guard import GuardMember
from penstock._tasks.handling.waiters import Waiters
from penstock.errors import PenstockError

__all__ = ["EntryQueue", "Goal"]

# A handler that never awaits would stop the reader and the committer. So the event loop
# gets a turn at least this often, in seconds. A turn costs some 3 us.
_TURN: Final = 0.001


class Goal(Protocol):
    """A condition after which no more messages are wanted."""

    reached: bool

    def check_soon(self) -> None: ...


class EntryQueue:
    """Hands out the ledger's entries, and suspends callers while there are none.

    Args:
        ledger: The consumer's ledger.
        on_overdue: Called when leases have to be renewed before anything is handed out;
            `notify_ready` is called when that is done.
        begin: Counts attempts that are about to start; returns the entries that may
            start.
        guard: Decides when a possible poison message may run, and when others may.
        confirms: Whether outcomes are sent without the user's demand.
        delay: Under DELAYED, records which entries are handed out and when.
        check: Refuses calls from another event loop or thread.

    Attributes:
        waiters: The callers that wait for entries.
        guard_member: This consumer as the guard sees it.
        closed: Whether the queue has closed, so that nothing is handed out any more.
    """

    __slots__ = (
        "_aborted",
        "_begin",
        "_delay",
        "_error",
        "_ledger",
        "_on_overdue",
        "_paused",
        "_reported",
        "_stopped",
        "_take",
        "_turn_ends",
        "check",
        "closed",
        "guard_member",
        "waiters",
    )

    def __init__(
        self,
        ledger: Ledger,
        on_overdue: Callable[[], None],
        begin: Callable[[Sequence[Entry]], Awaitable[list[Entry]]],
        guard: PoisonGuard,
        *,
        confirms: bool,
        delay: DelayedAcks | None = None,
        check: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._on_overdue = on_overdue
        self._begin = begin
        self.check = check
        self._delay = delay
        # Bound once: what `poll` calls for every message.
        self._take = ledger.work.take if delay is None else self.take_nowait
        self.waiters = Waiters(ledger)
        # The reason why no more entries will come. It is raised once the queue is
        # empty.
        self._error: BaseException | None = None
        self._reported = False
        # Whether the reason is the end of a task of Penstock, and not a reply of the
        # server.
        self._aborted = False
        self._turn_ends = 0.0
        self._paused = False
        # Nothing more is handed out, although the queue may hold entries.
        self._stopped = False
        self.closed = False
        self.guard_member = GuardMember(
            guard,
            ledger,
            lease=ledger.leases.terms.seconds,
            confirms=confirms,
            on_hold=self._hold,
            on_wake=self.waiters.wake_all,
        )

    def _hold(self) -> None:
        self._turn_ends = 0.0
        self._on_overdue()

    def end_turn(self) -> None:
        """Let other tasks run before the next entry is handed out: one was just woken.

        So the reader asks for more while there are still entries to handle, and the
        server works at the same time as the handlers.
        """
        self._turn_ends = 0.0

    def pause(self) -> None:
        """Hand nothing out until `resume`."""
        self._paused = True
        self._turn_ends = 0.0

    def resume(self) -> None:
        """Hand entries out again."""
        self._paused = False
        self.waiters.wake_all()

    def close(self) -> None:
        """Hand nothing out from now on."""
        self.closed = True
        self.guard_member.close()
        self._turn_ends = 0.0
        self.waiters.close()

    def fail(self, error: PenstockError) -> None:
        """Record why no more entries come; workers get it once the queue is empty."""
        self._error = error
        self.waiters.wake_all()

    def stop(self, error: PenstockError) -> None:
        """Hand nothing more out, and raise an error in workers."""
        self.fail(error)
        self._stopped = True
        self._turn_ends = 0.0

    def abort(self, error: BaseException) -> None:
        """Hand nothing more out: a background task has failed.

        The error is raised in callers that wait for an entry, though the consumer
        closes because of it.
        """
        if self._error is None:
            self._error = error
        self._aborted = self._stopped = True
        self._turn_ends = 0.0
        self.waiters.wake_all()

    def is_failure(self, error: BaseException) -> bool:
        """Return whether an exception is the reason why no more entries come."""
        return error is self._error

    def raise_unreported(self) -> None:
        """Raise the reason why no more entries came, unless a caller has got it.

        Raises:
            BaseException: Reading failed for good, and no caller has got the exception.
        """
        if self._error is not None and not self._reported:
            raise self._error

    def _raise_if_aborted(self) -> None:
        if self._aborted and self._error is not None:
            self._reported = True
            raise self._error

    @property
    def _shut(self) -> bool:
        """Whether nothing is handed out now."""
        return self.closed or self._paused or self._stopped

    def poll(self) -> Entry | None:
        """Take an entry if there is one, no wait is needed and no turn is due."""
        if now() >= self._turn_ends:
            return None  # also when closed, paused or held by the guard
        # Straight from the ledger, because every message comes here.
        return self._take()

    def take_nowait(self) -> Entry | None:
        """Take an entry if there is one and no wait is needed; None once closed."""
        if self._shut:
            return None
        return self._start_ack_delay(self._ledger.work.take())

    def _start_ack_delay(self, entry: Entry | None) -> Entry | None:
        if self._delay is not None and entry:
            self._delay.handed_out(entry, now())
        return entry

    async def take_one(self) -> Entry | None:
        """Take an entry if there is one; its start may have to be counted first.

        Cancelling it takes nothing.
        """
        for entry in await self._take_counted(1, apart=False):
            return entry
        return self.take_nowait() if self.guard_member.may_start() else None

    async def _take_counted(self, most: int, *, apart: bool) -> list[Entry]:
        """Take entries whose starts have to be counted, if the next entries are such.

        Args:
            most: The highest number of entries.
            apart: Whether an entry on a further attempt comes alone.
        """
        ledger = self._ledger
        while (
            ledger.work.next_is_counted
            and not self._shut
            and self.guard_member.may_start()
        ):
            entries = ledger.work.take_counted(most, apart=apart)
            started = await self._count_starts(entries)
            if self._shut:
                for entry in reversed(started):
                    ledger.put_back(entry)
            elif started:
                for entry in started:
                    self._start_ack_delay(entry)
                return started
        return []

    async def _count_starts(self, entries: Sequence[Entry]) -> list[Entry]:
        """Count starts on the server; return the entries that may start."""
        probe = entries[0] if entries[0].probe else None
        if probe is not None:
            self.guard_member.started(probe)
        else:
            self.waiters.wake_another()  # counting may take a while
        try:
            return await self._begin(entries)
        finally:
            if probe is not None:
                self.guard_member.look()

    async def take_several(self, most: int, *, apart: bool) -> list[Entry]:
        """Take the entries that are there.

        Cancelling it takes nothing.

        Args:
            most: The highest number of entries.
            apart: Whether an entry on a further attempt comes alone: it may be the
                reason why the entries beside it failed.
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
                if not self.guard_member.may_start():
                    break
                more = self._take_fresh(left) or await self._take_counted(
                    left, apart=apart
                )
                if not more and (entry := self.take_nowait()) is not None:
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

    def _take_fresh(self, most: int) -> list[Entry]:
        """Take entries whose starts need not be counted, in one step."""
        fresh = [] if self._shut else self._ledger.work.take_fresh(most)
        if self._delay is not None:
            for entry in fresh:
                self._start_ack_delay(entry)
        return fresh

    async def batch(
        self, size: int, linger: float, goal: Goal | None = None
    ) -> list[Entry]:
        """Wait for a batch; empty once the queue has closed, or a goal is reached.

        Cancelling it takes nothing.

        Args:
            size: The highest number of entries.
            linger: Seconds to wait for that many entries, from the first one on.
            goal: The goal after which no more entries are wanted.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        while not self.closed:
            await self.yield_if_due()
            await self.wait_for_entries(1, goal=goal)
            if goal is not None and goal.reached:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(linger):
                    await self.wait_for_entries(size, apart=True)
            overdue = self._ledger.leases.overdue(now())
            if overdue:
                self._on_overdue()
            if overdue or self._paused or not self.guard_member.may_start():
                await self.waiters.wait(0, several=True)
            elif entries := await self.take_several(size, apart=True):
                return entries
        return []

    async def yield_if_due(self) -> None:
        """Give the event loop a turn, if one is due."""
        if now() >= self._turn_ends:
            self.check()
            await asyncio.sleep(0)
            at = now()
            self._ledger.work.begin_turn(at)
            # The turn stays due, so that `poll` returns None, once the queue has
            # closed, while it is paused, until leases that may be over have been
            # checked, and while a possible poison message waits or runs.
            overdue = self._shut or self._ledger.leases.overdue(at)
            overdue = overdue or not self.guard_member.is_open(at)
            self._turn_ends = 0.0 if overdue else at + _TURN

    async def wait_for_entries(
        self, count: int, *, apart: bool = False, goal: Goal | None = None
    ) -> None:
        """Wait until a number of entries can be taken, or the queue can hold no more.

        Cancelling it takes nothing.

        Args:
            count: The number of entries.
            apart: Whether one entry on a further attempt is enough, since it comes
                alone.
            goal: The goal after which no more entries are waited for.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        ledger = self._ledger
        while not self.closed:
            if self._error is not None and (self._stopped or not ledger.work.length):
                self._reported = True
                raise self._error
            ready = not self._paused and self._has_enough(count, apart=apart)
            if ready and self.guard_member.may_start():
                return
            if goal is not None:
                goal.check_soon()
                if goal.reached:
                    return
            await self.waiters.wait(0 if self._paused else count, several=True)
        self._raise_if_aborted()

    def _has_enough(self, count: int, *, apart: bool) -> bool:
        """Return whether there are as many entries as `wait_for_entries` waits for."""
        ledger = self._ledger
        if ledger.work.length >= count or (
            ledger.work.length and ledger.flow.at_capacity
        ):
            return True
        return apart and ledger.work.next_is_repeated

    async def entry(self, goal: Goal | None = None) -> Entry | None:
        """Wait for the next entry; None once the queue closes, or a goal is reached.

        Cancelling it takes nothing.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        await self.yield_if_due()
        while not self.closed:
            if self._ledger.leases.overdue(now()):
                self._on_overdue()
                await self.waiters.wait(0, several=False)
                continue
            entry = await self.take_one()
            if entry is not None:
                self.waiters.wake_another()
                return entry
            held = not self._shut and not self.guard_member.is_open(now())
            if self._error is not None and not held:
                self._reported = True
                raise self._error
            if goal is not None:
                goal.check_soon()
                if goal.reached:
                    break
            # While the guard holds entries back, no more have to be read.
            await self.waiters.wait(0 if held else 1, several=False)
        self._raise_if_aborted()
        return None
