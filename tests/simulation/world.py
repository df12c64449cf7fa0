"""World: the virtual clock, and the order in which everything happens.

Whatever happens in a simulation is an event at a moment of virtual time: a turn of a
process's event loop, the arrival of bytes, the end of a blocked read, a fault. The
clock jumps from one event to the next, so nothing ever sleeps. Events of the same
moment happen in an order that the seed decides; nothing else does, apart from what
callers promise by different moments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

__all__ = ["Event", "Line", "World"]

# The wall clock at the beginning, in seconds: entry ids look as they do today.
_EPOCH: Final = 1_767_225_600.0
# A monotonic clock does not begin at zero, where `if not deadline` would hide errors.
_BOOT: Final = 1000.0
# Seconds that a look at a clock takes.
_LOOK: Final = 5e-8


class Event:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("_args", "_callback", "when")

    def __init__(
        self, when: float, callback: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        self.when = when
        self._callback: Callable[..., None] | None = callback
        self._args = args

    def cancel(self) -> None:
        """Let this event not happen."""
        self._callback = None
        self._args = ()

    def happen(self) -> bool:
        """Make it happen; return whether it had not been cancelled."""
        callback, args = self._callback, self._args
        if callback is None:
            return False
        self.cancel()
        callback(*args)
        return True


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a run's timeline.

    Attributes:
        at: Seconds since the run began.
        who: The process, connection or server that it is about.
        text: What happened.
    """

    at: float
    who: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:10.6f}  {self.who:<12} {self.text}"


class World:
    """Virtual time and everything that will happen in it.

    Args:
        seed: Decides everything that is not determined otherwise.

    Attributes:
        now: The moment of the event that is happening, in seconds.
        spent: Seconds that the turn of a loop which is happening has taken so far.
        chance: The source of all decisions of the world.
        timeline: What happened, for people.
        skew: Seconds that the wall clock is set forward.
    """

    def __init__(self, seed: int) -> None:
        self.now = _BOOT
        self.spent = 0.0
        self.skew = 0.0
        self.chance = Random(seed)
        self.timeline: list[Line] = []
        self._events: list[tuple[float, float, int, Event]] = []
        self._number = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def time(self) -> float:
        """Return the monotonic clock, without the time that looking at it takes."""
        return self.now + self.spent

    def monotonic(self) -> float:
        """Look at the monotonic clock.

        Looking takes some time. So a loop that waits for a moment without an await
        ends, as it does on a real machine.
        """
        self.spent += _LOOK
        return self.now + self.spent

    def wall(self) -> float:
        """Return the seconds since 1970."""
        return self.time() - _BOOT + _EPOCH + self.skew

    @property
    def elapsed(self) -> float:
        """The seconds since the run began."""
        return self.time() - _BOOT

    def at(self, when: float, callback: Callable[..., None], *args: Any) -> Event:
        """Make a call at a moment; at once if that has passed."""
        event = Event(max(when, self.time()), callback, args)
        self._number += 1
        tie = self.chance.random()
        heappush(self._events, (event.when, tie, self._number, event))
        return event

    def after(self, delay: float, callback: Callable[..., None], *args: Any) -> Event:
        """Make a call after a number of seconds."""
        return self.at(self.time() + delay, callback, *args)

    def run(self, done: Callable[[], bool], limit: float) -> bool:
        """Let things happen until `done` or a number of seconds have passed.

        Returns:
            Whether `done` was reached. It is not if nothing is left that could happen.
        """
        end = self.now + limit
        while not done():
            if not self._events or self._events[0][0] > end:
                self.now = max(self.now, end) if self._events else self.now
                return False
            when, _, _, event = heappop(self._events)
            self.now = max(self.now, when)
            event.happen()
            self.spent = 0.0
        return True

    def record(self, who: str, text: str) -> None:
        """Add a line to the timeline."""
        self.timeline.append(Line(self.elapsed, who, text))
        self.trace(who.encode(), text.encode("utf-8", "surrogateescape"))

    def trace(self, *parts: bytes) -> None:
        """Include bytes, and the moment, in what two equal runs have in common."""
        self._digest.update(b"%r" % self.time())
        for part in parts:
            self._digest.update(part)

    @property
    def fingerprint(self) -> str:
        """A digest of the whole run: equal for the same seed and the same code."""
        return self._digest.hexdigest()
