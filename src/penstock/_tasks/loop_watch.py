"""Loop watch: measures how late an event loop is, also while it stands still."""

from __future__ import annotations

import asyncio
from typing import Final

from penstock import _clock

__all__ = ["LoopWatch"]

_INTERVAL: Final = 1.0  # seconds of the timer


class LoopWatch:
    """A timer of one second, whose delay any thread may ask for."""

    def __init__(self) -> None:
        # When the timer is due, by the monotonic clock; None while it is stopped.
        self._due: float | None = None
        # By how many seconds the last one was late, and the latest one since `worst`.
        self._last = self._worst = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the timer in the running event loop."""
        loop = asyncio.get_running_loop()
        self._due = _clock.monotonic() + _INTERVAL
        self._timer = loop.call_later(_INTERVAL, self._turned)

    def _turned(self) -> None:
        if self._due is not None:
            self._last = max(0.0, _clock.monotonic() - self._due)
            self._worst = max(self._worst, self._last)
            self.start()

    def stop(self) -> None:
        """Stop the timer; from now on nothing is late."""
        self._due, self._last, self._worst = None, 0.0, 0.0
        if self._timer is not None:
            self._timer.cancel()

    @property
    def late(self) -> float:
        """The seconds for which the timer is overdue; 0 if it is not."""
        due = self._due
        return 0.0 if due is None else max(0.0, _clock.monotonic() - due)

    @property
    def delay(self) -> float:
        """The seconds of the present delay, or else of the last one."""
        return max(self.late, self._last)

    def worst(self) -> float:
        """Return the longest delay since the last call, the present one included."""
        worst, self._worst = self._worst, 0.0
        return max(self.late, worst)
