"""The accumulator against lists."""

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

from penstock._core import commands
from penstock._core.accumulator import Accumulator, Sending
from penstock.message import Shard

SHARD = Shard("orders", 0, b"orders")


class AccumulatorMachine(RuleBasedStateMachine):
    """Adds, takes, answers and loses messages, which are numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.sizes: list[int] = []
        self.deadlines: list[float] = []
        # Numbers: waiting; in batches under way; and those that have left.
        self.waiting: list[int] = []
        self.flying: list[list[int]] = []
        self.left: list[int] = []

    @initialize(
        max_messages=st.integers(1, 30), max_bytes=st.sampled_from([1, 50, 10_000])
    )
    def open(self, *, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.accumulator = Accumulator[int](max_messages, max_bytes)

    @property
    def held(self) -> list[int]:
        return [*(n for batch in self.flying for n in batch), *self.waiting]

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
            sending = Sending(SHARD, command, size, self.number, deadline)
            self.sizes.append(size)
            self.deadlines.append(deadline)
            self.waiting.append(self.number)
            assert self.accumulator.add(sending) == len(self.waiting)
            self.number += 1

    @precondition(lambda self: self.waiting)
    @rule(limit=st.integers(1, 10))
    def batch(self, *, limit: int) -> None:
        taken = [sending.ticket for sending in self.accumulator.batch(limit)]
        assert taken == self.waiting[:limit]
        del self.waiting[:limit]
        self.flying.append(taken)

    @precondition(lambda self: self.flying)
    @rule()
    def answer(self) -> None:
        self._leave(self.accumulator.answered(), self.flying.pop(0))

    @precondition(lambda self: len(self.flying) > 2)
    @rule()
    def lose(self) -> None:
        lost = [number for batch in self.flying for number in batch]
        self.flying.clear()
        self._leave(self.accumulator.lost(), lost)

    @precondition(lambda self: len(self.waiting) > 6)
    @rule()
    def abandon(self) -> None:
        waiting, self.waiting = self.waiting, []
        self._leave(self.accumulator.abandon(), waiting)

    @precondition(lambda self: self.held)
    @rule(now=st.sampled_from([0.5, 1.0, 2.0, 3.0]))
    def pass_time(self, *, now: float) -> None:
        late = [n for n in self.waiting if self.deadlines[n] <= now]
        flying = [n for batch in self.flying for n in batch]
        unanswered = [n for n in flying if self.deadlines[n] <= now]
        self.waiting = [n for n in self.waiting if n not in late]
        unwritten, in_the_air = self.accumulator.overdue(now)
        assert [sending.ticket for sending in in_the_air] == unanswered
        for number in unanswered:
            self.deadlines[number] = inf
        self._leave(unwritten, late)

    def _leave(self, gone: list[Sending[int]], expected: list[int]) -> None:
        assert [sending.ticket for sending in gone] == expected
        self.left += expected

    @invariant()
    def every_message_is_held_or_has_left_exactly_once(self) -> None:
        assert sorted([*self.held, *self.left]) == list(range(self.number))

    @invariant()
    def the_earliest_deadline_is_the_earliest(self) -> None:
        deadlines = [self.deadlines[number] for number in self.held]
        assert self.accumulator.earliest() == min(deadlines, default=inf)

    @invariant()
    def counts_are_those_of_what_is_held(self) -> None:
        accumulator = self.accumulator
        assert accumulator.held == len(self.held)
        assert accumulator.size == self.size
        assert accumulator.queued == len(self.waiting)
        assert accumulator.in_flight == len(self.flying)
        assert accumulator.added == self.number
        assert accumulator.settled == len(self.left) <= accumulator.added

    @invariant()
    def the_bounds_hold_but_for_a_single_large_message(self) -> None:
        assert len(self.held) <= self.max_messages
        assert len(self.held) <= 1 or self.size <= self.max_bytes

    def teardown(self) -> None:
        while self.waiting:
            self.batch(limit=3)
        while self.flying:
            self.answer()
        self.counts_are_those_of_what_is_held()
        # Nobody waits for a flush that never ends.
        assert len(self.left) == self.number


TestAccumulator = AccumulatorMachine.TestCase
TestAccumulator.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
