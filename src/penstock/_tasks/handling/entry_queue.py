"""The entry queue: where workers, loops and calls wait for entries and take them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from penstock import _clock
from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.poison import PoisonGuard
from penstock._core.ledger.work_queue import WorkQueue
from penstock._tasks.handling.gate import Gate
from penstock._tasks.handling.poison_guard import GuardMember
from penstock._tasks.handling.waiters import Waiters

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
            `waiters.notify_ready` is called when that is done.
        begin: Counts attempts that are about to start; returns the entries that may
            start.
        guard: Decides when a possible poison message may run, and when others may.
        lease: The lease in seconds, of entries or of owned shards.
        confirms: Whether outcomes are sent without the user's demand.
        delay: Under DELAYED, records which entries are handed out and when.
        check: Refuses calls from another event loop or thread.

    Attributes:
        waiters: The callers that wait for entries.
        gate: Whether entries are handed out, and why no more come.
        guard_member: This consumer as the guard sees it.
        polled_at: The time, by the clock of leases: when `poll` was last called, or a
            wait for an entry has ended.
    """

    __slots__ = (
        "_begin",
        "_delay",
        "_guard",
        "_ledger",
        "_on_overdue",
        "_take",
        "_turn_ends",
        "check",
        "gate",
        "guard_member",
        "polled_at",
        "waiters",
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
        check: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._on_overdue = on_overdue
        self._begin = begin
        self._guard = guard
        self.check = check
        self._delay = delay
        # Bound once: what `poll` calls forevery message.
        self._take = ledger.work.take
        if delay is not None:
            self._take = partial(_take_delayed, ledger.work, delay)
        self._turn_ends = 0.0
        self.polled_at = 0.0
        self.waiters = Waiters(ledger)
        self.gate = Gate(self.waiters, self._shut)
        self.guard_member = GuardMember(
            guard,
            ledger,
            lease=lease,
            confirms=confirms,
            on_hold=self._hold,
            on_wake=self.waiters.wake_all,
        )

    def _hold(self) -> None:
        self._turn_ends = 0.0
        self._on_overdue()

    def _shut(self) -> None:
        self._turn_ends = 0.0
        # Other consumers must not wait for a message that is not handed out.
        self._guard.withdraw(self.guard_member)

    def end_turn(self) -> None:
        """Let other tasks run before the next entry is handed out: one was just woken.

        So the reader asks for more while there are still entries to handle, and the
        server works at the same time as the handlers.
        """
        self._turn_ends = 0.0

    def poll(self) -> Entry | None:
        """Take an entry if there is one, no wait is needed and no turn is due."""
        self.polled_at = at = _clock.boottime()
        if at >= self._turn_ends:
            return None  # also when closed, paused or held by the guard
        # Straight from the ledger, because every message comes here.
        return self._take()

    async def take_one(self) -> Entry | None:
        """Take an entry if there is one; its start may have to be counted first.

        Cancelling it takes nothing.
        """
        work = self._ledger.work
        while not self.gate.shut and self.guard_member.may_start():
            if not work.next_is_counted:
                return self._take()
            if started := await self._count_starts(work.take_counted()):
                self._start_ack_delays(started)
                return started[0]
        return None

    async def take_several(self, most: int, *, apart: bool) -> list[Entry]:
        """Take the entries that are there; their starts may have to be counted first.

        Cancelling it takes nothing.

        Args:
            most: The highest number of entries.
            apart: Whether an entry on a further attempt comes alone: it may be the
                reason why the entries beside it failed.
        """
        ledger, work = self._ledger, self._ledger.work
        entries: list[Entry] = []
        try:
            while len(entries) < most:
                if entries and _comes_alone(work, entries[-1], apart=apart):
                    break
                if self.gate.shut or not self.guard_member.may_start():
                    break
                left = most - len(entries)
                if fresh := work.take_fresh(left):
                    entries += fresh
                elif work.next_is_counted:
                    counted = work.take_counted(left, apart=apart)
                    entries += await self._count_starts(counted)
                elif (entry := work.take()) is not None:
                    entries.append(entry)
                else:
                    break
        except BaseException:
            for entry in reversed(entries):
                ledger.put_back(entry)
            raise
        self._start_ack_delays(entries)
        return entries

    async def _count_starts(self, entries: Sequence[Entry]) -> list[Entry]:
        """Count starts on the server; return the entries that may start."""
        probe = entries[0] if entries[0].probe else None
        if probe is not None:
            self.guard_member.started(probe)
        else:
            self.waiters.wake_another()  # counting may take a while
        try:
            started = await self._begin(entries)
        finally:
            if probe is not None:
                self.guard_member.look()
        ended = self._begin_turn()
        # The reply may have waited in the socket while this process stood still. The
        # leases of what it counted, or of its shard, may be over by now, so the server
        # is asked again.
        is_held = self._ledger.work.is_held
        late = any(entry.leased_at <= ended or is_held(entry) for entry in started)
        if not (late or self.gate.shut):
            return started
        for entry in reversed(started):
            self._ledger.put_back(entry)
        return []

    def _begin_turn(self) -> float:
        """Record that time may have passed; return when leases began that are over."""
        self.polled_at = at = _clock.boottime()
        self._ledger.work.begin_turn(at)
        return self._ledger.leases.ended(at)

    def _start_ack_delays(self, entries: Sequence[Entry]) -> None:
        if self._delay is not None:
            for entry in entries:
                self._delay.handed_out(entry, _clock.boottime())

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
        while not self.gate.closed:
            await self.yield_if_due()
            await self.wait_for_entries(1, goal=goal)
            if goal is not None and goal.reached:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(linger):
                    await self.wait_for_entries(size, apart=True)
            if self.gate.paused or not self.guard_member.may_start():
                await self.waiters.wait(0, several=True)
            elif await self.waits_for_renewal(several=True):
                continue
            elif entries := await self.take_several(size, apart=True):
                return entries
        return []

    async def yield_if_due(self) -> None:
        """Give the event loop a turn, if one is due."""
        if _clock.boottime() >= self._turn_ends:
            self.check()
            await asyncio.sleep(0)
            self.polled_at = at = _clock.boottime()
            self._ledger.work.begin_turn(at)
            # The turn stays due, so that `poll` returns None, once the queue has
            # closed, while it is paused, until leases that may be over have been
            # checked, and while a possible poison message waits or runs.
            overdue = self.gate.shut or self._ledger.leases.overdue(at)
            overdue = overdue or not self._guard.is_open(at)
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
        gate = self.gate
        while not gate.closed:
            ready = not gate.shut and self._has_enough(count, apart=apart)
            if ready and self.guard_member.may_start():
                return
            self._raise_when_empty()
            if goal is not None:
                goal.check_soon()
                if goal.reached:
                    return
            await self.waiters.wait(0 if gate.paused else count, several=True)
            self._begin_turn()
        gate.raise_if_aborted()

    async def waits_for_renewal(self, *, several: bool) -> bool:
        """Wait if it is not known what is still ours; return whether that was so.

        One entry is wanted meanwhile: all that wait may be lost, or dropped by a seek,
        and then others have to be read.
        """
        if not self._ledger.leases.overdue(_clock.boottime()):
            return False
        self._on_overdue()
        await self.waiters.wait(1, several=several)
        return True

    def _has_enough(self, count: int, *, apart: bool) -> bool:
        """Return whether there are as many entries as `wait_for_entries` waits for."""
        ledger, length = self._ledger, self._ledger.work.length
        if length >= count or (length and ledger.flow.at_capacity):
            return True
        return apart and ledger.work.next_is_repeated

    def _raise_when_empty(self) -> None:
        if self.gate.stopped or not self._ledger.work.length:
            self.gate.raise_error()

    async def entry(
        self, goal: Goal | None = None, on_idle: Callable[[], None] | None = None
    ) -> Entry | None:
        """Wait for the next entry; None once the queue closes, or a goal is reached.

        Cancelling it takes nothing.

        Args:
            goal: The goal after which no more entries are wanted.
            on_idle: Called if there is no entry, before the wait for one.

        Raises:
            PenstockError: Reading failed for good, and the queue is empty.
        """
        gate = self.gate
        await self.yield_if_due()
        while not gate.closed:
            if await self.waits_for_renewal(several=False):
                continue
            entry = await self.take_one()
            if entry is not None:
                self.waiters.wake_another()
                return entry
            self._raise_when_empty()
            if goal is not None:
                goal.check_soon()
                if goal.reached:
                    break
            if on_idle is not None:
                on_idle()
            # While the guard holds entries back, no more have to be read.
            held = not gate.shut and not self._guard.is_open(_clock.boottime())
            await self.waiters.wait(0 if held else 1, several=False)
            self._begin_turn()
        gate.raise_if_aborted()
        return None


def _take_delayed(work: WorkQueue, delay: DelayedAcks) -> Entry | None:
    """Take an entry that is to be acknowledged by time alone."""
    entry = work.take()
    if entry is not None:
        delay.handed_out(entry, _clock.boottime())
    return entry


def _comes_alone(work: WorkQueue, last: Entry, *, apart: bool) -> bool:
    """Return whether the next entry, or the last one taken, comes alone."""
    if last.probe or work.next_is_probe:
        return True
    return apart and (last.deliveries > 1 or work.next_is_repeated)
