"""The producer's bounded buffer.

What is sent waits here until the flusher takes it, then rides in a batch until the
reply says what became of it:

    QUEUED ── batch() ──> IN FLIGHT ── answered() / lost() ──> gone
       └────────── abandon() / overdue() ───────────────────────^

Everything counts against the bounds until it is gone, since its bytes are held till
then. Order is that of the calls: batches are taken from the front, and replies come
in the order of the writes.
"""

from __future__ import annotations

from collections import deque
from math import inf
from operator import attrgetter
from typing import Generic, TypeVar

from msgspec import Struct

from penstock._core.commands import Command
from penstock.message import Shard

__all__ = ["Accumulator", "Sending"]

K = TypeVar("K")

_SIZE = attrgetter("size")
_DEADLINE = attrgetter("deadline")


class Sending(Struct, Generic[K], eq=False):
    """One message on its way.

    Attributes:
        shard: Where it goes.
        command: Its XADD.
        size: Its bytes, roughly as they go over the wire.
        ticket: Whoever waits for the outcome; not looked at here.
        deadline: When that wait is over, by the caller's clock.
    """

    shard: Shard
    command: Command
    size: int
    ticket: K
    deadline: float = inf


class Accumulator(Generic[K]):
    """Holds messages until their outcome is known.

    Args:
        max_messages: Messages held at most.
        max_bytes: Bytes held at most; a single larger message is let in when
            nothing else is held.
    """

    __slots__ = (
        "_batches",
        "_hurried",
        "_max_bytes",
        "_max_messages",
        "_queue",
        "added",
        "held",
        "settled",
        "size",
    )

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        # Waiting for the flusher, in the order of the calls.
        self._queue: deque[Sending[K]] = deque()
        # Written, without a reply yet, oldest first.
        self._batches: deque[list[Sending[K]]] = deque()
        # How many had been added when somebody was in a hurry.
        self._hurried = 0
        self.held = 0
        self.size = 0
        # Totals since the start; a flush waits until `settled` reaches `added`.
        self.added = 0
        self.settled = 0

    @property
    def queued(self) -> int:
        """Messages that wait for the flusher."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Batches that are written and not answered."""
        return len(self._batches)

    def fits(self, size: int) -> bool:
        """Tell whether a message of that size may be added now."""
        return not self.held or (
            self.held < self._max_messages and self.size + size <= self._max_bytes
        )

    def add(self, sending: Sending[K]) -> int:
        """Put a message at the end, and give how many wait then.

        The caller made sure that it fits.
        """
        queue = self._queue
        queue.append(sending)
        self.held += 1
        self.size += sending.size
        self.added += 1
        return len(queue)

    @property
    def urgent(self) -> bool:
        """Whether something waits that is not to linger."""
        return self.added - len(self._queue) < self._hurried

    def hurry(self) -> None:
        """Have what waits now linger no more."""
        self._hurried = self.added

    def batch(self, limit: int) -> list[Sending[K]]:
        """Take up to `limit` messages from the front; they are in flight now."""
        queue = self._queue
        if len(queue) <= limit:
            batch = list(queue)
            queue.clear()
        else:
            batch = [queue.popleft() for _ in range(limit)]
        self._batches.append(batch)
        return batch

    def answered(self) -> list[Sending[K]]:
        """Take the oldest batch out: its replies have come."""
        batch = self._batches.popleft()
        self._leave(batch)
        return batch

    def lost(self) -> list[Sending[K]]:
        """Take out all that is in flight: its replies will never come."""
        batch = [sending for batch in self._batches for sending in batch]
        self._batches.clear()
        self._leave(batch)
        return batch

    def abandon(self) -> list[Sending[K]]:
        """Take out all that waits: it will not be written any more."""
        batch = list(self._queue)
        self._queue.clear()
        self._leave(batch)
        return batch

    def overdue(self, now: float) -> tuple[list[Sending[K]], list[Sending[K]]]:
        """Find those whose deadline has passed: never written, and in flight.

        The former are taken out; the latter are held until their reply is counted
        off, and are found once.
        """
        if self.earliest() > now:
            return [], []
        unwritten = [one for one in self._queue if one.deadline <= now]
        if unwritten:
            self._queue = deque(one for one in self._queue if one.deadline > now)
            self._leave(unwritten)
        flying = [one for batch in self._batches for one in batch]
        flying = [one for one in flying if one.deadline <= now]
        for sending in flying:
            sending.deadline = inf
        return unwritten, flying

    def earliest(self) -> float:
        """Give the earliest deadline there is."""
        deadlines = [min(map(_DEADLINE, self._queue), default=inf)]
        deadlines += [min(map(_DEADLINE, batch)) for batch in self._batches]
        return min(deadlines)

    def _leave(self, batch: list[Sending[K]]) -> None:
        self.held -= len(batch)
        self.size -= sum(map(_SIZE, batch))
        self.settled += len(batch)
