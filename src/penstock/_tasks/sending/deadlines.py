"""Many deadlines, one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

__all__ = ["Deadlines"]

# Seconds between two looks at least: a look goes through all that is held.
_MIN_INTERVAL: Final = 0.01


class Deadlines:
    """Calls back when the earliest deadline has passed, up to 10 ms later.

    What is done in time costs nothing, since deadlines are not kept here: whoever is
    called back knows them.

    Args:
        loop: The running loop.
        expire: Given the time, deals with what is over and gives the next deadline.
    """

    __slots__ = ("_expire", "_loop", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, expire: Callable[[float], float]
    ) -> None:
        self._loop = loop
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Look when that has passed, if not before."""
        if self._timer is None or deadline < self._timer.when():
            self.stop()
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        following = self._expire(now)
        if following < inf:
            # Whoever was told of something meanwhile may have set it again.
            self.watch(max(following, now + _MIN_INTERVAL))
