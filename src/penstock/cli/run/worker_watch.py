"""Asks a worker every two seconds how it is, and tells whether it can get messages."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from penstock._tasks.consumer_set import LONGEST_SILENCE
from penstock.cli.run.child import Child
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.status_pipe import BEAT, HEALTH
from penstock.health import WorkerHealth

__all__ = ["WorkerWatch"]

_LOGGER: Final = logging.getLogger("penstock.run")


class WorkerWatch:
    """Keeps the health of a worker process.

    Args:
        number: The worker's number.
        child: Its process.
        readiness: Records the worker's health.
        hang_timeout: Seconds for which its event loop may stand still; 0 for any time.
        on_hung: Called once when it stands still for longer, with these seconds.
    """

    def __init__(
        self,
        number: int,
        child: Child,
        readiness: Readiness,
        *,
        hang_timeout: float,
        on_hung: Callable[[float], None],
    ) -> None:
        self.number = number
        self._child = child
        self._readiness = readiness
        self._hang_timeout = hang_timeout or math.inf
        self._interval = min(BEAT, self._hang_timeout / 2)
        self._on_hung = on_hung
        # Whether the last answer reported a hang: a single one may report a delay that
        # is just over. And whether `on_hung` was called.
        self._late = self._reported = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # The last answer, and since when another one is due; None if none is.
        self._last: WorkerHealth | None = None
        self._asked: float | None = None

    def start(self) -> None:
        """Ask now, and then every two seconds."""
        if self._asked is None:
            self._asked = self._loop.time()
            self._child.ask(HEALTH)
        else:
            self._unanswered(self._loop.time() - self._asked)
        self._timer = self._loop.call_later(self._interval, self.start)

    def answered(self, content: bytes) -> None:
        """Take an answer."""
        self._asked = None
        self._last = msgspec.json.decode(content, type=WorkerHealth)
        self._record(self._last)
        self._check(self._last.loop_delay_seconds)

    def _unanswered(self, seconds: float) -> None:
        if self._last is not None and seconds > LONGEST_SILENCE:
            why = f"its process has not answered for {seconds:.0f} s"
            self._record(replace(self._last, why=why, loop_delay_seconds=seconds))
        self._check(seconds)

    def _check(self, seconds: float) -> None:
        """Check whether the event loop has stood still for too long, twice in a row."""
        late = self._child.ready and seconds > self._hang_timeout
        if late and self._late and not self._reported:
            self._reported = True
            self._on_hung(seconds)
        self._late = late

    def _record(self, health: WorkerHealth) -> None:
        before, now = self._readiness.told(self.number, health)
        if now and not before:
            _LOGGER.warning("worker %d is not ready: %s", self.number, now)
        elif before and not now:
            _LOGGER.info("worker %d is ready again", self.number)

    def stop(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
