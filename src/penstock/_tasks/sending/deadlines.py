"""Deadlines: one timer for any number of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

__all__ = ["Deadlines"]

# The least seconds between two checks: a check goes through all held messages.
_MIN_INTERVAL: Final = 0.01


class Deadlines:
    """Calls back when the earliest deadline has passed, up to 10 ms later.

    A message that is sent in time costs nothing, since the deadlines are not kept here:
    the callback knows them.

    Args:
        loop: The running loop.
        expire: Called with the time; handles what is overdue and returns the next
            deadline.
    """

    __slots__ = ("_expire", "_loop", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, expire: Callable[[float], float]
    ) -> None:
        self._loop = loop
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Call back when this deadline has passed, or earlier."""
        if self._timer is None or deadline < self._timer.when():
            self.stop()
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        following = self._expire(now)
        if following < inf:
            # The callbacks may have set the timer already.
            self.watch(max(following, now + _MIN_INTERVAL))
