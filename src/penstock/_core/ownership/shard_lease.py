"""The lease of a shard by its member's clock, and when to begin it anew."""

from __future__ import annotations

from typing import Final

__all__ = ["KEEP_AFTER", "ShardLease"]

KEEP_AFTER: Final = 0.2
"""The part of a lease after which it is begun anew."""


class ShardLease:
    """A lease, which begins when the command was sent that began it on the server.

    Args:
        length: Its length in seconds.
        now: When it begins.

    Attributes:
        until: When it ends.
    """

    __slots__ = ("_asked_at", "_began_at", "_length", "_waiting", "until")

    def __init__(self, length: float, now: float) -> None:
        self._length = length
        self._waiting = False
        self._asked_at = now
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began_at = now
        self.until = now + self._length

    @property
    def latest_end(self) -> float:
        """When it ends at the latest on the server, if nothing more is sent.

        A KEEP whose reply was lost may have begun it anew.
        """
        return self._asked_at + self._length

    def due_at(self) -> float:
        """Return when to send KEEP next; never while one is unanswered."""
        if self._waiting:
            return float("inf")
        return self._began_at + self._length * KEEP_AFTER

    def sent(self, now: float) -> None:
        """KEEP was sent."""
        self._waiting = True
        self._asked_at = now

    def answered(self) -> None:
        """KEEP was answered."""
        if self._waiting:
            self._waiting = False
            self._begin(self._asked_at)

    def lost(self) -> None:
        """The reply of KEEP was lost."""
        self._waiting = False
