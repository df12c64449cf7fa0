"""How many entries a request asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock._core.reading.request_size import RequestSize


def test_the_first_request_is_for_one_entry() -> None:
    assert RequestSize().most == 1


def test_a_reply_that_brought_all_that_was_asked_for_doubles_the_next() -> None:
    portion = RequestSize()
    for _ in range(3):
        portion.came(portion.most, portion.most)
    assert portion.most == 8


def test_a_reply_that_brought_less_changes_nothing() -> None:
    portion = RequestSize(8)
    portion.came(8, 7)
    portion.came(2, 2)
    assert portion.most == 8


def test_a_lost_reply_halves_what_was_asked_for_and_not_what_might_have_been() -> None:
    portion = RequestSize(100)
    portion.lost(10)
    assert portion.most == 5
    portion.lost(1)
    assert portion.most == 1


@given(
    total=st.integers(1, 300),
    fits=st.lists(st.integers(1, 50), min_size=1, max_size=10),
    first=st.integers(1, 1000),
)
def test_all_entries_come_through_connections_that_end_after_a_few(
    total: int, fits: list[int], first: int
) -> None:
    portion = RequestSize(first)
    left, connections, lost_in_a_row = total, 0, 0
    while left:
        room = fits[connections % len(fits)]
        connections += 1
        came = False
        while left:
            asked = min(portion.most, left)
            if asked > room:
                portion.lost(asked)
                break
            room -= asked
            left -= asked
            portion.came(asked, asked)
            came = True
        lost_in_a_row = 0 if came else lost_in_a_row + 1
        # From 1,000 down to one, and no further.
        assert lost_in_a_row <= 10
