"""Supervisor: restarts the workers of `penstock run`, and drains them."""

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
from penstock._tasks.consumer_set import LONGEST_SILENCE
from penstock._tasks.task_scopes import task_group
from penstock.cli.run.child import Child, Settings, started
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.status_pipe import BEAT

__all__ = ["Supervisor"]

_LOGGER: Final = logging.getLogger("penstock.run")
_FAILED: Final = 1
_WRONG_USE: Final = 2
_FIRST: Final = 0.1  # seconds before a worker that died is restarted the first time
# Seconds within which two equal signals count as one. timeout(1), for example, sends
# the signal to its child and also to the child's process group.
_SAME_SIGNAL: Final = 0.05
_CAP: Final = 10.0  # seconds before a worker is restarted, at most
_STEADY: Final = 10.0  # seconds of being ready that reset the delay


class Supervisor:
    """The parent of the workers.

    Args:
        settings: The router to run, and how.
        readiness: Records which workers are ready.
    """

    def __init__(self, settings: Settings, readiness: Readiness) -> None:
        self._settings = settings
        self._readiness = readiness
        # The processes by the workers' numbers, and the numbers of the workers that
        # have ever been ready.
        self._children: dict[int, Child] = {}
        self._was_ready: set[int] = set()
        # Set when all workers are to end. That need not be by a signal, so the first
        # signal and its time are kept separately: a second one kills the workers.
        self._draining = asyncio.Event()
        self._first: tuple[signal.Signals, float] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        # Whether the workers have been killed, so that none may drain any more.
        self._killed = False
        self._status = 0

    async def run(self) -> int:
        """Keep all workers running until a signal, and return the exit status."""
        with self._catching():
            try:
                async with task_group() as tasks:
                    for number in range(1, self._settings.workers + 1):
                        tasks.start_soon(self._keep_running, number)
            finally:
                if self._deadline is not None:
                    self._deadline.cancel()
        return self._status

    @contextmanager
    def _catching(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        caught = [signal.SIGTERM, signal.SIGINT]
        if (
            signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        ):  # nohup ignores SIGHUP
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
        if number is first and now < when + _SAME_SIGNAL:
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
        self._killed = True
        for child in self._children.values():
            child.kill()

    async def _keep_running(self, number: int) -> None:
        """Run processes for a worker, one after the other, until all are to end."""
        backoff = ReconnectBackoff(first=_FIRST, cap=_CAP)
        while not self._draining.is_set():
            try:
                async with started(self._settings, number) as child:
                    ending = await self._run_process(number, child, backoff)
            except OSError as error:
                ending = f"can't be started: {error}"
            if self._draining.is_set():
                return
            delay = backoff.failed(random.random())  # noqa: S311 - only jitter
            _LOGGER.error(
                "worker %d %s; starting another in %.1f s", number, ending, delay
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._draining.wait()

    async def _run_process(
        self, number: int, child: Child, backoff: ReconnectBackoff
    ) -> str:
        """Wait for the end of a process, and return a description of it."""
        ready_at: list[float] = []

        def ready() -> None:
            _LOGGER.info("worker %d is ready", number)
            ready_at.append(time.monotonic())
            self._was_ready.add(number)
            self._readiness.up(number)

        beats = _Beats(number, self._readiness)
        self._children[number] = child
        if self._draining.is_set():  # since this process was started
            (child.kill if self._killed else child.drain)()
        try:
            status = await child.ended(ready, beats.received)
        finally:
            beats.stop()
            del self._children[number]
            self._readiness.down(number)
        if ready_at and time.monotonic() - ready_at[0] > _STEADY:
            backoff.progress()
        ending = _ending(status)
        if self._draining.is_set():
            self._ended_draining(number, child, status)
        elif status == _WRONG_USE and number not in self._was_ready:
            self._refused(child.reason or f"worker {number} {ending}")
        return ending

    def _ended_draining(self, number: int, child: Child, status: int) -> None:
        # SIGTERM kills a worker that has not installed its handler yet, or has removed
        # it already.
        if status not in (0, -signal.SIGTERM) and not child.killed:
            _LOGGER.error("worker %d %s while draining", number, _ending(status))
            self._status = self._status or _FAILED

    def _refused(self, reason: str) -> None:
        """Stop all workers: what keeps one from running keeps all of them."""
        print(f"penstock: {reason}", file=sys.stderr, flush=True)
        self._status = _WRONG_USE
        self._drain()


class _Beats:
    """Tells by the beats of a worker whether it is able to get messages.

    Args:
        number: The worker's number.
        readiness: Records it.
    """

    def __init__(self, number: int, readiness: Readiness) -> None:
        self._number = number
        self._readiness = readiness
        self._timer: asyncio.TimerHandle | None = None

    def received(self, silent: float) -> None:
        """Record a beat, with the seconds of the server's silence."""
        self.stop()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LONGEST_SILENCE, self._missing, loop.time())
        trouble = f"no answer from the server for {silent:.0f} s"
        self._record(trouble if silent > LONGEST_SILENCE else "")

    def _missing(self, since: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(BEAT, self._missing, since)
        self._record(f"its event loop has not turned for {loop.time() - since:.0f} s")

    def _record(self, trouble: str) -> None:
        was = self._readiness.trouble(self._number, trouble)
        if trouble and not was:
            _LOGGER.warning("worker %d is not ready: %s", self._number, trouble)
        elif was and not trouble:
            _LOGGER.info("worker %d is ready again", self._number)

    def stop(self) -> None:
        """Expect no more beats."""
        if self._timer is not None:
            self._timer.cancel()


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal, which has no name
        return f"was killed by signal {-status}"
