"""Read turns: how several readers divide a read budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.reading.read_turns import ReadTurns, Turn

CAPACITY = 2000


def turns(number: int, *, has_more: bool = False) -> tuple[ReadTurns, list[Turn]]:
    made = ReadTurns()
    each = [made.join() for _ in range(number)]
    for turn in each:
        turn.has_more = has_more
    return made, each


@pytest.mark.parametrize(
    ("budget", "number", "share"), [(100, 1, 100), (100, 4, 25), (3, 4, 1), (0, 4, 0)]
)
def test_a_reader_that_waits_for_entries_has_an_equal_share_and_at_least_one_entry(
    budget: int, number: int, share: int
) -> None:
    made, each = turns(number)
    assert [made.ask(turn, budget) for turn in each] == [share] * number
    assert not made.any_waiting


def test_a_single_reader_has_the_whole_budget_even_if_it_has_more_to_read() -> None:
    made, [turn] = turns(1, has_more=True)
    assert made.ask(turn, 500) == 500


def test_readers_with_more_to_read_have_their_turns_in_the_order_of_asking() -> None:
    made, each = turns(64, has_more=True)
    assert [made.ask(turn, CAPACITY) for turn in each] == [0] * 64
    assert [made.next(CAPACITY, CAPACITY) for _ in range(5)] == [*each[:4], None]
    assert [turn.granted for turn in each[:5]] == [500, 500, 500, 500, 0]


def test_a_turn_is_for_a_hundred_entries_at_least() -> None:
    made, each = turns(8, has_more=True)
    made.ask(each[0], 300)
    assert made.next(300, 300) is each[0]
    assert each[0].granted == 100


def test_a_turn_is_for_half_of_the_budget_at_most() -> None:
    made, each = turns(3, has_more=True)
    for turn in each:
        made.ask(turn, 8)
    assert [made.next(8, CAPACITY) for _ in range(3)] == [each[0], each[1], None]
    assert each[0].granted == 4


def test_a_turn_that_ends_makes_room_for_the_next() -> None:
    made, each = turns(3, has_more=True)
    for turn in each:
        made.ask(turn, 8)
    assert made.next(8, CAPACITY) is each[0]
    assert made.next(8, CAPACITY) is each[1]
    made.give_back(each[0])
    assert made.next(8, CAPACITY) is each[2]


def test_without_a_budget_nobody_has_a_turn_and_the_order_stays() -> None:
    made, each = turns(3, has_more=True)
    assert [made.ask(turn, 0) for turn in each] == [0, 0, 0]
    assert made.next(0, CAPACITY) is None
    made.ask(each[2], 8)
    assert made.next(8, CAPACITY) is each[0]


def test_a_reader_keeps_its_turn_until_it_has_read() -> None:
    made, each = turns(3, has_more=True)
    made.ask(each[0], 8)
    made.next(8, CAPACITY)
    assert made.ask(each[0], 0) == 4


def test_a_reader_that_no_longer_has_more_to_read_waits_for_no_turn() -> None:
    made, each = turns(3, has_more=True)
    made.ask(each[0], 9)
    assert made.is_waiting(each[0])
    each[0].has_more = False
    assert made.ask(each[0], 9) == 3
    assert not made.any_waiting


def test_a_reader_that_leaves_gives_its_turn_back() -> None:
    made, each = turns(3, has_more=True)
    for turn in each:
        made.ask(turn, 8)
    made.next(8, CAPACITY)
    made.next(8, CAPACITY)
    made.leave(each[0])
    assert made.next(8, CAPACITY) is each[2]
    made.leave(each[1])
    made.leave(each[2])
    assert made.readers == 0
    assert not made.any_waiting


@given(
    number=st.integers(1, 70),
    steps=st.lists(
        st.tuples(st.integers(0, 69), st.booleans(), st.integers(0, 3000)), max_size=60
    ),
    capacity=st.integers(1, 3000),
)
def test_turns_together_never_exceed_the_budget_and_one_is_always_possible(
    number: int, steps: list[tuple[int, bool, int]], capacity: int
) -> None:
    made, each = turns(number)
    for index, has_more, budget in steps:
        turn = each[index % number]
        made.give_back(turn)
        turn.has_more = has_more
        made.ask(turn, budget)
        before = sum(one.granted for one in each)
        while (given_to := made.next(budget, capacity)) is not None:
            assert given_to.granted > 0
            assert not made.is_waiting(given_to)
            before += given_to.granted
            assert before <= budget
        assert before == sum(one.granted for one in each)
        # Whoever waits is woken: by the end of a turn, or as soon as there is a budget.
        assert before or not budget or not made.any_waiting
