"""The timer of a worker: whatever it records together, it records each attempt once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import _clock
from penstock._core.ledger.entry import Entry, ShardState
from penstock._core.ledger.states import RUNNING
from penstock._core.metrics.histogram import BOUNDS
from penstock._tasks.attempt_meter import SHORT, AttemptMeter, AttemptTimer
from penstock.message import Shard

NOW = 1_700_000_000.0
STATES = [ShardState(Shard(name, 0, name.encode())) for name in ("a", "b")]


class Step(NamedTuple):
    """An attempt, and the wait before it; None without one."""

    wait: float | None
    idle: bool
    stream: int
    attempt: int
    seconds: float
    failed: bool


class Worker:
    """Does with a timer what a worker does."""

    def __init__(self, timer: AttemptTimer) -> None:
        self.timer = timer
        self.clock = 1000.0
        self.number = 0

    def time(self) -> float:
        return self.clock

    def wall(self) -> float:
        return NOW + self.clock

    def attempt(self, step: Step) -> None:
        timer, state = self.timer, STATES[step.stream]
        if step.wait is not None:
            self.wait(step.wait, idle=step.idle)
        self.number += 1
        id_ = b"%d-%d" % (int(self.wall() * 1000) - 5000, self.number)
        # Further attempts are taken after a wait only.
        attempt = 1 if step.wait is None else step.attempt
        entry = Entry(state, id_, (), 10, attempt, 0.0, RUNNING)
        now = self.clock
        if now - timer.began > SHORT or entry.shard_state is not timer.state:
            timer.switch(entry, now)
        timer.began = now
        self.clock += step.seconds
        if step.failed:
            timer.end((entry,), None, "failed")
        else:
            timer.lap.append(entry.id)

    def wait(self, seconds: float, *, idle: bool) -> None:
        if self.timer.began:
            self.timer.pause(self.clock)
        if idle:
            self.timer.flush()
        self.clock += seconds


attempts = st.builds(
    Step,
    wait=st.none() | st.sampled_from([0.0, 0.0001, 3.0]),
    idle=st.booleans(),
    stream=st.sampled_from([0, 0, 0, 1]),
    attempt=st.sampled_from([1, 1, 2]),
    seconds=st.sampled_from([0.00001, 0.0005, 0.0005, 0.0021, 0.3]),
    failed=st.sampled_from([False, False, False, True]),
)


@given(st.lists(attempts, max_size=60))
def test_each_attempt_is_recorded_once_with_its_own_duration(steps: list[Step]) -> None:
    meter = AttemptMeter()
    meter.on = True
    with pytest.MonkeyPatch.context() as patch:
        with meter.timer(lambda _: "f") as timer:
            worker = Worker(timer)
            patch.setattr(_clock, "boottime", worker.time)
            patch.setattr(_clock, "wall", worker.wall)
            for step in steps:
                worker.attempt(step)
                assert len(meter.running()) == 1
            worker.wait(1, idle=True)
            assert meter.running() == []
        assert meter.running() == []
    for number, state in enumerate(STATES):
        own = [step for step in steps if step.stream == number]
        found = meter.totals(state.shard.stream, "f")
        assert found.seconds.number == len(own)
        total = sum(step.seconds for step in own)
        assert math.isclose(found.seconds.total, total, abs_tol=1e-6)
        for bound, count in found.seconds.cumulative():
            assert count == sum(step.seconds <= bound for step in own)
        assert found.number("failed") == sum(step.failed for step in own)
        first = sum(step.wait is None or step.attempt == 1 for step in own)
        assert found.ages.number == first
        # All are five seconds old, and are recorded a little later.
        assert not any(found.ages.counts[: BOUNDS.index(2.5) + 1])


async def test_a_method_names_the_handler_of_each_message() -> None:
    class Names:
        def of(self, message: Any) -> str:
            return str(message)

    meter = AttemptMeter()
    meter.on = True
    entry = Entry(STATES[0], b"1-1", (), 10, 1, 0.0, RUNNING)
    with meter.timer(Names().of) as timer:
        assert timer.varies
        for name in ("f", "g", "f"):
            timer.switch(entry, _clock.boottime())
            timer.began = _clock.boottime()
            timer.end((entry,), name)
    numbers = {key: totals.number("ok") for key, totals in meter.attempts.items()}
    assert numbers == {("a", "f"): 2, ("a", "g"): 1}
