from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.ledger.prefetch_window import PrefetchWindow

FIRST = 8

limits = st.tuples(
    st.integers(1, 5000), st.integers(1, 1_000_000), st.floats(0.001, 3600.0)
)
reads = st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 100_000)), max_size=20)
# Messages that were done, and seconds that went by meanwhile; what was dropped or lost
# counts as well, and none is ever undone.
paces = st.lists(
    st.tuples(st.integers(0, 5000), st.floats(0.0, 100_000.0)), max_size=20
)


class Clock:
    """Tells a window the pace, step by step."""

    def __init__(self, prefetch_window: PrefetchWindow) -> None:
        self.prefetch_window = prefetch_window
        self.done = 0
        self.now = 1000.0
        prefetch_window.take_rate(0, self.now)

    def goes_on(self, done: int, seconds: float) -> None:
        self.done += done
        self.now += seconds
        self.prefetch_window.take_rate(self.done, self.now)


def after(limit: tuple[int, int, float], past: list[tuple[int, int]]) -> PrefetchWindow:
    prefetch_window = PrefetchWindow(*limit)
    for messages, size in past:
        prefetch_window.learn_size(messages, messages * size)
    return prefetch_window


def grown(max_messages: int = 1000, max_wait: float = 1.0) -> Clock:
    """Give a window that pace does not bound, for now."""
    clock = Clock(PrefetchWindow(max_messages, 10**9, max_wait))
    for _ in range(20):
        clock.goes_on(10**6, 0.0)
    return clock


# -- what may be held --------------------------------------------------------------


@given(limits, reads, st.integers(0, 10_000), st.integers(0, 2_000_000))
@settings(max_examples=300, deadline=None)
def test_what_is_free_is_never_negative_and_never_goes_over_the_messages(
    limit: tuple[int, int, float], past: list[tuple[int, int]], held: int, size: int
) -> None:
    prefetch_window = after(limit, past)
    free = prefetch_window.free(held, size)
    assert free >= 0
    assert free == 0 or held + free <= prefetch_window.capacity <= limit[0]


@given(limits, reads)
@settings(max_examples=200, deadline=None)
def test_who_holds_nothing_may_always_read_something(
    limit: tuple[int, int, float], past: list[tuple[int, int]]
) -> None:
    prefetch_window = after(limit, past)
    assert 1 <= prefetch_window.free(0, 0) <= limit[0]
    assert 1 <= prefetch_window.capacity <= limit[0]
    assert prefetch_window.aim(1) >= 1


@given(limits, reads.filter(bool), st.integers(0, 5000), st.integers(1, 100_000))
@settings(max_examples=300, deadline=None)
def test_messages_no_larger_than_the_last_read_ones_stay_within_the_bytes(
    limit: tuple[int, int, float],
    past: list[tuple[int, int]],
    held: int,
    each: int,
) -> None:
    prefetch_window = after(limit, [*past, (1, each)])
    free = prefetch_window.free(held, held * each)
    # One message that is larger than all that may be held has to go through.
    assert free == 0 or held + free == 1 or (held + free) * each <= limit[1]
    assert prefetch_window.capacity == 1 or prefetch_window.capacity * each <= limit[1]


def test_before_the_first_read_sizes_are_unknown_and_messages_bound_alone() -> None:
    prefetch_window = PrefetchWindow(100, 10, 1.0)
    assert prefetch_window.capacity == 100
    assert prefetch_window.free(0, 0) == 100
    assert prefetch_window.free(95, 10**9) == 5


def test_large_messages_lower_the_capacity_at_once() -> None:
    prefetch_window = PrefetchWindow(1000, 10_000, 1.0)
    prefetch_window.learn_size(FIRST, FIRST * 1000)
    assert prefetch_window.capacity == 10
    assert prefetch_window.free(0, 0) == 10
    assert prefetch_window.free(4, 4000) == 6
    assert prefetch_window.free(4, 9500) == 0
    assert prefetch_window.free(10, 10_000) == 0


def test_one_message_that_is_larger_than_the_bound_is_read_alone() -> None:
    prefetch_window = PrefetchWindow(1000, 10_000, 1.0)
    prefetch_window.learn_size(1, 50_000)
    assert prefetch_window.capacity == prefetch_window.aim(0) == 1
    assert prefetch_window.free(0, 0) == 1
    assert prefetch_window.free(1, 50_000) == 0


def test_small_messages_raise_the_capacity_by_a_tenth_a_read() -> None:
    prefetch_window = PrefetchWindow(1000, 9000, 1.0)
    prefetch_window.learn_size(1, 1000)
    assert prefetch_window.capacity == 9
    prefetch_window.learn_size(1, 1)
    assert prefetch_window.capacity == 10
    prefetch_window.learn_size(1, 1)
    assert prefetch_window.capacity == 11
    for _ in range(100):
        prefetch_window.learn_size(1, 1)
    assert prefetch_window.capacity == 1000


# -- what should wait --------------------------------------------------------------


@given(limits, reads, paces, st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_what_should_wait_is_never_negative_and_never_more_than_may_be_held(
    limit: tuple[int, int, float],
    past: list[tuple[int, int]],
    steps: list[tuple[int, float]],
    idle_workers: int,
) -> None:
    prefetch_window = after(limit, past)
    clock = Clock(prefetch_window)
    for done, seconds in [(0, 0.0), *steps]:
        clock.goes_on(done, seconds)
        assert (
            0
            <= prefetch_window.aim(0)
            <= prefetch_window.aim(idle_workers)
            <= prefetch_window.capacity
        )


@given(limits, paces, st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_it_rises_to_what_those_want_who_have_nothing_to_do(
    limit: tuple[int, int, float], steps: list[tuple[int, float]], idle_workers: int
) -> None:
    prefetch_window = PrefetchWindow(*limit)
    clock = Clock(prefetch_window)
    for done, seconds in steps:
        clock.goes_on(done, seconds)
    assert prefetch_window.aim(idle_workers) == max(
        prefetch_window.aim(0), min(idle_workers, prefetch_window.capacity)
    )


@given(limits, paces)
@settings(max_examples=300, deadline=None)
def test_it_doubles_at_most_whenever_the_pace_is_taken(
    limit: tuple[int, int, float], steps: list[tuple[int, float]]
) -> None:
    prefetch_window = PrefetchWindow(*limit)
    clock = Clock(prefetch_window)
    for done, seconds in steps:
        before = prefetch_window.aim(0)
        clock.goes_on(done, seconds)
        assert prefetch_window.aim(0) <= 2 * max(1, before)


@given(limits, paces, st.integers(1, 5000), st.floats(0.001, 100_000.0))
@settings(max_examples=300, deadline=None)
def test_no_more_waits_than_the_pace_of_late_gets_done_in_time(
    limit: tuple[int, int, float],
    steps: list[tuple[int, float]],
    done: int,
    span: float,
) -> None:
    prefetch_window = PrefetchWindow(*limit)
    clock = Clock(prefetch_window)
    for step in steps:
        clock.goes_on(*step)
    # From the last time that anything had been done.
    clock.goes_on(1, 0.0)
    clock.goes_on(done, span)
    assert prefetch_window.aim(0) <= done / span * limit[2] * (1 + 1e-9)


@given(st.integers(1, 5000), paces, st.floats(0.001, 10.0))
@settings(max_examples=200, deadline=None)
def test_quick_handlers_come_to_have_all_that_may_be_held(
    max_messages: int, steps: list[tuple[int, float]], span: float
) -> None:
    clock = Clock(PrefetchWindow(max_messages, 10**9, 1.0))
    for step in steps:
        clock.goes_on(*step)
    # Each time, they do what may wait, ten times as fast as they need to be.
    each = int(10 * max_messages * span) + 1
    for _ in range(14 + max_messages // each + 1):
        clock.goes_on(each, span)
    assert clock.prefetch_window.aim(0) == max_messages


def test_more_wait_only_after_half_of_what_may_wait_was_done() -> None:
    clock = Clock(PrefetchWindow(1000, 10**9, 1.0))
    for _ in range(FIRST // 2 - 1):
        clock.goes_on(1, 0.0001)
        assert clock.prefetch_window.aim(0) == FIRST, "a few quick ones prove little"
    clock.goes_on(1, 0.0001)
    assert clock.prefetch_window.aim(0) == 2 * FIRST
    clock.goes_on(FIRST - 1, 0.0001)
    assert clock.prefetch_window.aim(0) == 2 * FIRST
    clock.goes_on(1, 0.0001)
    assert clock.prefetch_window.aim(0) == 4 * FIRST


def test_a_few_wait_at_first_and_no_more_than_may_be_held() -> None:
    assert PrefetchWindow(1000, 10**9, 1.0).aim(0) == FIRST
    assert PrefetchWindow(3, 10**9, 1.0).aim(0) == 3
    assert PrefetchWindow(3, 10**9, 1.0).aim(100) == 3


def test_the_first_look_tells_no_pace() -> None:
    prefetch_window = PrefetchWindow(1000, 10**9, 1.0)
    prefetch_window.take_rate(500, 7.0)
    assert prefetch_window.aim(0) == FIRST
    # The pace is taken from there on.
    prefetch_window.take_rate(504, 8.0)
    assert prefetch_window.aim(0) == 4


def test_without_progress_no_pace_is_taken() -> None:
    clock = grown()
    for _ in range(10):
        clock.goes_on(0, 1.0)
        assert clock.prefetch_window.aim(0) == 1000
    clock.goes_on(20, 10.0)
    assert clock.prefetch_window.aim(0) == 1, "20 in 20 s, the silent ones among them"


@pytest.mark.parametrize(
    ("done", "span", "max_wait", "aim"),
    [
        (100, 1.0, 1.0, 100),
        (100, 1.0, 0.5, 50),
        (100, 1.0, 3.0, 300),
        (1, 1.0, 1.0, 1),
        (1, 1.001, 1.0, 0),
        (1, 600.0, 1.0, 0),
        (1, 600.0, 600.0, 1),
        (999, 1.0, 1.0, 999),
        (5000, 1.0, 1.0, 1000),
    ],
)
def test_what_may_wait_is_pace_times_time(
    done: int, span: float, max_wait: float, aim: int
) -> None:
    clock = grown(max_wait=max_wait)
    clock.goes_on(done, span)
    assert clock.prefetch_window.aim(0) == aim


def test_from_nothing_it_grows_again_by_doubling() -> None:
    clock = grown(20)
    clock.goes_on(1, 600.0)
    aims = [clock.prefetch_window.aim(0)]
    for _ in range(6):
        clock.goes_on(1000, 1.0)
        aims.append(clock.prefetch_window.aim(0))
    assert aims == [0, 2, 4, 8, 16, 20, 20]


def test_handlers_that_end_side_by_side_make_no_quick_pace() -> None:
    """Sixteen that take a tenth of a second are slow, however near they end."""
    prefetch_window = PrefetchWindow(1000, 10**6, 1.0)
    prefetch_window.take_rate(0, 0.0)
    for number in range(1, 20):
        prefetch_window.take_rate(16 * number - 15, number / 10)
        prefetch_window.take_rate(16 * number, number / 10 + 0.001)
        assert prefetch_window.slow


def test_many_in_a_moment_are_a_quick_pace_and_few_in_a_while_a_slow_one() -> None:
    prefetch_window = PrefetchWindow(1000, 10**6, 1.0)
    prefetch_window.take_rate(0, 0.0)
    prefetch_window.take_rate(100, 0.01)
    assert not prefetch_window.slow
    prefetch_window.take_rate(101, 0.05)
    assert not prefetch_window.slow
    prefetch_window.take_rate(102, 0.2)
    assert prefetch_window.slow


@pytest.mark.parametrize(
    ("done", "seconds", "slow"),
    [
        (1999, 1.0, True),
        (2000, 1.0, False),
        (10**6, 1e6, True),
        (100, 0.04, False),
        # Too few, or too quick, to be taken.
        (99, 0.04, True),
        (200, 0.0, True),
    ],
)
def test_below_two_thousand_a_second_it_is_slow(
    done: int,
    seconds: float,
    slow: bool,  # noqa: FBT001
) -> None:
    prefetch_window = PrefetchWindow(1000, 10**9, 1.0)
    prefetch_window.take_rate(0, 0.0)
    prefetch_window.take_rate(done, seconds)
    assert prefetch_window.slow == slow


def test_before_a_pace_is_known_it_is_slow() -> None:
    clock = Clock(PrefetchWindow(1000, 10**9, 1.0))
    assert clock.prefetch_window.slow
    clock.goes_on(0, 5.0)
    assert clock.prefetch_window.slow


def test_it_is_as_slow_as_it_was_of_late() -> None:
    clock = Clock(PrefetchWindow(1000, 10**9, 1.0))
    clock.goes_on(10_000, 1.0)
    clock.goes_on(0, 1000.0)
    assert not clock.prefetch_window.slow, "nothing was there to be done"
    clock.goes_on(1, 1.0)
    assert clock.prefetch_window.slow
