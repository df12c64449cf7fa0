"""Request sizes: the numbers of entries and shards that a request asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock._core.reading.request_size import ReadSizes, RequestSize


def test_the_first_request_is_for_one_entry() -> None:
    assert RequestSize().most == 1


def test_a_full_reply_doubles_the_next_request() -> None:
    size = RequestSize()
    for _ in range(3):
        size.received(size.most, size.most)
    assert size.most == 8


def test_a_reply_that_is_not_full_changes_nothing() -> None:
    size = RequestSize(8)
    size.received(8, 7)
    size.received(2, 2)
    assert size.most == 8


def test_a_lost_reply_halves_the_size_that_was_requested() -> None:
    size = RequestSize(100)
    size.lost(10)
    assert size.most == 5
    size.lost(1)
    assert size.most == 1


@given(
    total=st.integers(1, 300),
    fits=st.lists(st.integers(1, 50), min_size=1, max_size=10),
    first=st.integers(1, 1000),
)
def test_all_entries_arrive_over_connections_that_end_after_a_few_entries(
    total: int, fits: list[int], first: int
) -> None:
    size = RequestSize(first)
    left, connections, lost_in_a_row = total, 0, 0
    while left:
        capacity = fits[connections % len(fits)]
        connections += 1
        arrived = False
        while left:
            requested = min(size.most, left)
            if requested > capacity:
                size.lost(requested)
                break
            capacity -= requested
            left -= requested
            size.received(requested, requested)
            arrived = True
        lost_in_a_row = 0 if arrived else lost_in_a_row + 1
        # Halving leads from 1,000 down to one within ten losses.
        assert lost_in_a_row <= 10


def test_all_shards_are_read_at_once_until_a_reply_of_one_entry_each_is_lost() -> None:
    sizes = ReadSizes()
    assert sizes.shards.most >= 1000
    sizes.entries.received(4, 4)
    sizes.lost(40, 2)
    assert (sizes.entries.most, sizes.shards.most) == (1, 1000)
    sizes.lost(40, 1)
    assert (sizes.entries.most, sizes.shards.most) == (1, 20)


def test_more_entries_are_read_only_once_all_shards_are_read_at_once() -> None:
    sizes = ReadSizes()
    sizes.lost(8, 1)
    sizes.received(4, 1, 1)
    assert (sizes.entries.most, sizes.shards.most) == (1, 8)
    sizes.received(7, 1, 1)
    assert (sizes.entries.most, sizes.shards.most) == (2, 14)


def test_a_read_of_one_shard_is_bounded_by_its_entries() -> None:
    sizes = ReadSizes()
    sizes.received(1, 1, 1)
    sizes.received(1, 2, 1)
    assert sizes.entries.most == 2
    sizes.lost(1, 2)
    sizes.lost(1, 1)
    assert (sizes.entries.most, sizes.shards.most) == (1, 1000)
