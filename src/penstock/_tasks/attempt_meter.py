"""Meter of a consumer: counts and times its attempts, and counts its events.

It lives as long as the consumer object, over any number of openings. Attempts are
recorded only while it is `on`: that is when metrics were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from penstock import _clock
from penstock._core.ledger.counters import Counters
from penstock._core.ledger.entry import Entry, ShardState
from penstock._core.ledger.ledger import Ledger
from penstock._core.metrics.attempts import SHORT, AttemptTotals, Outcome, outcome_of
from penstock._tasks.event_counts import EventCounts

__all__ = ["LOOP", "SHORT", "AttemptMeter", "AttemptTimer"]

# Attempts that are recorded together. More would cost little less, and the age of a
# message is taken then.
_LONGEST_LAP: Final = 16

LOOP: Final = "loop"
"""The name that stands for a handler where users' own loops and calls have messages."""


class AttemptMeter:
    """Counts and times what becomes of a consumer's messages.

    Attributes:
        on: Whether attempts are recorded.
        attempts: The ended attempts, by stream and handler.
        events: The events that were reported.
        ledger: The ledger of the last opening; None before the first.
        given_back: Messages that were released on closing, for others.
        left: Messages that closing could neither acknowledge nor release.
    """

    def __init__(self) -> None:
        self.on = False
        self.attempts: dict[tuple[str, str], AttemptTotals] = {}
        self.events = EventCounts()
        self.ledger: Ledger | None = None
        self.given_back = self.left = 0
        # What was counted in the openings before the last one, by stream.
        self._former: dict[str, Counters] = {}
        # Returns the entries that loops and calls of the user have.
        self._held: Callable[[], Iterable[Entry]] = tuple
        # The timers of workers that exist.
        self._timers: dict[AttemptTimer, None] = {}

    def opened(self, ledger: Ledger, held: Callable[[], Iterable[Entry]]) -> None:
        """Record that the consumer opens.

        Args:
            ledger: Its ledger.
            held: Returns the entries that loops and calls of the user have.
        """
        self._former = self.counters()
        self.ledger, self._held = ledger, held

    def counters(self) -> dict[str, Counters]:
        """Return what has happened to the entries of each stream, in all openings."""
        parts = {stream: [counters] for stream, counters in self._former.items()}
        if self.ledger is not None:
            for stream, counters in list(self.ledger.shards.counters.items()):
                parts.setdefault(stream, []).append(counters)
        return {stream: Counters.total(each) for stream, each in parts.items()}

    def running(self) -> list[tuple[str, float]]:
        """Return the attempts under way: their stream, and when they began.

        A batch is one attempt here. Any thread may call it.
        """
        timers = [(timer.state, timer.began) for timer in list(self._timers)]
        held = [(each.shard_state, each.began_at) for each in self._held()]
        return [
            (state.shard.stream, began)
            for state, began in (*timers, *held)
            if state is not None and began
        ]

    def oldest_running(self) -> float | None:
        """Return how long the longest attempt under way has taken, in seconds.

        0 without one, and None if attempts are not recorded. Any thread may call it.
        """
        if not self.on:
            return None
        now = _clock.boottime()
        return max((now - began for _, began in self.running()), default=0.0)

    @contextmanager
    def timer(self, handler_of: Callable[[Any], str]) -> Iterator[AttemptTimer]:
        """Provide a timer for a worker.

        Args:
            handler_of: Returns the name of a message's handler.
        """
        timer = AttemptTimer(self, handler_of)
        self._timers[timer] = None
        try:
            yield timer
        finally:
            timer.pause(_clock.boottime())
            timer.flush()
            del self._timers[timer]

    def totals(self, stream: str, handler: str) -> AttemptTotals:
        """Return where attempts of a handler with messages of a stream are recorded."""
        key = stream, handler
        found = self.attempts.get(key)
        if found is None:
            found = self.attempts[key] = AttemptTotals()
        return found

    # -- loops and calls of the user -----------------------------------------------

    def handed_out(self, entries: Iterable[Entry]) -> None:
        """Record that a loop or a call of the user returns entries."""
        if self.on:
            now = _clock.boottime()
            for entry in entries:
                entry.began_at, entry.handler = now, LOOP

    def came_back(self, entries: Iterable[Entry], outcome: Outcome = "ok") -> None:
        """Record the end of attempts, before the ledger does.

        Args:
            entries: The entries; those that were handed out unrecorded are left out.
            outcome: The outcome of those whose user has recorded none.
        """
        now = _clock.boottime()
        for entry in entries:
            if entry.began_at:
                totals = self.totals(entry.shard.stream, LOOP)
                record(totals, entry, entry.began_at, now)
                if (real := outcome_of(entry, outcome)) != "ok":
                    totals.ended_otherwise(real)
                entry.began_at = 0.0


class AttemptTimer:
    """Times the attempts of one worker, one after the other.

    Most attempts are short, and each begins when the one before has ended. So the
    worker itself notes only the ids of short attempts, in `lap`. They are recorded
    together, some at a time, and at the latest when the worker has nothing to do.

    Args:
        meter: Where they are recorded.
        handler_of: Returns the name of a message's handler.

    Attributes:
        meter: The same.
        lap: The ids of attempts that are not recorded yet: handlers have returned, and
            all but the last one took no longer than `SHORT`.
        began: When the attempt under way began, or the last one of the lap, by the
            clock of leases; 0 while the worker waits for an entry or for its turn.
        state: The state of the shard of the lap's entries.
        varies: Whether messages have different handlers, by their types. Then there are
            no laps.
    """

    __slots__ = (
        "_handler_of",
        "_lap_began",
        "_repeated",
        "_spent",
        "_totals",
        "began",
        "lap",
        "meter",
        "state",
        "varies",
    )

    def __init__(self, meter: AttemptMeter, handler_of: Callable[[Any], str]) -> None:
        self.meter = meter
        self._handler_of = handler_of
        # Then it is a method.
        self.varies = hasattr(handler_of, "__self__")
        self.lap: list[bytes] = []
        # When the lap began or went on, and how long its attempts took before that.
        self.began = self._lap_began = self._spent = 0.0
        self.state: ShardState | None = None
        self._totals = AttemptTotals()
        # The ids of further attempts in the lap.
        self._repeated: set[bytes] = set()

    def begin(self, entry: Entry) -> None:
        """Record that a batch begins, if it is to be recorded."""
        if self.meter.on:
            self.began, self.state = _clock.boottime(), entry.shard_state

    def switch(self, entry: Entry, now: float) -> None:
        """Go on after a wait, a long attempt, or with another shard.

        Args:
            entry: The next entry. Further attempts come after a wait only.
            now: The time.
        """
        if self.lap and (self.began or entry.shard_state is not self.state):
            self._record_lap(now)
        self._lap_began = now
        if entry.deliveries > 1:
            self._repeated.add(entry.id)
        if entry.shard_state is not self.state:
            self.state = entry.shard_state
            if not self.varies:
                self._totals = self._find(entry, None)

    def pause(self, now: float) -> None:
        """Record that no attempt goes on: the worker waits for an entry or its turn.

        Args:
            now: When the last attempt ended.
        """
        if self.lap:
            if now - self.began > SHORT or len(self.lap) >= _LONGEST_LAP:
                self._record_lap(now)
            else:
                self._spent += now - self._lap_began
        self.began = 0.0

    def flush(self) -> None:
        """Record the lap of a worker that waits."""
        if self.lap:
            self._record_lap(_clock.boottime())

    def end(
        self, entries: Sequence[Entry], message: Any, outcome: Outcome = "ok"
    ) -> None:
        """Record the end of a handler's call, before the ledger does.

        Args:
            entries: The entries that it had.
            message: One of their messages.
            outcome: The outcome of those that have none yet.
        """
        if self.lap:
            self._record_lap(self.began)
        now = _clock.boottime()
        for entry in entries:
            totals = self._find(entry, message)
            record(totals, entry, self.began, now)
            if (real := outcome_of(entry, outcome)) != "ok":
                entry.handler = self._handler_of(message)
                totals.ended_otherwise(real)
        self._repeated.clear()
        self.began = self._lap_began = now

    def _record_lap(self, now: float) -> None:
        """Record the attempts of the lap, of which the last one has ended by now."""
        lap, totals = self.lap, self._totals
        seconds, number = totals.seconds, len(lap)
        if began := self.began:
            if now - began > SHORT:
                seconds.observe(now - began)
                now, number = began, number - 1
            self._spent += now - self._lap_began
        seconds.counts[0] += number
        seconds.total += self._spent
        self._spent = 0.0
        first = lap
        if self._repeated:
            first = [id_ for id_ in lap if id_ not in self._repeated]
            self._repeated.clear()
        if not totals.all_aged_as_before(first, now):
            wall = _clock.wall() - (_clock.boottime() - now)
            for id_ in first:
                totals.aged(id_, now, wall)
        lap.clear()

    def _find(self, entry: Entry, message: Any) -> AttemptTotals:
        return self.meter.totals(entry.shard.stream, self._handler_of(message))


def record(totals: AttemptTotals, entry: Entry, began: float, now: float) -> None:
    """Record how long an attempt took, and how old the message was at the first one."""
    totals.seconds.observe(now - began)
    if entry.deliveries == 1:
        totals.aged(entry.id, began, _clock.wall() - (now - began))
