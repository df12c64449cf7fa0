"""Iteration over a consumer, message by message or batch by batch.

The messages that a loop returned to a task count as processed when the same task asks
the loop for more. A loop that was left by `break` or by an exception, which can't be
told apart, is not asked again. Its messages are set aside, and count as processed only
if that task then leaves the consumer cleanly.

There are two loops because one loop for both costs 0.02 us more per message.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import current_task
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, Self, TypeVar

from penstock._core.ledger.entry import Entry
from penstock._tasks.handling.callers import Caller, current_caller
from penstock._tasks.handling.catch_up import CatchUp
from penstock._tasks.handling.checkouts import Checkouts, PendingCheckIn
from penstock.message import Message

__all__ = ["BatchLoop", "Loop"]

G = TypeVar("G")
T = TypeVar("T")


class _Iteration(ABC, Generic[T, G]):
    """One `async for`; returns messages or lists of messages.

    Args:
        checkouts: Checks messages out, and records entries that another task than the
            last caller has received.
    """

    __slots__ = (
        "__weakref__",
        "_caller",
        "_checkouts",
        "_entry_queue",
        "_held",
        "_ledger",
    )

    def __init__(self, checkouts: Checkouts[T]) -> None:
        self._checkouts = checkouts
        self._entry_queue = checkouts.entry_queue
        self._ledger = checkouts.ledger
        # The task that asked last, if that task awaited the call itself, and the
        # entries that it received, if it has not come back for more.
        self._caller: asyncio.Task[Any] | None = None
        self._held: Sequence[Entry] = ()
        # A task that starts a loop has come back.
        checkouts.check_in_running_task()
        checkouts.iterations[self] = None

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, G]:
        # This is not async itself, because the caller has to be known. Finding the
        # caller costs time, and an `async for` in one task goes without: the call finds
        # out when it runs that its caller is still the same.
        if self._caller is not None:
            return self._step(None, None)
        caller = current_caller()
        return self._step(caller, self._checkouts.check_in(caller))

    @abstractmethod
    async def _step(self, caller: Caller, pending: PendingCheckIn | None) -> G:
        """Wait for the next message or batch.

        Args:
            caller: The caller, if it is known. It is not looked up while the last
                caller seems to go on.
            pending: See `Checkouts.check_in`.
        """

    def _change_caller(
        self,
        caller: Caller,
        pending: PendingCheckIn | None,
        task: asyncio.Task[Any] | None,
    ) -> Caller:
        """Return the caller, if it is not the last caller in its own task.

        Args:
            caller: The caller, if it is known.
            pending: See `Checkouts.check_in`.
            task: The running task.
        """
        checkouts = self._checkouts
        if self._held and self._caller is not None:
            checkouts.add_received(self._caller, self._held)
        self._held, self._caller = (), None
        if pending is not None:
            checkouts.complete_check_in(pending)
        if caller is None and task is not None and not self._runs_only_a_step(task):
            caller = task
            checkouts.check_in(task)
        if caller is task:
            self._caller = task
        return caller

    def _runs_only_a_step(self, task: asyncio.Task[Any]) -> bool:
        """Return whether a task runs nothing but one call of this loop.

        Then the task is not the caller: another task made the call.
        """
        code = getattr(task.get_coro(), "cr_code", None)
        return code is type(self)._step.__code__  # noqa: SLF001 - of this very object

    @property
    def held(self) -> Sequence[Entry]:
        """The entries that the loop has returned and its caller has not finished."""
        return self._held

    @property
    def caller(self) -> asyncio.Task[Any] | None:
        """The caller that holds these; None if there are none."""
        return self._caller

    def pop_held(self) -> tuple[Sequence[Entry], Caller]:
        """Stop holding entries; return the entries and the caller that held them."""
        held, self._held = self._held, ()
        return held, self._caller

    def __del__(self) -> None:
        if self._held:
            self._checkouts.abandon(*self.pop_held())


class Loop(_Iteration[T, Message[T]]):
    """One `async for` over a consumer.

    Args:
        checkouts: Checks messages out.
        goal: The goal after which the loop ends; by default it ends when the consumer
            closes.
        watch: Called to have the goal watched once the goal has begun.
    """

    __slots__ = ("_finish", "_goal", "_watch")

    def __init__(
        self,
        checkouts: Checkouts[T],
        goal: CatchUp | None = None,
        watch: Callable[[CatchUp], None] | None = None,
    ) -> None:
        super().__init__(checkouts)
        self._goal = goal
        self._watch = watch
        ledger = checkouts.ledger
        finish = (
            ledger.processed if checkouts.ack else partial(ledger.finish, ack=False)
        )
        self._finish: Callable[[Entry], None] = finish

    async def _has_reached(self, goal: CatchUp) -> bool:
        """Begin with the goal, at the first step; return whether it is reached."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await goal.begin()
            watch(goal)
        return goal.reached

    def _end(self) -> Exception:
        """Return the exception that ends the loop."""
        error = None if self._goal is None else self._goal.error
        return error or StopAsyncIteration()

    def __del__(self) -> None:
        if self._goal is not None:
            self._goal.stop()
        super().__del__()

    async def _step(self, caller: Caller, pending: PendingCheckIn | None) -> Message[T]:
        checkouts, entry_queue = self._checkouts, self._entry_queue
        task = current_task(checkouts.loop)
        if task is self._caller:
            if held := self._held:
                self._held = ()
                if held[0].began_at:
                    checkouts.meter.came_back(held)
                self._finish(held[0])
            if checkouts.by_caller:
                checkouts.check_in(task)
        else:
            caller = self._change_caller(caller, pending, task)
        goal = self._goal
        if goal is not None and await self._has_reached(goal):
            raise self._end()
        while (
            entry := entry_queue.poll() or await entry_queue.entry(goal)
        ) is not None:
            message = checkouts.settler.open(entry)
            if message is None:
                continue
            if task is self._caller:
                self._held = (entry,)
                if checkouts.meter.on:
                    checkouts.meter.handed_out((entry,))
                return message
            return checkouts.check_out(caller or task, entry, message)
        raise self._end()


class BatchLoop(_Iteration[T, "list[Message[T]]"]):
    """One `async for` over a consumer's batches.

    Args:
        checkouts: Checks messages out.
        size: The highest number of messages in a batch.
        linger: Seconds to wait for that many messages.
    """

    __slots__ = ("_linger", "_size")

    def __init__(self, checkouts: Checkouts[T], size: int, linger: float) -> None:
        super().__init__(checkouts)
        self._size = size
        self._linger = linger

    async def _step(
        self, caller: Caller, pending: PendingCheckIn | None
    ) -> list[Message[T]]:
        checkouts = self._checkouts
        task = current_task(checkouts.loop)
        if task is self._caller:
            held, self._held = self._held, ()
            checkouts.meter.came_back(held)
            self._ledger.finish_all(held, ack=checkouts.ack)
            checkouts.check_in(task)
        else:
            caller = self._change_caller(caller, pending, task)
        while entries := await self._entry_queue.batch(self._size, self._linger):
            entries, messages = checkouts.settler.open_all(entries)
            if messages and task is self._caller:
                self._held = entries
                checkouts.meter.handed_out(entries)
                return messages
            if messages:
                return checkouts.check_out_all(caller or task, entries, messages)
        raise StopAsyncIteration
