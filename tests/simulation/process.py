"""Process: a simulated process, which runs one coroutine on a loop of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeAlias

from simulation.loop import Loop
from simulation.network import Network

__all__ = ["Main", "Process"]

Main: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]


class Process:
    """A process, from its start until it has ended or was killed.

    Args:
        network: The network.
        name: The name of this process, which no other one has had.
        main: What it runs.

    Attributes:
        started_at: When it was started.
    """

    def __init__(self, network: Network, name: str, main: Main) -> None:
        self.name = name
        self.network = network
        self.loop = Loop(network.world, name, network.connect)
        self._main = main
        self._task: asyncio.Task[Any] | None = None
        self.started_at = 0.0

    def start(self) -> None:
        """Start the process."""
        self._note("started")
        self.started_at = self.network.world.time()
        # Each process has context variables of its own.
        Context().run(self.loop.call_soon, self._begin)

    def _begin(self) -> None:
        self._task = self.loop.create_task(self._main(), name="main")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        self._note("ended" if error is None else f"failed: {error!r}")

    @property
    def alive(self) -> bool:
        """Whether it runs: it has been started, has not ended and was not killed."""
        return not self.loop.dead and not self.ended

    @property
    def ended(self) -> bool:
        """Whether its coroutine has ended."""
        return self._task is not None and self._task.done()

    @property
    def error(self) -> BaseException | None:
        """The exception that ended it."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._note("SIGTERM")
        if handler := self.loop.signal_handlers.get(signal.SIGTERM):
            handler()
        elif self.alive:
            self.kill()

    def kill(self, *, machine: bool = False) -> None:
        """Send SIGKILL, or let its whole machine vanish.

        Args:
            machine: Whether nobody is left who could close its connections.
        """
        self._note("its machine vanished" if machine else "SIGKILL")
        self.loop.kill()
        for connection in self.network.of(self.name):
            if machine:
                connection.vanish()
            else:
                connection.hang_up()

    def freeze(self, seconds: float) -> None:
        """Let the process stand still for a while, as SIGSTOP and SIGCONT do."""
        self._note(f"stands still for {seconds:g} s")
        self.loop.freeze(seconds)

    def left(self) -> list[str]:
        """Describe what an ended process has left behind."""
        found = [f"task {task.get_name()}: {task!r}" for task in self.loop.pending]
        found += [f"timer {timer!r}" for timer in self.loop.timers]
        found += [f"connection {c.number}" for c in self.network.of(self.name)]
        found += [str(each) for each in self.loop.complaints]
        return found

    def _note(self, text: str) -> None:
        self.network.world.record(self.name, text)
