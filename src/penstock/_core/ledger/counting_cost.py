"""Counting cost: whether this process has time to count starts on the server.

Counting costs a command a message. A consumer that is slow only because its processor
is busy must not count: it would become slower by that, stay below the rate above which
starts are not counted, and never catch up.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CountingCost"]

# The part of this process's time that counting may take up.
_SHARE: Final = 0.2
# How much one count says. A pause of the process says little about the next one.
_WEIGHT: Final = 0.1
_MOST: Final = 0.002
# Seconds after which a measured cost is half as likely to be the present one. So starts
# are tried to be counted again, also if nothing measures their cost meanwhile.
_HALF_LIFE: Final = 1.0


class CountingCost:
    """Knows what counting a start costs this process, apart from the round trip."""

    __slots__ = ("_at", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._at = 0.0

    def took(self, seconds: float, starts: int, now: float) -> None:
        """Record a count.

        Args:
            seconds: How long this process was busy with it.
            starts: How many starts were counted by it; not 0.
            now: The time.
        """
        each, known = min(seconds / starts, _MOST), self._present(now)
        self._seconds, self._at = known + (each - known) * _WEIGHT, now

    def is_affordable(self, rate: float, now: float) -> bool:
        """Return whether so many starts a second may be counted."""
        return rate * self._present(now) <= _SHARE

    def _present(self, now: float) -> float:
        return self._seconds * float(0.5 ** ((now - self._at) / _HALF_LIFE))
