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
from functools import partial
from typing import Final

import msgspec

from penstock._core.backoff import ReconnectBackoff
from penstock._tasks.task_scopes import task_group
from penstock.cli.run.child import Child, started
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.run_metrics import RunMetrics
from penstock.cli.run.settings import Settings
from penstock.cli.run.status_pipe import Frame, Tally
from penstock.cli.run.worker_watch import WorkerWatch

__all__ = ["Supervisor"]

_LOGGER: Final = logging.getLogger("penstock.run")
_FAILED: Final = 1
_WRONG_USE: Final = 2
_FIRST: Final = 0.1  # seconds before a worker that died is restarted the first time
# Seconds within which two equal signals count as one. timeout(1), for example, sends
# the signal to its child and also to the child's process group.
_SAME_SIGNAL: Final = 0.05
_CAP: Final = 10.0  # seconds before a worker is restarted, at most
_RELOAD_GRACE: Final = 2.0  # seconds that a worker whose code has changed may drain
_STEADY: Final = 10.0  # seconds of being ready that reset the delay


class Supervisor:
    """The parent of the workers.

    Args:
        settings: The router to run, and how.
        readiness: Records which workers are ready.
        metrics: Asks the workers for their metrics; default: nobody does.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: Readiness,
        metrics: RunMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._readiness = readiness
        self._metrics = metrics or RunMetrics(readiness, settings.workers)
        # The processes by the workers' numbers, and the numbers of the workers that
        # have ever been ready.
        self._children: dict[int, Child] = {}
        self._was_ready: set[int] = set()
        # Set when all workers are to end. That need not be by a signal, so the first
        # signal and its time are kept separately: a second one kills the workers.
        self._draining = asyncio.Event()
        # Set when a worker that waits to be started should not wait any longer: then
        # too, and when its code has changed.
        self._changed = asyncio.Event()
        self._first: tuple[signal.Signals, float] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        # Whether the workers have been killed, so that none may drain any more.
        self._killed = False
        self._status = 0
        # What became of the messages of all workers that have told it, in all their
        # processes, and whether one was killed before it could.
        self._tally = Tally()
        self._untold = False

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
        if self._untold:
            _LOGGER.warning("workers were killed; the others drained: %s", self._tally)
        elif self._was_ready:
            _LOGGER.info("drained: %s", self._tally)
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

    def _caught_up(self, trouble: str) -> None:
        """Drain: there is nothing left to do, or nobody knows whether there is."""
        if trouble:
            _LOGGER.error("it can't be known what is left to do: %s", trouble)
            self._status = self._status or _FAILED
        else:
            _LOGGER.info("caught up: draining")
        self._drain()

    def _drain(self) -> None:
        if self._draining.is_set():
            return
        self._draining.set()
        self._changed.set()
        self._readiness.drain()
        for child in self._children.values():
            child.drain()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._settings.grace, self._grace_is_over)

    def reload(self) -> None:
        """Replace the worker: its code has changed."""
        self._changed.set()
        for child in self._children.values():
            self._reload(child)

    def _reload(self, child: Child) -> None:
        if child.outdated or self._draining.is_set():
            return
        child.outdated = True
        child.drain()
        asyncio.get_running_loop().call_later(_RELOAD_GRACE, child.kill)

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
            self._changed.clear()
            refused = outdated = False
            try:
                async with started(self._settings, number) as child:
                    status = await self._run_process(number, child, backoff)
                ending, reason = _ending(status), _reason(child, status)
                refused, outdated = bool(child.reason), child.outdated
            except OSError as error:
                ending, reason = f"can't be started: {error}", "not_started"
            if self._draining.is_set():
                return
            self._metrics.restarted(reason)
            if outdated:
                continue
            if refused and self._settings.reload:
                _LOGGER.info("waiting for a change of the code")
                await self._changed.wait()
                continue
            delay = backoff.failed(random.random())  # noqa: S311 - only jitter
            _LOGGER.error(
                "worker %d %s; starting another in %.1f s", number, ending, delay
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._changed.wait()

    async def _run_process(
        self, number: int, child: Child, backoff: ReconnectBackoff
    ) -> int:
        """Wait for the end of a process, and return its status."""
        ready_at: list[float] = []

        def ready() -> None:
            _LOGGER.info("worker %d is ready", number)
            ready_at.append(time.monotonic())
            self._was_ready.add(number)
            self._readiness.up(number)
            self._metrics.ready(number, child.ask)

        watch = WorkerWatch(
            *(number, child, self._readiness),
            hang_timeout=self._settings.hang_timeout,
            on_hung=partial(self._replace_hung, number, child),
        )
        self._children[number] = child
        self._readiness.started(number, child.pid)
        watch.start()
        if self._draining.is_set():  # since this process was started
            (child.kill if self._killed else child.drain)()
        elif self._changed.is_set():
            self._reload(child)
        try:
            status = await child.ended(ready, partial(self._answered, child, watch))
        finally:
            watch.stop()
            del self._children[number]
            self._readiness.down(number)
            self._metrics.ended(number)
        self._untold = self._untold or (child.ready and not child.drained)
        if ready_at and time.monotonic() - ready_at[0] > _STEADY:
            backoff.progress()
        if self._draining.is_set():
            self._ended_draining(number, child, status)
        elif status == _WRONG_USE and self._is_refusal(number, child):
            self._refused(child.reason or f"worker {number} {_ending(status)}")
        return status

    def _answered(
        self, child: Child, watch: WorkerWatch, kind: Frame, content: bytes
    ) -> None:
        """Take what a worker sends: answers, and reports of its own."""
        if kind is Frame.METRICS:
            self._metrics.answered(watch.number, content)
        elif kind is Frame.HEALTH:
            watch.answered(content)
        elif kind is Frame.CAUGHT_UP:
            self._caught_up(content.decode("utf-8", "replace"))
        elif kind is Frame.DRAINED:
            child.drained = True
            self._tally += msgspec.json.decode(content, type=Tally)

    def _replace_hung(self, number: int, child: Child, seconds: float) -> None:
        """End a worker whose event loop stands still; another one is started then."""
        if self._draining.is_set():  # the grace of the draining ends it
            return
        grace = self._settings.grace
        _LOGGER.error(
            "worker %d hangs: its event loop has not turned for %.0f s; it is replaced "
            "when it has drained, or is killed after %g s",
            *(number, seconds, grace),
        )
        child.hung = True
        child.dump()
        child.drain()
        asyncio.get_running_loop().call_later(grace, child.kill)

    def _ended_draining(self, number: int, child: Child, status: int) -> None:
        # SIGTERM kills a worker that has not installed its handler yet, or has removed
        # it already.
        if status not in (0, -signal.SIGTERM) and not child.killed:
            _LOGGER.error("worker %d %s while draining", number, _ending(status))
            self._status = self._status or _FAILED

    def _is_refusal(self, number: int, child: Child) -> bool:
        """Return whether a worker ended because it can't be run, not by a handler."""
        if self._settings.reload:
            return bool(child.reason)
        return number not in self._was_ready

    def _refused(self, reason: str) -> None:
        """Stop all workers: what keeps one from running keeps all of them."""
        print(f"penstock: {reason}", file=sys.stderr, flush=True)
        if self._settings.reload:
            return  # the next change may mend it
        self._status = _WRONG_USE
        self._drain()


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal, which has no name
        return f"was killed by signal {-status}"


def _reason(child: Child, status: int) -> str:
    """Return the reason for a replacement, one of `RESTARTS`."""
    if child.outdated:
        return "reloaded"
    if child.hung:
        return "hung"
    if status < 0:
        return "killed"
    return "failed" if status else "ended"
