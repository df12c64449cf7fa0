from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.window import Window

FIRST = 16

limits = st.tuples(st.integers(1, 5000), st.integers(1, 1_000_000))
reads = st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 100_000)), max_size=20)


def after(limit: tuple[int, int], past: list[tuple[int, int]]) -> Window:
    window = Window(*limit)
    for messages, size in past:
        window.learned(messages, messages * size)
    return window


@given(limits, reads, st.integers(0, 10_000), st.integers(0, 2_000_000))
@settings(max_examples=300, deadline=None)
def test_room_is_never_negative_and_never_goes_over_the_messages(
    limit: tuple[int, int], past: list[tuple[int, int]], held: int, size: int
) -> None:
    window = after(limit, past)
    room = window.room(held, size)
    assert room >= 0
    assert room == 0 or held + room <= limit[0]


@given(limits, reads)
@settings(max_examples=200, deadline=None)
def test_who_holds_nothing_may_always_read_something(
    limit: tuple[int, int], past: list[tuple[int, int]]
) -> None:
    window = after(limit, past)
    assert 1 <= window.room(0, 0) <= limit[0]
    assert 1 <= window.capacity <= limit[0]


@given(limits, reads.filter(bool), st.integers(0, 5000), st.integers(1, 100_000))
@settings(max_examples=300, deadline=None)
def test_messages_no_larger_than_the_last_read_ones_stay_within_the_bytes(
    limit: tuple[int, int], past: list[tuple[int, int]], held: int, each: int
) -> None:
    window = after(limit, [*past, (1, each)])
    room = window.room(held, held * each)
    # One message that is larger than all that may be held has to go through.
    assert room == 0 or held + room == 1 or (held + room) * each <= limit[1]
    assert window.capacity == 1 or window.capacity * each <= limit[1]


def test_reading_starts_with_few_and_doubles_while_reads_come_back_full() -> None:
    window = Window(1000, 10**9)
    asked = []
    for _ in range(9):
        asked.append(window.room(0, 0))
        window.learned(asked[-1], asked[-1])
    assert asked == [FIRST, 32, 64, 128, 256, 512, 1000, 1000, 1000]


def test_reads_that_are_not_full_change_nothing() -> None:
    window = Window(1000, 10**9)
    for _ in range(5):
        window.learned(FIRST - 1, 15)
        assert window.room(0, 0) == FIRST
    window.learned(FIRST, 16)
    assert window.room(0, 0) == 32


def test_a_bound_below_the_first_read_is_kept() -> None:
    window = Window(3, 10**9)
    assert window.room(0, 0) == 3
    window.learned(3, 3)
    assert window.room(0, 0) == 3
    assert window.room(2, 2) == 1
    assert window.room(3, 3) == 0


def test_before_the_first_read_sizes_are_unknown_and_messages_bound_alone() -> None:
    window = Window(100, 10)
    assert window.capacity == 100
    assert window.room(0, 0) == FIRST
    assert window.room(95, 10**9) == 5


def test_large_messages_lower_the_capacity_at_once() -> None:
    window = Window(1000, 10_000)
    window.learned(FIRST, FIRST * 1000)
    assert window.capacity == 10
    assert window.room(0, 0) == 10
    assert window.room(4, 4000) == 6
    assert window.room(4, 9500) == 0
    assert window.room(10, 10_000) == 0


def test_one_message_that_is_larger_than_the_bound_is_read_alone() -> None:
    window = Window(1000, 10_000)
    window.learned(1, 50_000)
    assert window.capacity == 1
    assert window.room(0, 0) == 1
    assert window.room(1, 50_000) == 0


def test_small_messages_raise_the_capacity_by_a_tenth_a_read() -> None:
    window = Window(1000, 9000)
    window.learned(1, 1000)
    assert window.capacity == 9
    window.learned(1, 1)
    assert window.capacity == 10
    window.learned(1, 1)
    assert window.capacity == 11
    for _ in range(100):
        window.learned(1, 1)
    assert window.capacity == 1000
