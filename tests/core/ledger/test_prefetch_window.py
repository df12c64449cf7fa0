"""Prefetch window: how many messages may be held, by the rate of the handlers."""

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
# Messages that were done, and the seconds that this took. Messages that were dropped or
# lost count as done, and the number never falls.
progress = st.lists(
    st.tuples(st.integers(0, 5000), st.floats(0.0, 100_000.0)), max_size=20
)


class Clock:
    """Reports progress to a prefetch window step by step."""

    def __init__(self, prefetch_window: PrefetchWindow) -> None:
        self.prefetch_window = prefetch_window
        self.done = 0
        self.now = 1000.0
        prefetch_window.take_rate(0, self.now)

    def advance(self, done: int, seconds: float) -> None:
        self.done += done
        self.now += seconds
        self.prefetch_window.take_rate(self.done, self.now)


def after(limit: tuple[int, int, float], past: list[tuple[int, int]]) -> PrefetchWindow:
    prefetch_window = PrefetchWindow(*limit)
    for messages, size in past:
        prefetch_window.learn_size(messages, messages * size)
    return prefetch_window


def fast_clock(max_messages: int = 1000, max_wait: float = 1.0) -> Clock:
    """Return a clock whose window the rate does not bound for now."""
    clock = Clock(PrefetchWindow(max_messages, 10**9, max_wait))
    for _ in range(20):
        clock.advance(10**6, 0.0)
    return clock


# -- capacity ----------------------------------------------------------------------


@given(limits, reads, st.integers(0, 10_000), st.integers(0, 2_000_000))
@settings(max_examples=300, deadline=None)
def test_free_is_never_negative_and_never_exceeds_the_capacity(
    limit: tuple[int, int, float], past: list[tuple[int, int]], held: int, size: int
) -> None:
    prefetch_window = after(limit, past)
    free = prefetch_window.free(held, size)
    assert free >= 0
    assert free == 0 or held + free <= prefetch_window.capacity <= limit[0]


@given(limits, reads)
@settings(max_examples=200, deadline=None)
def test_a_consumer_that_holds_nothing_may_always_read_something(
    limit: tuple[int, int, float], past: list[tuple[int, int]]
) -> None:
    prefetch_window = after(limit, past)
    assert 1 <= prefetch_window.free(0, 0) <= limit[0]
    assert 1 <= prefetch_window.capacity <= limit[0]
    assert prefetch_window.aim(1) >= 1


@given(limits, reads.filter(bool), st.integers(0, 5000), st.integers(1, 100_000))
@settings(max_examples=300, deadline=None)
def test_messages_no_larger_than_those_last_read_stay_within_max_bytes(
    limit: tuple[int, int, float],
    past: list[tuple[int, int]],
    held: int,
    each: int,
) -> None:
    prefetch_window = after(limit, [*past, (1, each)])
    free = prefetch_window.free(held, held * each)
    # One message that is larger than the bound has to be read nevertheless.
    assert free == 0 or held + free == 1 or (held + free) * each <= limit[1]
    assert prefetch_window.capacity == 1 or prefetch_window.capacity * each <= limit[1]


def test_before_the_first_read_only_the_number_of_messages_is_bounded() -> None:
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


def test_a_message_larger_than_max_bytes_is_read_alone() -> None:
    prefetch_window = PrefetchWindow(1000, 10_000, 1.0)
    prefetch_window.learn_size(1, 50_000)
    assert prefetch_window.capacity == prefetch_window.aim(0) == 1
    assert prefetch_window.free(0, 0) == 1
    assert prefetch_window.free(1, 50_000) == 0


def test_small_messages_raise_the_capacity_by_a_tenth_per_read() -> None:
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


# -- aim ---------------------------------------------------------------------------


@given(limits, reads, progress, st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_the_aim_is_never_negative_and_never_more_than_may_be_held(
    limit: tuple[int, int, float],
    past: list[tuple[int, int]],
    steps: list[tuple[int, float]],
    idle_workers: int,
) -> None:
    prefetch_window = after(limit, past)
    clock = Clock(prefetch_window)
    for done, seconds in [(0, 0.0), *steps]:
        clock.advance(done, seconds)
        assert (
            0
            <= prefetch_window.aim(0)
            <= prefetch_window.aim(idle_workers)
            <= prefetch_window.capacity
        )


@given(limits, progress, st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_the_aim_rises_to_the_number_of_idle_workers(
    limit: tuple[int, int, float], steps: list[tuple[int, float]], idle_workers: int
) -> None:
    prefetch_window = PrefetchWindow(*limit)
    clock = Clock(prefetch_window)
    for done, seconds in steps:
        clock.advance(done, seconds)
    assert prefetch_window.aim(idle_workers) == max(
        prefetch_window.aim(0), min(idle_workers, prefetch_window.capacity)
    )


@given(limits, progress)
@settings(max_examples=300, deadline=None)
def test_the_aim_at_most_doubles_whenever_the_rate_is_taken(
    limit: tuple[int, int, float], steps: list[tuple[int, float]]
) -> None:
    prefetch_window = PrefetchWindow(*limit)
    clock = Clock(prefetch_window)
    for done, seconds in steps:
        before = prefetch_window.aim(0)
        clock.advance(done, seconds)
        assert prefetch_window.aim(0) <= 2 * max(1, before)


@given(limits, progress, st.integers(1, 5000), st.floats(0.001, 100_000.0))
@settings(max_examples=300, deadline=None)
def test_no_more_messages_wait_than_the_recent_rate_finishes_within_max_wait(
    limit: tuple[int, int, float],
    steps: list[tuple[int, float]],
    done: int,
    span: float,
) -> None:
    prefetch_window = PrefetchWindow(*limit)
    clock = Clock(prefetch_window)
    for step in steps:
        clock.advance(*step)
    # The rate is measured from the last time that a message was done.
    clock.advance(1, 0.0)
    clock.advance(done, span)
    assert prefetch_window.aim(0) <= done / span * limit[2] * (1 + 1e-9)


@given(st.integers(1, 5000), progress, st.floats(0.001, 10.0))
@settings(max_examples=200, deadline=None)
def test_fast_handlers_reach_an_aim_of_all_that_may_be_held(
    max_messages: int, steps: list[tuple[int, float]], span: float
) -> None:
    clock = Clock(PrefetchWindow(max_messages, 10**9, 1.0))
    for step in steps:
        clock.advance(*step)
    # Each time handlers do all messages that may wait, ten times as fast as needed.
    each = int(10 * max_messages * span) + 1
    for _ in range(14 + max_messages // each + 1):
        clock.advance(each, span)
    assert clock.prefetch_window.aim(0) == max_messages


def test_the_aim_grows_only_after_half_of_the_waiting_messages_are_done() -> None:
    clock = Clock(PrefetchWindow(1000, 10**9, 1.0))
    for _ in range(FIRST // 2 - 1):
        clock.advance(1, 0.0001)
        assert clock.prefetch_window.aim(0) == FIRST, "a few fast messages prove little"
    clock.advance(1, 0.0001)
    assert clock.prefetch_window.aim(0) == 2 * FIRST
    clock.advance(FIRST - 1, 0.0001)
    assert clock.prefetch_window.aim(0) == 2 * FIRST
    clock.advance(1, 0.0001)
    assert clock.prefetch_window.aim(0) == 4 * FIRST


def test_the_first_aim_is_small_and_within_the_capacity() -> None:
    assert PrefetchWindow(1000, 10**9, 1.0).aim(0) == FIRST
    assert PrefetchWindow(3, 10**9, 1.0).aim(0) == 3
    assert PrefetchWindow(3, 10**9, 1.0).aim(100) == 3


def test_the_first_call_of_take_rate_sets_no_rate() -> None:
    prefetch_window = PrefetchWindow(1000, 10**9, 1.0)
    prefetch_window.take_rate(500, 7.0)
    assert prefetch_window.aim(0) == FIRST
    # The rate is measured from here on.
    prefetch_window.take_rate(504, 8.0)
    assert prefetch_window.aim(0) == 4


def test_without_progress_the_rate_does_not_change() -> None:
    clock = fast_clock()
    for _ in range(10):
        clock.advance(0, 1.0)
        assert clock.prefetch_window.aim(0) == 1000
    clock.advance(20, 10.0)
    assert clock.prefetch_window.aim(0) == 1, "20 in 20 s, the idle seconds included"


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
def test_the_aim_is_the_rate_multiplied_by_max_wait(
    done: int, span: float, max_wait: float, aim: int
) -> None:
    clock = fast_clock(max_wait=max_wait)
    clock.advance(done, span)
    assert clock.prefetch_window.aim(0) == aim


def test_from_zero_the_aim_grows_again_by_doubling() -> None:
    clock = fast_clock(20)
    clock.advance(1, 600.0)
    aims = [clock.prefetch_window.aim(0)]
    for _ in range(6):
        clock.advance(1000, 1.0)
        aims.append(clock.prefetch_window.aim(0))
    assert aims == [0, 2, 4, 8, 16, 20, 20]


def test_handlers_that_finish_together_do_not_make_the_rate_high() -> None:
    """Sixteen handlers that take 0.1 s are slow, however close together they end."""
    prefetch_window = PrefetchWindow(1000, 10**6, 1.0)
    prefetch_window.take_rate(0, 0.0)
    for number in range(1, 20):
        prefetch_window.take_rate(16 * number - 15, number / 10)
        prefetch_window.take_rate(16 * number, number / 10 + 0.001)
        assert prefetch_window.slow


def test_many_messages_at_once_make_a_high_rate_and_few_over_time_a_low_one() -> None:
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
        # Too few messages, or too short a time, for a rate.
        (99, 0.04, True),
        (200, 0.0, True),
    ],
)
def test_below_two_thousand_messages_a_second_the_rate_is_slow(
    done: int,
    seconds: float,
    slow: bool,  # noqa: FBT001
) -> None:
    prefetch_window = PrefetchWindow(1000, 10**9, 1.0)
    prefetch_window.take_rate(0, 0.0)
    prefetch_window.take_rate(done, seconds)
    assert prefetch_window.slow == slow


def test_before_a_rate_is_known_it_counts_as_slow() -> None:
    clock = Clock(PrefetchWindow(1000, 10**9, 1.0))
    assert clock.prefetch_window.slow
    clock.advance(0, 5.0)
    assert clock.prefetch_window.slow


def test_the_rate_stays_as_it_was_until_a_message_is_done() -> None:
    clock = Clock(PrefetchWindow(1000, 10**9, 1.0))
    clock.advance(10_000, 1.0)
    clock.advance(0, 1000.0)
    assert not clock.prefetch_window.slow, "no message was done meanwhile"
    clock.advance(1, 1.0)
    assert clock.prefetch_window.slow
