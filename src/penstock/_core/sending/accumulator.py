"""The producer's bounded buffer.

What is sent waits here until the flusher takes it, then rides in a batch until the
reply says what became of it:

    QUEUED ── batch() ──> IN FLIGHT ── answered() / lost() ──> gone
       │                   ^    │ recall()                      ^
       │           batch() │    v                               │
       │                   AGAIN ── lost() / overdue() ─────────┤
       └────────── abandon() / overdue() ───────────────────────┘

AGAIN is what was written and has to be written once more, because no reply came or
because the server refused it for the moment: before anything newer, in the same
batches, so the order stays.

Everything counts against the bounds until it is gone, since its bytes are held till
then. Order is that of the calls: batches are taken from the front, and replies come
in the order of the writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from operator import attrgetter
from typing import Generic, TypeVar

from msgspec import Struct

from penstock._core.protocol.commands import Command
from penstock.message import Shard

__all__ = ["Accumulator", "Durability", "IdempotentRun", "SendBatch", "Sending"]

K = TypeVar("K")

_SIZE = attrgetter("size")
_DEADLINE = attrgetter("deadline")


class Durability(Struct, frozen=True):
    """Where else a message has to be before its sender is told that it is stored.

    Attributes:
        replicas: Replicas that have it.
        durable: Whether it is in the append-only files, the server's own included.
        limit: Seconds to the outcome at most, None without a limit. It is here to
            tell those apart that can wait for longer than others.
    """

    replicas: int
    durable: bool
    limit: float | None


class Sending(Struct, Generic[K], eq=False):
    """One message on its way.

    Attributes:
        shard: Where it goes.
        command: Its XADD.
        size: Its bytes, roughly as they go over the wire.
        ticket: Whoever waits for the outcome; not looked at here.
        deadline: When that wait is over, by the caller's clock.
        durability: What is asked for besides being stored.
        given_up: Whether its time was over when it had been written.
    """

    shard: Shard
    command: Command
    size: int
    ticket: K
    deadline: float = inf
    durability: Durability | None = None
    given_up: bool = False


class IdempotentRun(Struct, Generic[K], eq=False):
    """Messages of one batch for one shard, stored in one step or found to be there.

    Attributes:
        number: Tells a producer's runs apart; the same whenever it is written again.
        sendings: Its messages, in order.
    """

    number: int
    sendings: list[Sending[K]]


class SendBatch(list[Sending[K]]):
    """What goes out in one write.

    Attributes:
        runs: Its messages once more, by shard, where they are to be stored once.
        written: When it was first written, by the caller's clock.
    """

    __slots__ = ("runs", "written")

    def __init__(self, sendings: Iterable[Sending[K]] = ()) -> None:
        super().__init__(sendings)
        self.runs: list[IdempotentRun[K]] = []
        self.written = inf


class Accumulator(Generic[K]):
    """Holds messages until their outcome is known.

    Args:
        max_messages: Messages held at most.
        max_bytes: Bytes held at most; a single larger message is let in when
            nothing else is held.
        whole: Whether what is written again is written as it was, to the last
            message, also if nobody waits for some of them any more.
    """

    __slots__ = (
        "_again",
        "_batches",
        "_hurried",
        "_max_bytes",
        "_max_messages",
        "_queue",
        "_refused",
        "_whole",
        "added",
        "asks",
        "held",
        "settled",
        "size",
    )

    def __init__(
        self, max_messages: int, max_bytes: int, *, whole: bool = False
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._whole = whole
        # Waiting for the flusher, in the order of the calls.
        self._queue: deque[Sending[K]] = deque()
        # Written, without a reply yet, oldest first.
        self._batches: deque[SendBatch[K]] = deque()
        # To be written again, oldest first; newer than what is in flight.
        self._again: deque[SendBatch[K]] = deque()
        # The same, but older than what is in flight.
        self._refused: deque[SendBatch[K]] = deque()
        # Whether any message ever asked for more than to be stored.
        self.asks = False
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
        return len(self._queue) + (sum(map(len, self._again)) if self._again else 0)

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
    def refused(self) -> bool:
        """Whether something was refused for the moment, and keeps the rest waiting."""
        return bool(self._refused)

    @property
    def oldest(self) -> SendBatch[K] | None:
        """The oldest batch that was written and whose outcome is not known."""
        for batches in (self._refused, self._batches, self._again):
            if batches:
                return batches[0]
        return None

    @property
    def urgent(self) -> bool:
        """Whether something waits that is not to linger."""
        return bool(self._again) or self.added - len(self._queue) < self._hurried

    def hurry(self) -> None:
        """Have what waits now linger no more."""
        self._hurried = self.added

    def batch(self, limit: int) -> SendBatch[K]:
        """Take up to `limit` messages from the front; they are in flight now.

        What has to be written again comes first, in the batches that it was in.
        """
        queue = self._queue
        if self._again:
            batch = self._again.popleft()
        elif len(queue) <= limit:
            batch = SendBatch(queue)
            queue.clear()
        else:
            batch = SendBatch(queue.popleft() for _ in range(limit))
        self._batches.append(batch)
        return batch

    def answered(self, again: SendBatch[K] | None = None) -> SendBatch[K]:
        """Take the oldest batch out: its replies have come.

        Args:
            again: Messages of it that the server refused for the moment: they stay,
                to be recalled when nothing is in flight any more.
        """
        batch = self._batches.popleft()
        if again is None:
            self._leave(batch)
            return batch
        kept = set(map(id, again))
        self._leave([sending for sending in batch if id(sending) not in kept])
        again.written = batch.written
        self._refused.append(again)
        return batch

    def recall(self) -> int:
        """Have what was written and has no outcome written again, in its order.

        Those whose time is over are not, and leave.

        Returns:
            How many messages are written again that were refused or in flight.
        """
        again = [*self._refused, *self._batches]
        self._refused.clear()
        self._batches.clear()
        self._again.extendleft(reversed(again))
        self._forget_given_up()
        return sum(1 for batch in again for one in batch if not one.given_up)

    def expired(self, since: float) -> list[Sending[K]]:
        """Take out what waits to be written again and was first written before that."""
        old = [batch for batch in self._again if batch.written < since]
        self._again = deque(batch for batch in self._again if batch.written >= since)
        gone = [sending for batch in old for sending in batch]
        self._leave(gone)
        return [sending for sending in gone if not sending.given_up]

    def lost(self) -> list[Sending[K]]:
        """Take out all that was written and will never be answered.

        Gives those whose time was not over before.
        """
        batches = [*self._refused, *self._batches, *self._again]
        for one in (self._refused, self._batches, self._again):
            one.clear()
        gone = [sending for batch in batches for sending in batch]
        self._leave(gone)
        return [sending for sending in gone if not sending.given_up]

    def abandon(self) -> list[Sending[K]]:
        """Take out all that waits: it will not be written any more."""
        batch = list(self._queue)
        self._queue.clear()
        self._leave(batch)
        return batch

    def overdue(self, now: float) -> tuple[list[Sending[K]], list[Sending[K]]]:
        """Find those whose deadline has passed: never written, and written.

        The former are taken out. The latter are found once; those in flight are held
        until their reply is counted off.
        """
        if self.earliest() > now:
            return [], []
        unwritten = [one for one in self._queue if one.deadline <= now]
        if unwritten:
            self._queue = deque(one for one in self._queue if one.deadline > now)
            self._leave(unwritten)
        written = [one for batch in self._written() for one in batch]
        written = [one for one in written if one.deadline <= now]
        for sending in written:
            sending.deadline = inf
            sending.given_up = True
        self._forget_given_up()
        return unwritten, written

    def earliest(self) -> float:
        """Give the earliest deadline there is."""
        deadlines = [min(map(_DEADLINE, self._queue), default=inf)]
        deadlines += [min(map(_DEADLINE, batch)) for batch in self._written()]
        return min(deadlines)

    def _written(self) -> list[SendBatch[K]]:
        return [*self._refused, *self._batches, *self._again]

    def _forget_given_up(self) -> None:
        """Drop what is not to be written again: nobody waits for it any more."""
        kept: deque[SendBatch[K]] = deque()
        for batch in self._again:
            gone = [sending for sending in batch if sending.given_up]
            if len(gone) == len(batch):
                self._leave(gone)
            elif self._whole or not gone:
                kept.append(batch)
            else:
                self._leave(gone)
                batch[:] = [sending for sending in batch if not sending.given_up]
                kept.append(batch)
        self._again = kept

    def _leave(self, batch: Sequence[Sending[K]]) -> None:
        self.held -= len(batch)
        self.size -= sum(map(_SIZE, batch))
        self.settled += len(batch)
