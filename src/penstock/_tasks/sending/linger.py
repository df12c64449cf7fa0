"""Linger: how long a batch that is not full waits for more messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Linger"]


class Linger:
    """The wait of a batch; it ends after some seconds, or when it is not due.

    Args:
        seconds: How long a batch waits.
        on_end: Called when a batch has waited that long.
    """

    def __init__(self, seconds: float, on_end: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_end = on_end
        # Runs while a batch waits for more messages.
        self._timer: asyncio.TimerHandle | None = None
        self._waited = False

    def goes_on(self, *, due: bool) -> bool:
        """Return whether to wait for more messages; a timer ends the wait.

        Args:
            due: Whether the batch is to be written at once.
        """
        if due or self._waited:
            self.stop()
            return False
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds, self._end)
        return True

    def _end(self) -> None:
        self._waited = True
        self._on_end()

    def stop(self) -> None:
        """End the wait."""
        self._waited = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
