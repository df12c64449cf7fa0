"""What of an ownership is outstanding: a read, writes, handlers, the user's callbacks.

A shard is freed when nothing is.
"""

from __future__ import annotations

from enum import Enum

from penstock._core.ownership.actions import CallLost, CallRevoked

__all__ = ["Outstanding", "Told"]


class Told(Enum):
    """How far the user's callbacks of an ownership have come."""

    NOTHING = 1
    ASSIGNING = 2
    ASSIGNED = 3
    ENDING = 4
    ENDED = 5


class Outstanding:
    """What of an ownership is outstanding.

    Attributes:
        reading: Whether a read is in the air.
        claiming: Whether strays are claimed and recorded.
        writes: The number of writes without an answer.
        handlers_done: Whether no handler runs whose outcome counts, and every outcome
            has been sent. It says so only while the shard drains.
        told: How far the callbacks have come.
    """

    __slots__ = ("claiming", "handlers_done", "reading", "told", "writes")

    def __init__(self) -> None:
        self.reading = False
        self.claiming = False
        self.writes = 0
        self.handlers_done = False
        self.told = Told.NOTHING

    def ended_read(self, *, asked: bool) -> bool:
        """Record the end of a read, and return whether there was one."""
        was = self.reading and asked
        if was:
            self.reading = False
        return was

    @property
    def answered(self) -> bool:
        """Whether every handler is done, and all that was sent is answered."""
        return self.handlers_done and not self.reading and not self.writes

    @property
    def untold(self) -> bool:
        """Whether no callback is running or due."""
        return self.told in {Told.NOTHING, Told.ENDED}

    @property
    def may_come_back(self) -> bool:
        """Whether the ownership can go on after it began to drain."""
        return self.told in {Told.ASSIGNING, Told.ASSIGNED} and not self.handlers_done

    def end(self, call: CallLost | CallRevoked) -> list[CallLost | CallRevoked]:
        """Return the callback that ends the ownership, if its begin has been told."""
        if self.told is not Told.ASSIGNED:
            return []
        self.told = Told.ENDING
        return [call]
