"""Handling: handlers that do the tasks of messages, and record that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from faults.history import End, Start, digest
from faults.task import Task, parse
from faults.worker import Handler as CommonHandler
from penstock import Message
from simulation import threads
from simulation.journal import Journal
from simulation.loop import Loop

__all__ = ["Handler"]

_SLEEPS: Final = frozenset(("sleep", "hang"))
_EXITS: Final[dict[str, type[BaseException]]] = {
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
}


class Handler(CommonHandler):
    """Does what messages say.

    Args:
        journal: The journal.
        group: The name of the group in the journal.
        die: Kills the process.
        settles: Whether messages can be nacked and rejected: not in REALTIME, nor where
            they are acknowledged by time or on delivery, nor in a transaction.
        mortal: Whether messages may kill the process.
        leaves: Whether they may end `run`.
        exits: Whether they may end it with what ends a program.

    Attributes:
        starts: How many messages were begun so far.
    """

    def __init__(
        self,
        journal: Journal,
        group: str,
        die: Callable[[], None],
        *,
        settles: bool,
        mortal: bool,
        leaves: bool,
        exits: bool,
    ) -> None:
        super().__init__(journal, group)
        self._die = die
        self._settles = settles
        self._mortal = mortal
        self._leaves = leaves
        self._exits = exits
        self.starts = 0

    def note(self, text: str) -> None:
        """Record a note."""
        self._journal.note(text)

    async def handle_in_loop(
        self, message: Message[bytes], *, ack: bool = False
    ) -> bool:
        """Handle a message that was not delivered by `run`.

        Returns:
            Whether it was handled, and neither nacked nor rejected.
        """
        done = True
        try:
            await self.handle(message)
        except (RuntimeError, ValueError):
            done = False
        except asyncio.CancelledError:
            # The message's own, and not of the task that handles it.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            done = False
        if not self._settles:
            return True
        if not done:
            message.nack()
            return False
        if self._settled(message):
            return False
        if ack:
            message.ack()
        return True

    async def handle_list(
        self, messages: Sequence[Message[bytes]], *, ack: bool = False
    ) -> None:
        """Handle several messages; each has an outcome of its own."""
        left = iter(messages)
        try:
            for message in left:
                await self.handle_in_loop(message, ack=ack)
        except asyncio.CancelledError:
            # It has got the others too, in the order of the stream.
            for message in left:
                self._start(message)
                self._end(message, ok=False)
            raise

    async def handle(self, message: Message[bytes]) -> None:
        """Handle a message; raise if it fails, unless it was nacked or rejected."""
        task = self._start(message)
        ok = settled = False
        try:
            settled = self._settles and self._settle(message, task)
            if not settled:
                await self._do(message, task)
            ok = not settled
        finally:
            self._end(message, ok=ok)

    def _start(self, message: Message[bytes]) -> Task:
        """Record that a message is handled now, and return what it says."""
        self.starts += 1
        task = parse(message.payload)
        self._journal.add(
            Start,
            **self._names(message),
            attempt=message.attempt,
            message=task.message,
            key=message.key or "",
            digest=digest(message.payload),
        )
        return task

    def _end(self, message: Message[bytes], *, ok: bool) -> None:
        lost = message.lost
        self._journal.add(End, **self._names(message), ok=ok, lost=lost)

    def handle_in_thread(self, message: Message[bytes]) -> None:
        """Handle a message in a thread, which ends when its time has passed."""
        task, ok = self._begin(message), False
        try:
            if not (self._settles and self._settle(message, task)):
                if task.what in {*_SLEEPS, "block"}:
                    threads.sleep(task.argument)
                elif task.what == "kill" and self._mortal:
                    self._journal.note("killed by a message")
                    self._die()
                    return
                else:
                    self._raise(message, task)
                ok = True
        finally:
            names = self._names(message)
            threads.at_end(
                lambda: self._journal.add(End, **names, ok=ok, lost=message.lost)
            )

    def _begin(self, message: Message[bytes]) -> Task:
        """Record the start of a message; return its task."""
        task = parse(message.payload)
        self._journal.add(
            Start,
            **self._names(message),
            attempt=message.attempt,
            message=task.message,
            key=message.key or "",
            digest=digest(message.payload),
        )
        return task

    def _names(self, message: Message[bytes]) -> dict[str, Any]:
        return {**super()._names(message), "epoch": message.epoch}

    def _settled(self, message: Message[bytes]) -> bool:
        """Return whether a message's task is to be nacked or rejected."""
        task = parse(message.payload)
        if task.what == "nack":
            return message.attempt <= task.argument
        return task.what == "reject"

    def _settle(self, message: Message[bytes], task: Task) -> bool:
        """Nack or reject a message if its task says so; return whether it did."""
        if not self._settled(message):
            return False
        if task.what == "nack":
            message.nack(0.2 * task.argument)
        else:
            message.reject("no such customer")
        return True

    async def _do(self, message: Message[bytes], task: Task) -> None:
        if task.what in _SLEEPS:
            await self._sleep(message, task)
        elif task.what == "block":
            _block(task.argument)
        elif task.what == "kill" and self._mortal:
            await self._be_killed()
        else:
            self._raise(message, task)

    def _raise(self, message: Message[bytes], task: Task) -> None:
        """Raise what a task asks for."""
        again = message.attempt <= (task.argument or 10**9)
        if task.what == "fail" and again:
            raise RuntimeError(task.what)
        if task.what == "cancel" and again:
            raise asyncio.CancelledError(task.what)
        if task.what == "hopeless":
            raise ValueError(task.what)
        if task.what == "leave" and self._leaves:
            raise GeneratorExit
        if task.what in _EXITS and self._exits:
            self.note(f"exits by {_EXITS[task.what].__name__}")
            raise _EXITS[task.what]

    async def _sleep(self, message: Message[bytes], task: Task) -> None:
        try:
            await asyncio.sleep(task.argument)
        except asyncio.CancelledError:
            # One that hangs is also cancelled when its time is over.
            if task.what == "sleep":
                self.note(f"interrupted {self._group} {message.shard} {message.id}")
            raise

    async def _be_killed(self) -> None:
        self._journal.note("killed by a message")
        self._die()
        # Nothing of this process runs any more.
        await asyncio.get_running_loop().create_future()


def _block(seconds: float) -> None:
    """Hold up the event loop, as a handler does that computes."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.world.spent += seconds
