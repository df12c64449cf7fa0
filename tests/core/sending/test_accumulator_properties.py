"""Comparison of the accumulator with a model of lists."""

from __future__ import annotations

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from penstock._core.protocol import commands
from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.requests import SendBatch, SendRequest
from penstock.message import Shard

SHARD = Shard("orders", 0, b"orders")


class AccumulatorMachine(RuleBasedStateMachine):
    """Adds, takes, answers and loses numbered messages."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.sizes: list[int] = []
        self.deadlines: list[float] = []
        # Numbers of messages that wait, are in batches in flight, and have left.
        self.waiting: list[int] = []
        self.in_flight: list[list[int]] = []
        # Batches to be written again: refused, and after a recall.
        self.refused: list[list[int]] = []
        self.to_rewrite: list[list[int]] = []
        self.given_up: set[int] = set()
        self.left: list[int] = []

    @initialize(
        max_messages=st.integers(1, 30),
        max_bytes=st.sampled_from([1, 50, 10_000]),
        whole=st.booleans(),
    )
    def open(self, *, max_messages: int, max_bytes: int, whole: bool) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.whole = whole
        self.accumulator = Accumulator[int](max_messages, max_bytes, whole=whole)

    @property
    def held(self) -> list[int]:
        written = [*self.refused, *self.in_flight, *self.to_rewrite]
        return [*(n for batch in written for n in batch), *self.waiting]

    @property
    def size(self) -> int:
        return sum(self.sizes[number] for number in self.held)

    @rule(
        sizes=st.lists(st.integers(0, 60), max_size=5),
        deadline=st.sampled_from([1.0, 2.0, 3.0, inf]),
    )
    def add_what_fits(self, *, sizes: list[int], deadline: float) -> None:
        for size in sizes:
            self._add_if_it_fits(size, deadline)

    def _add_if_it_fits(self, size: int, deadline: float) -> None:
        fits = self.accumulator.fits(size)
        assert fits == (
            not self.held
            or (
                len(self.held) + 1 <= self.max_messages
                and self.size + size <= self.max_bytes
            )
        )
        if fits:
            command = commands.xadd(b"orders", (b"msg", b""))
            request = SendRequest(SHARD, command, size, self.number, deadline)
            self.sizes.append(size)
            self.deadlines.append(deadline)
            self.waiting.append(self.number)
            assert self.accumulator.add(request) == len(self.waiting)
            self.number += 1

    @precondition(lambda self: (self.waiting or self.to_rewrite) and not self.refused)
    @rule(limit=st.integers(1, 10), now=st.sampled_from([1.0, 2.0, 3.0]))
    def batch(self, *, limit: int, now: float) -> None:
        batch = self.accumulator.batch(limit)
        batch.written = min(batch.written, now)
        taken = [request.ticket for request in batch]
        if self.to_rewrite:
            assert taken == self.to_rewrite.pop(0)
        else:
            assert taken == self.waiting[:limit]
            del self.waiting[:limit]
        self.in_flight.append(taken)

    @precondition(lambda self: self.in_flight)
    @rule()
    def answer(self) -> None:
        self._leave(self.accumulator.answered(), self.in_flight.pop(0))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def refuse_some(self, *, data: st.DataObject) -> None:
        batch = self.in_flight.pop(0)
        kept = data.draw(st.lists(st.sampled_from(batch), unique=True, min_size=1))
        oldest = self.accumulator._batches[0]
        to_rewrite = SendBatch([one for one in oldest if one.ticket in kept])
        answered = self.accumulator.answered(to_rewrite)
        assert [one.ticket for one in answered] == batch
        self.refused.append([number for number in batch if number in kept])
        self.left += [number for number in batch if number not in kept]

    @rule()
    def recall(self) -> None:
        to_rewrite = [*self.refused, *self.in_flight]
        self.to_rewrite[:0] = to_rewrite
        self.refused, self.in_flight = [], []
        written = [n for batch in to_rewrite for n in batch if n not in self.given_up]
        assert self.accumulator.recall() == len(written)
        self._remove_given_up()

    def _remove_given_up(self) -> None:
        kept = []
        for batch in self.to_rewrite:
            wanted = [number for number in batch if number not in self.given_up]
            stays = batch if self.whole and wanted else wanted
            self.left += [number for number in batch if number not in stays]
            kept.append(stays)
        self.to_rewrite = [batch for batch in kept if batch]

    @precondition(lambda self: self.to_rewrite)
    @rule(since=st.sampled_from([1.5, 2.5]))
    def expire(self, *, since: float) -> None:
        written = [batch.written for batch in self.accumulator._to_resend]
        pairs = list(zip(self.to_rewrite, written, strict=True))
        self.to_rewrite = [batch for batch, when in pairs if when >= since]
        removed = [n for batch, when in pairs if when < since for n in batch]
        self._check_reported(self.accumulator.expired(since), removed)

    @precondition(lambda self: len(self.in_flight) > 2 or len(self.to_rewrite) > 1)
    @rule()
    def lose(self) -> None:
        written = [*self.refused, *self.in_flight, *self.to_rewrite]
        self.refused, self.in_flight, self.to_rewrite = [], [], []
        removed = [number for batch in written for number in batch]
        self._check_reported(self.accumulator.lost(), removed)

    def _check_reported(
        self, reported: list[SendRequest[int]], removed: list[int]
    ) -> None:
        expected = [number for number in removed if number not in self.given_up]
        assert [request.ticket for request in reported] == expected
        self.left += removed

    @precondition(lambda self: len(self.waiting) > 6)
    @rule()
    def abandon(self) -> None:
        waiting, self.waiting = self.waiting, []
        self._leave(self.accumulator.abandon(), waiting)

    @precondition(lambda self: self.held)
    @rule(now=st.sampled_from([0.5, 1.0, 2.0, 3.0]))
    def pass_time(self, *, now: float) -> None:
        late = [n for n in self.waiting if self.deadlines[n] <= now]
        written = [*self.refused, *self.in_flight, *self.to_rewrite]
        in_flight = [n for batch in written for n in batch]
        unanswered = [n for n in in_flight if self.deadlines[n] <= now]
        self.waiting = [n for n in self.waiting if n not in late]
        unwritten, unanswered_requests = self.accumulator.overdue(now)
        assert [request.ticket for request in unanswered_requests] == unanswered
        for number in unanswered:
            self.deadlines[number] = inf
            self.given_up.add(number)
        if late or unanswered:
            self._remove_given_up()
        self._leave(unwritten, late)

    def _leave(self, removed: list[SendRequest[int]], expected: list[int]) -> None:
        assert [request.ticket for request in removed] == expected
        self.left += expected

    @invariant()
    def every_message_is_held_or_has_left_exactly_once(self) -> None:
        assert sorted([*self.held, *self.left]) == list(range(self.number))

    @invariant()
    def the_oldest_batch_was_written_first(self) -> None:
        oldest = self.accumulator.oldest
        written = [*self.refused, *self.in_flight, *self.to_rewrite]
        first = [one.ticket for one in oldest] if oldest is not None else None
        assert first == (written[0] if written else None)
        # Numbers are in the order of the calls.
        assert self.held == sorted(self.held)

    @invariant()
    def the_earliest_deadline_is_the_earliest(self) -> None:
        deadlines = [self.deadlines[number] for number in self.held]
        assert self.accumulator.earliest() == min(deadlines, default=inf)

    @invariant()
    def counts_are_those_of_the_held_messages(self) -> None:
        accumulator = self.accumulator
        assert accumulator.held == len(self.held)
        assert accumulator.size == self.size
        to_rewrite = sum(map(len, self.to_rewrite))
        assert accumulator.queued == len(self.waiting) + to_rewrite
        assert accumulator.in_flight == len(self.in_flight)
        assert accumulator.refused == bool(self.refused)
        assert accumulator.added == self.number
        assert accumulator.settled == len(self.left) <= accumulator.added

    @invariant()
    def the_bounds_hold_except_for_a_single_large_message(self) -> None:
        assert len(self.held) <= self.max_messages
        assert len(self.held) <= 1 or self.size <= self.max_bytes

    def teardown(self) -> None:
        self.recall()
        while self.waiting or self.to_rewrite:
            self.batch(limit=3, now=1.0)
        while self.in_flight:
            self.answer()
        self.counts_are_those_of_the_held_messages()
        # Every message has left, so that every flush ends.
        assert len(self.left) == self.number


TestAccumulator = AccumulatorMachine.TestCase
TestAccumulator.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
