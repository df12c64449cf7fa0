"""Keeps the workers of `penstock run` alive, and ends them."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from penstock._core.backoff import ReconnectBackoff
from penstock._tasks.lifetime import task_group
from penstock.cli.run.child import Child, Settings, started
from penstock.cli.run.readiness import Readiness

__all__ = ["Supervisor"]

_LOGGER: Final = logging.getLogger("penstock.run")
_FAILED: Final = 1
_WRONG_USE: Final = 2
_FIRST: Final = 0.1  # seconds before a worker that died is started again
# Seconds in which a signal is one and the same: timeout(1), say, sends it to its
# child and to the process group that the child is in.
_ONE: Final = 0.05
_CAP: Final = 10.0
_STEADY: Final = 10.0  # seconds of being ready after which a death is the first one


class Supervisor:
    """The parent of the workers.

    Args:
        settings: What they run.
        readiness: Told which of them are ready.
    """

    def __init__(self, settings: Settings, readiness: Readiness) -> None:
        self._settings = settings
        self._readiness = readiness
        # The processes by the workers' numbers, and the workers that were ever ready.
        self._children: dict[int, Child] = {}
        self._proven: set[int] = set()
        # Set when all are to end. The first signal, and when it came, is kept apart: a
        # second one forces it.
        self._draining = asyncio.Event()
        self._first: tuple[signal.Signals, float] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        # Whether their time is up: nothing is waited for any more.
        self._late = False
        self._status = 0

    async def run(self) -> int:
        """Keep all workers running until a signal comes; gives the exit status."""
        with self._catching():
            try:
                async with task_group() as tasks:
                    for number in range(1, self._settings.workers + 1):
                        tasks.start_soon(self._keep, number)
            finally:
                if self._deadline is not None:
                    self._deadline.cancel()
        return self._status

    @contextmanager
    def _catching(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        caught = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # so nohup has it
            caught.append(signal.SIGHUP)
        for number in caught:
            loop.add_signal_handler(number, self._caught, number)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    def _caught(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = number, now
            _LOGGER.info("%s: draining", number.name)
            self._drain()
            return
        first, when = self._first
        if number is first and now < when + _ONE:
            return
        _LOGGER.warning("%s again: killing the workers", number.name)
        self._status = 128 + number
        self._kill()

    def _drain(self) -> None:
        if self._draining.is_set():
            return
        self._draining.set()
        self._readiness.drain()
        for child in self._children.values():
            child.drain()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._settings.grace, self._grace_is_over)

    def _grace_is_over(self) -> None:
        _LOGGER.error(
            "not drained within %g s: killing %d workers",
            self._settings.grace,
            len(self._children),
        )
        self._status = self._status or _FAILED
        self._kill()

    def _kill(self) -> None:
        self._late = True
        for child in self._children.values():
            child.kill()

    async def _keep(self, number: int) -> None:
        """Have a process for a worker until all are to end."""
        backoff = ReconnectBackoff(first=_FIRST, cap=_CAP)
        while not self._draining.is_set():
            try:
                async with started(self._settings, number) as child:
                    what = await self._one_life(number, child, backoff)
            except OSError as error:
                what = f"can't be started: {error}"
            if self._draining.is_set():
                return
            delay = backoff.failed(random.random())  # noqa: S311 - only jitter
            _LOGGER.error(
                "worker %d %s; starting another in %.1f s", number, what, delay
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._draining.wait()

    async def _one_life(
        self, number: int, child: Child, backoff: ReconnectBackoff
    ) -> str:
        """See a process to its end; tells what that was."""
        ready_at: list[float] = []

        def ready() -> None:
            _LOGGER.info("worker %d is ready", number)
            ready_at.append(time.monotonic())
            self._proven.add(number)
            self._readiness.up(number)

        self._children[number] = child
        if self._draining.is_set():  # while it was started
            (child.kill if self._late else child.drain)()
        try:
            status = await child.ended(ready)
        finally:
            del self._children[number]
            self._readiness.down(number)
        if ready_at and time.monotonic() - ready_at[0] > _STEADY:
            backoff.progress()
        what = _ending(status)
        if self._draining.is_set():
            self._ended_draining(number, child, status)
        elif status == _WRONG_USE and number not in self._proven:
            self._refused(child.reason or f"worker {number} {what}")
        return what

    def _ended_draining(self, number: int, child: Child, status: int) -> None:
        # It may not have come so far as to see to SIGTERM itself, or be past it.
        if status not in (0, -signal.SIGTERM) and not child.killed:
            _LOGGER.error("worker %d %s while draining", number, _ending(status))
            self._status = self._status or _FAILED

    def _refused(self, reason: str) -> None:
        """End all: what a worker can't be run with, none can."""
        print(f"penstock: {reason}", file=sys.stderr, flush=True)
        self._status = _WRONG_USE
        self._drain()


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal, which has no name
        return f"was killed by signal {-status}"
