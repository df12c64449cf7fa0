"""Accumulator: the producer's bounded buffer.

A message waits here until the flusher takes it. Then it is part of a batch until the
reply decides its outcome:

    QUEUED ── batch() ──> IN FLIGHT ── answered() / lost() ──> gone
       │                   ^    │ recall()                      ^
       │           batch() │    v                               │
       │                   AGAIN ── lost() / overdue() ─────────┤
       └────────── abandon() / overdue() ───────────────────────┘

AGAIN means that a message was written and has to be written once more, because no reply
came or because the server refused it for the moment. It is written before all newer
messages and in the same batches as before, so the order is kept.

Every message counts against the bounds until it is gone, since its bytes are held until
then. The order is that of the calls: batches are taken from the front, and replies come
in the order of the writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from operator import attrgetter
from typing import Generic, TypeVar

from penstock._core.sending.requests import SUSPECT, SendBatch, SendRequest
from penstock._core.sending.resend_queue import ResendQueue

__all__ = ["Accumulator"]

K = TypeVar("K")

_SIZE = attrgetter("size")
_DEADLINE = attrgetter("deadline")


class Accumulator(Generic[K]):
    """Holds messages until their outcome is known.

    Args:
        max_messages: The most messages that are held.
        max_bytes: The most bytes that are held; a single larger message is accepted
            when no other is held.
        whole: Whether a batch that is written again has all its messages, even if
            nobody waits for some of them any more.
    """

    __slots__ = (
        "_batches",
        "_hurried",
        "_keep_whole",
        "_max_bytes",
        "_max_messages",
        "_queue",
        "_refused",
        "_to_resend",
        "added",
        "held",
        "needs_durability",
        "settled",
        "size",
    )

    def __init__(
        self, max_messages: int, max_bytes: int, *, whole: bool = False
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._keep_whole = whole
        # Messages that wait for the flusher, in the order of the calls.
        self._queue: deque[SendRequest[K]] = deque()
        # Batches that are written and have no reply yet, oldest first.
        self._batches: deque[SendBatch[K]] = deque()
        # Batches to be written again, oldest first; newer than those in flight.
        self._to_resend: ResendQueue[K] = ResendQueue()
        # Batches to be written again, older than those in flight.
        self._refused: deque[SendBatch[K]] = deque()
        # Whether any message ever asked for more than to be stored.
        self.needs_durability = False
        # The number of messages that had been added at the last `hurry`.
        self._hurried = 0
        self.held = 0
        self.size = 0
        # Totals since the start. A flush waits until `settled` reaches `added`.
        self.added = 0
        self.settled = 0

    @property
    def queued(self) -> int:
        """The number of messages that wait for the flusher."""
        return len(self._queue) + (
            sum(map(len, self._to_resend)) if self._to_resend else 0
        )

    @property
    def in_flight(self) -> int:
        """The number of batches that are written and not answered."""
        return len(self._batches)

    def fits(self, size: int) -> bool:
        """Return whether a message of this size may be added now."""
        return not self.held or (
            self.held < self._max_messages and self.size + size <= self._max_bytes
        )

    def add(self, request: SendRequest[K]) -> int:
        """Add a message at the end and return how many wait for their first write.

        The caller has made sure that the message fits.
        """
        queue = self._queue
        queue.append(request)
        self.held += 1
        self.size += request.size
        self.added += 1
        return len(queue)

    @property
    def refused(self) -> bool:
        """Whether a refused batch is kept, and all other messages wait for it."""
        return bool(self._refused)

    @property
    def oldest(self) -> SendBatch[K] | None:
        """The oldest batch that was written and whose outcome is not known."""
        for batches in (self._refused, self._batches, self._to_resend):
            if batches:
                return batches[0]
        return None

    @property
    def suspect(self) -> SendBatch[K] | None:
        """The oldest batch in flight, at which the connection ended if it has."""
        return self._batches[0] if self._batches else None

    @property
    def alone(self) -> bool:
        """Whether the oldest batch must be the only one in flight."""
        oldest = self.oldest
        return oldest is not None and oldest.losses >= SUSPECT

    def written(self) -> list[SendBatch[K]]:
        """Return the batches that were written and have no outcome, oldest first."""
        return [*self._refused, *self._batches, *self._to_resend]

    @property
    def urgent(self) -> bool:
        """Whether a waiting message must not linger."""
        return bool(self._to_resend) or self.added - len(self._queue) < self._hurried

    def hurry(self) -> None:
        """Record that the messages that wait now must not linger any more."""
        self._hurried = self.added

    def batch(self, limit: int) -> SendBatch[K]:
        """Remove up to `limit` messages from the front and return them, now in flight.

        Batches to be written again come first, each with the messages that it had.
        """
        queue = self._queue
        if self._to_resend:
            batch = self._to_resend.popleft()
        elif len(queue) <= limit:
            batch = SendBatch(queue)
            queue.clear()
        else:
            batch = SendBatch(queue.popleft() for _ in range(limit))
        self._batches.append(batch)
        return batch

    def answered(self, again: SendBatch[K] | None = None) -> SendBatch[K]:
        """Remove the oldest batch, whose replies have come, and return it.

        Args:
            again: Messages of the batch that the server refused for the moment. They
                stay, and are recalled when no batch is in flight any more.
        """
        batch = self._batches.popleft()
        if again is None:
            self._leave(batch)
            return batch
        kept = set(map(id, again))
        self._leave([request for request in batch if id(request) not in kept])
        again.written = batch.written
        self._refused.append(again)
        return batch

    def recall(self) -> int:
        """Queue all written messages without an outcome again, in their order.

        Messages that nobody waits for any more are removed, unless their batch has to
        stay whole.

        Returns:
            The number of messages that were refused or in flight and are written again.
        """
        again = [*self._refused, *self._batches]
        for batch in self._batches:
            for request in batch:
                request.unanswered = True
        self._refused.clear()
        self._batches.clear()
        self._to_resend.extendleft(reversed(again))
        self._forget_given_up()
        return sum(1 for batch in again for one in batch if not one.given_up)

    def divide(self, batch: SendBatch[K]) -> None:
        """Replace a batch to be written again by batches of one message each."""
        self._to_resend.divide(batch)

    def cancelled(self, unstored: Sequence[SendRequest[K]]) -> SendBatch[K]:
        """Remove the oldest batch, whose runs were cancelled, and return it.

        Args:
            unstored: Its messages that are not stored, and will not be by any earlier
                write. They are written one by one, before all others.
        """
        batch = self._batches.popleft()
        ids = set(map(id, unstored))
        self._leave([request for request in batch if id(request) not in ids])
        for request in unstored:
            request.unanswered = False
        self._to_resend.put_first(unstored)
        self._forget_given_up()
        return batch

    def give_up(self, batch: SendBatch[K]) -> list[SendRequest[K]]:
        """Remove a batch to be written again.

        Returns:
            Its messages, without those whose deadline had passed before.
        """
        if not self._to_resend.take(batch):
            return []
        self._leave(batch)
        return [request for request in batch if not request.given_up]

    def expired(self, since: float) -> list[SendRequest[K]]:
        """Remove batches to be written again that were first written before a time.

        Returns:
            Their messages, without those whose deadline had passed before.
        """
        gone = self._to_resend.take_older(since)
        self._leave(gone)
        return [request for request in gone if not request.given_up]

    def lost(self) -> list[SendRequest[K]]:
        """Remove all messages that were written and will never be answered.

        Returns:
            The messages, without those whose deadline had passed before.
        """
        batches = [*self._refused, *self._batches, *self._to_resend]
        for one in (self._refused, self._batches, self._to_resend):
            one.clear()
        gone = [request for batch in batches for request in batch]
        self._leave(gone)
        return [request for request in gone if not request.given_up]

    def withdraw(self, stream: str) -> list[SendRequest[K]]:
        """Remove the messages of a stream that were never written, and return them."""
        gone = [one for one in self._queue if one.shard.stream == stream]
        if gone:
            self._queue = deque(
                one for one in self._queue if one.shard.stream != stream
            )
            self._leave(gone)
        return gone

    def abandon(self) -> list[SendRequest[K]]:
        """Remove all messages that were never written, and return them."""
        batch = list(self._queue)
        self._queue.clear()
        self._leave(batch)
        return batch

    def overdue(self, now: float) -> tuple[list[SendRequest[K]], list[SendRequest[K]]]:
        """Return the messages whose deadline has passed: unwritten and written ones.

        The former are removed. The latter are returned only once, and those in flight
        are held until their reply is recorded.
        """
        if self.earliest() > now:
            return [], []
        unwritten = [one for one in self._queue if one.deadline <= now]
        if unwritten:
            self._queue = deque(one for one in self._queue if one.deadline > now)
            self._leave(unwritten)
        written = [one for batch in self.written() for one in batch]
        written = [one for one in written if one.deadline <= now]
        for request in written:
            request.deadline = inf
            request.given_up = True
        self._forget_given_up()
        return unwritten, written

    def earliest(self) -> float:
        """Return the earliest deadline of all messages."""
        deadlines = [min(map(_DEADLINE, self._queue), default=inf)]
        deadlines += [min(map(_DEADLINE, batch)) for batch in self.written()]
        return min(deadlines)

    def _forget_given_up(self) -> None:
        """Remove messages that nobody waits for from the batches to be written again.

        Batches that have to stay whole keep them, as long as anybody waits for one.
        """
        self._leave(self._to_resend.take_given_up(whole=self._keep_whole))

    def _leave(self, batch: Sequence[SendRequest[K]]) -> None:
        self.held -= len(batch)
        self.size -= sum(map(_SIZE, batch))
        self.settled += len(batch)
