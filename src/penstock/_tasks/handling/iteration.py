"""The loops over a consumer: message by message, and batch by batch.

What a loop gave to a task is processed when the same task asks the loop again. A loop
that was left (`break`, or an exception: it can't be told which) never asks again: its
message is set aside, and counts as processed only if that task then leaves the consumer
cleanly.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import current_task
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, Self, TypeVar

from penstock._core.ledger.entry import Entry
from penstock._tasks.handling.callers import Caller, current_caller
from penstock._tasks.handling.catch_up import CatchUp
from penstock._tasks.handling.checkouts import Before, Checkouts
from penstock.message import Message

__all__ = ["BatchLoop", "Loop"]

G = TypeVar("G")
T = TypeVar("T")


class _Iteration(ABC, Generic[T, G]):
    """One `async for`; gives messages or lists of them.

    Args:
        hands: Hands out, and keeps what another task than the last one received.
    """

    __slots__ = ("__weakref__", "_caller", "_hands", "_held", "_intake", "_ledger")

    def __init__(self, hands: Checkouts[T]) -> None:
        self._hands = hands
        self._intake = hands.intake
        self._ledger = hands.ledger
        # The task that asked last, if it awaited the call itself, and what it was
        # given, if it has not come back for more.
        self._caller: asyncio.Task[Any] | None = None
        self._held: Sequence[Entry] = ()
        # Who starts a loop has come back.
        hands.come_back_here()
        hands.iterations.add(self)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, G]:
        # Not itself async: it has to be known whose call it is. That costs something,
        # and `async for` in one task goes without: it is seen when the call runs.
        if self._caller is not None:
            return self._step(None, None)
        caller = current_caller()
        return self._step(caller, self._hands.come_back(caller))

    @abstractmethod
    async def _step(self, caller: Caller, before: Before | None) -> G:
        """Wait for what is next.

        Args:
            caller: Who asks, if it is known: not where the last caller seems to go on.
            before: See `Checkouts.come_back`.
        """

    def _changed(
        self, caller: Caller, before: Before | None, task: asyncio.Task[Any] | None
    ) -> Caller:
        """Return who asks, where that is not the last caller in its own task.

        Args:
            caller: Who asks, if it is known.
            before: See `Checkouts.come_back`.
            task: The running task.
        """
        hands = self._hands
        if self._held and self._caller is not None:
            hands.keep(self._caller, self._held)
        self._held, self._caller = (), None
        if before is not None:
            hands.finish(before)
        if caller is None and task is not None and not self._is_whole(task):
            caller = task
            hands.come_back(task)
        if caller is task:
            self._caller = task
        return caller

    def _is_whole(self, task: asyncio.Task[Any]) -> bool:
        """Return whether a task was made of a call of ours: somebody else called."""
        code = getattr(task.get_coro(), "cr_code", None)
        return code is type(self)._step.__code__  # noqa: SLF001 - of this very object

    def let_go(self) -> tuple[Sequence[Entry], Caller]:
        """Give up what is held, and say who holds it."""
        held, self._held = self._held, ()
        return held, self._caller

    def __del__(self) -> None:
        if self._held:
            self._hands.set_aside(*self.let_go())


class Loop(_Iteration[T, Message[T]]):
    """One `async for` over a consumer.

    Args:
        hands: Hands out.
        goal: After which it ends; default: when the consumer closes.
        watch: Has a goal watched that has begun.
    """

    __slots__ = ("_goal", "_watch")

    def __init__(
        self,
        hands: Checkouts[T],
        goal: CatchUp | None = None,
        watch: Callable[[CatchUp], None] | None = None,
    ) -> None:
        super().__init__(hands)
        self._goal = goal
        self._watch = watch

    async def _begin(self) -> None:
        """Begin with the goal, at the first step."""
        watch, self._watch = self._watch, None
        if watch is not None and self._goal is not None:
            await self._goal.begin()
            watch(self._goal)

    def _end(self) -> Exception:
        """Return what the loop ends with."""
        error = None if self._goal is None else self._goal.error
        return error or StopAsyncIteration()

    def __del__(self) -> None:
        if self._goal is not None:
            self._goal.stop()
        super().__del__()

    async def _step(self, caller: Caller, before: Before | None) -> Message[T]:
        hands, intake = self._hands, self._intake
        task = current_task(hands.loop)
        if task is self._caller:
            if held := self._held:
                self._held = ()
                if hands.ack:
                    self._ledger.processed(held[0])
                else:
                    self._ledger.finish(held[0], ack=False)
            if hands.holders:
                hands.come_back(task)
        else:
            caller = self._changed(caller, before, task)
        goal = self._goal
        if goal is not None:
            await self._begin()
            if goal.reached:
                raise self._end()
        while (entry := intake.poll() or await intake.entry(goal)) is not None:
            message = hands.desk.open(entry)
            if message is None:
                continue
            if task is self._caller:
                self._held = (entry,)
                return message
            return hands.give(caller or task, entry, message)
        raise self._end()


class BatchLoop(_Iteration[T, "list[Message[T]]"]):
    """One `async for` over a consumer's batches.

    Args:
        hands: Hands out.
        size: Messages in a batch at most.
        linger: Seconds to wait for that many.
    """

    __slots__ = ("_linger", "_size")

    def __init__(self, hands: Checkouts[T], size: int, linger: float) -> None:
        super().__init__(hands)
        self._size = size
        self._linger = linger

    async def _step(self, caller: Caller, before: Before | None) -> list[Message[T]]:
        hands = self._hands
        task = current_task(hands.loop)
        if task is self._caller:
            held, self._held = self._held, ()
            self._ledger.finish_all(held, ack=hands.ack)
            hands.come_back(task)
        else:
            caller = self._changed(caller, before, task)
        while entries := await self._intake.batch(self._size, self._linger):
            entries, messages = hands.desk.open_all(entries)
            if messages and task is self._caller:
                self._held = entries
                return messages
            if messages:
                return hands.give_all(caller or task, entries, messages)
        raise StopAsyncIteration
