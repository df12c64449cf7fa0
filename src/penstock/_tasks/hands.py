"""What the user's own loops hold, and when that counts as processed.

A message that a loop got is its to process until it comes back for the next one. A
loop that was left (`break`, or an exception: it can't be told which) never comes back:
its message is set aside, and counts as processed only if the consumer is then left
cleanly, and the loop's task was not cancelled and did not fail.

What `next` gave belongs to the task that called it, even if another one awaits the
call, as `asyncio.wait_for` has it before Python 3.12. That task comes back by calling
`next` again, or by ending well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from penstock._core.desk import FrontDesk
from penstock._core.entry import OPEN, Entry
from penstock._core.ledger import Ledger
from penstock._tasks.intake import Intake
from penstock.errors import ClosedError
from penstock.message import Message

__all__ = ["Hands", "Loop", "this_task"]

T = TypeVar("T")


class Hands(Generic[T]):
    """Hands messages to the user's loops and to `next`.

    Args:
        intake: Where entries come from.
        ledger: Where outcomes go.
        desk: Serves the messages.
        ack: Whether coming back acknowledges.
    """

    def __init__(
        self, intake: Intake, ledger: Ledger, desk: FrontDesk[T], *, ack: bool
    ) -> None:
        self.intake = intake
        self.ledger = ledger
        self.desk = desk
        self.ack = ack
        # Loops that are alive; each knows what it holds.
        self._loops: WeakSet[Loop[T] | BatchLoop[T]] = WeakSet()
        # What the tasks that called `next` hold.
        self._holders: dict[asyncio.Task[Any], list[Entry]] = {}
        # Messages of loops that were left, and by which task.
        self._aside: list[tuple[Entry, asyncio.Task[Any]]] = []

    def loop(self) -> Loop[T]:
        """Start a loop."""
        loop = Loop(self)
        self._loops.add(loop)
        return loop

    def batches(self, size: int, linger: float) -> BatchLoop[T]:
        """Start a loop over batches."""
        loop = BatchLoop(self, size, linger)
        self._loops.add(loop)
        return loop

    def come_back(self, task: asyncio.Task[Any]) -> None:
        """Count as processed what a task got from `next`."""
        held = self._holders.get(task)
        if held:
            self.ledger.finish_all(held, ack=self.ack)
            held.clear()

    async def next(
        self, task: asyncio.Task[Any], timeout: float | None
    ) -> Message[T] | None:
        """Wait for a message for a task; None when time is up.

        Raises:
            ClosedError: The consumer closed.
        """
        self.intake.check()
        self.come_back(task)
        await self.intake.turn()
        message = None
        # Not anyio's scopes: this runs in the user's task, and their cancellation got
        # out of it where entry and deadline came in the same turn.
        with suppress(TimeoutError):
            # Taken outside the limit: one of 0 is over at its first turn.
            message = await self._opened(task, self.intake.one)
            async with asyncio.timeout(timeout):
                while message is None and not self.intake.closed:
                    message = await self._opened(task, self.intake.entry)
        if message is None and self.intake.closed:
            raise ClosedError("consumer")
        return message

    async def _opened(
        self, task: asyncio.Task[Any], get: Callable[[], Awaitable[Entry | None]]
    ) -> Message[T] | None:
        entry = await get()
        message = None if entry is None else self.desk.open(entry)
        if entry is not None and message is not None:
            self._hold(task, entry)
        return message

    async def take(
        self, task: asyncio.Task[Any], most: int, timeout: float
    ) -> list[Message[T]]:
        """Wait for several messages for a task; gives those there are in time.

        Raises:
            ClosedError: The consumer closed.
        """
        self.intake.check()
        self.come_back(task)
        await self.intake.turn()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.intake.gathered(most)
        await self.intake.turn()
        if self.intake.closed:
            raise ClosedError("consumer")
        messages: list[Message[T]] = []
        for entry in await self.intake.several(most, apart=False):
            message = self.desk.open(entry)
            if message is not None:
                self._hold(task, entry)
                messages.append(message)
        return messages

    def _hold(self, task: asyncio.Task[Any], entry: Entry) -> None:
        held = self._holders.get(task)
        if held is None:
            held = self._holders[task] = []
            task.add_done_callback(self._ended)
        held.append(entry)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        for entry in self._holders.pop(task, ()):
            self.ledger.finish(entry, ack=self.ack and _done_well(task))

    def set_aside(self, entries: Sequence[Entry], task: asyncio.Task[Any]) -> None:
        """Take over the messages of a task's loop that was left."""
        for entry in entries:
            self.ledger.finish(entry, ack=False)
            # With an outcome it need not be kept until the consumer closes.
            if self.ack and entry.state is OPEN:
                self._aside.append((entry, task))

    def let_go(self, leaving: asyncio.Task[Any] | None) -> None:
        """End all holding: the consumer is being left.

        Args:
            leaving: The task that leaves it without an exception. Then what is held
                counts as processed, except by another task that failed or is still at
                work. None where it is left by an exception.
        """
        held = [(e, task) for task, held in self._holders.items() for e in held]
        for task in self._holders:
            # A task that lives on must not keep all this alive.
            task.remove_done_callback(self._ended)
        self._holders.clear()
        for loop in list(self._loops):
            if let_go := loop.let_go():
                entries, task = let_go
                held += [(entry, task) for entry in entries]
        for entry, task in held:
            well = leaving is not None and (task is leaving or _done_well(task))
            self.ledger.finish(entry, ack=self.ack and well)
        if self.ack and leaving is not None:
            for entry, task in self._aside:
                # A task that goes on has left its loop by `break`.
                broke = task is leaving or not task.done() or _done_well(task)
                if broke and entry.verdict is None:
                    self.ledger.ack(entry)
        self._aside.clear()


class Loop(Generic[T]):
    """One `async for` over a consumer."""

    __slots__ = (
        "__weakref__",
        "_ack",
        "_desk",
        "_hands",
        "_held",
        "_intake",
        "_ledger",
        "_task",
    )

    def __init__(self, hands: Hands[T]) -> None:
        self._hands = hands
        self._intake = hands.intake
        self._ledger = hands.ledger
        self._desk = hands.desk
        self._ack = hands.ack
        # The message that is being processed, and by which task.
        self._held: Entry | None = None
        self._task: asyncio.Task[Any] | None = None

    def __aiter__(self) -> Loop[T]:
        return self

    async def __anext__(self) -> Message[T]:
        held = self._held
        if held is None:
            self._task = this_task()
        else:
            self._held = None
            if self._ack:
                self._ledger.processed(held)
            else:
                self._ledger.finish(held, ack=False)
        while (entry := self._intake.poll() or await self._intake.entry()) is not None:
            message = self._desk.open(entry)
            if message is not None:
                self._held = entry
                return message
        raise StopAsyncIteration

    def let_go(self) -> tuple[Sequence[Entry], asyncio.Task[Any]] | None:
        """Give up what is held, and say by which task."""
        held, self._held = self._held, None
        if held is None or self._task is None:
            return None
        return [held], self._task

    def __del__(self) -> None:
        if self._held is not None and self._task is not None:
            self._hands.set_aside([self._held], self._task)


class BatchLoop(Generic[T]):
    """One `async for` over a consumer's batches.

    Args:
        hands: Hands out.
        size: Messages in a batch at most.
        linger: Seconds to wait for that many.
    """

    def __init__(self, hands: Hands[T], size: int, linger: float) -> None:
        self._hands = hands
        self._size = size
        self._linger = linger
        # The batch that is being processed, and by which task.
        self._held: list[Entry] = []
        self._task: asyncio.Task[Any] | None = None

    def __aiter__(self) -> BatchLoop[T]:
        return self

    async def __anext__(self) -> list[Message[T]]:
        hands, self._task = self._hands, this_task()
        held, self._held = self._held, []
        hands.ledger.finish_all(held, ack=hands.ack)
        while entries := await hands.intake.batch(self._size, self._linger):
            opened = [(entry, hands.desk.open(entry)) for entry in entries]
            messages = [message for _, message in opened if message is not None]
            if messages:
                self._held = [entry for entry, message in opened if message is not None]
                return messages
        raise StopAsyncIteration

    def let_go(self) -> tuple[Sequence[Entry], asyncio.Task[Any]] | None:
        """Give up what is held, and say by which task."""
        held, self._held = self._held, []
        return (held, self._task) if held and self._task else None

    def __del__(self) -> None:
        if self._held and self._task is not None:
            self._hands.set_aside(self._held, self._task)


def this_task() -> asyncio.Task[Any]:
    """Give the task that runs."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks
    return task


def _done_well(task: asyncio.Task[Any]) -> bool:
    """Tell whether what a task held can be taken as processed."""
    return task.done() and not task.cancelled() and task.exception() is None
