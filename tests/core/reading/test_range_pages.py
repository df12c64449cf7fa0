"""Range pages: reading the entries between two ids page by page."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import EntryId
from penstock._core.reading.range_pages import RangePages
from support.entries import answer

MAX = 2**64 - 1


def read(
    range_pages: RangePages, stream: Sequence[EntryId], size: int = 1
) -> list[list[EntryId]]:
    pages = []
    while not range_pages.done:
        page = answer(stream, range_pages.ask(), size)
        assert page == answer(
            stream, range_pages.ask(), size
        )  # lost, and requested again
        assert len(page) <= range_pages.size
        range_pages.take(page)
        pages.append([EntryId.parse(entry[0]) for entry in page])
    return pages


IDS = st.builds(
    EntryId, st.sampled_from([1, 2, 3, MAX]), st.sampled_from([0, 1, 2, MAX])
)
ENDS = st.one_of(IDS, st.just(EntryId.MIN), st.just(EntryId.MAX))


@given(
    ids=st.sets(IDS),
    ends=st.tuples(ENDS, ENDS),
    most=st.integers(1, 5),
    reverse=st.booleans(),
)
def test_all_entries_between_two_ids_are_read_once_and_in_order(
    *, ids: set[EntryId], ends: tuple[EntryId, EntryId], most: int, reverse: bool
) -> None:
    low, high = ends
    range_pages = RangePages(b"s", low, high, most=most, reverse=reverse)
    found = [id_ for page in read(range_pages, list(ids)) for id_ in page]
    wanted = sorted((i for i in ids if low <= i <= high), reverse=reverse)
    assert found == wanted


def test_an_empty_range_sends_no_request() -> None:
    assert RangePages(b"s", None, EntryId.MAX, most=5).done
    assert RangePages(b"s", EntryId(2), EntryId(1), most=5).done


def test_pages_grow_up_to_their_limit() -> None:
    ids = [EntryId(n) for n in range(1, 400)]
    pages = read(RangePages(b"s", EntryId.MIN, EntryId.MAX, most=100), ids)
    assert [len(page) for page in pages] == [10, 40, 100, 100, 100, 49]
    pages = read(RangePages(b"s", EntryId.MIN, EntryId.MAX, most=100, first=1), ids)
    assert [len(page) for page in pages] == [1, 4, 16, 64, 100, 100, 100, 14]


def test_pages_of_large_entries_are_small() -> None:
    ids = [EntryId(n) for n in range(1, 21)]
    pages = read(
        RangePages(b"s", EntryId.MIN, EntryId.MAX, most=100), ids, size=5 * 2**20
    )
    assert [len(page) for page in pages] == [10] + [1] * 10 + [0]


@settings(max_examples=50, deadline=None)
@given(fits=st.integers(1, 60), most=st.integers(1, 100))
def test_pages_that_are_lost_shrink_until_they_arrive(fits: int, most: int) -> None:
    """The connection ends at each page of more entries than fit."""
    ids = [EntryId(n) for n in range(1, 200)]
    range_pages = RangePages(b"s", EntryId.MIN, EntryId.MAX, most=most)
    found, lost = [], 0
    while not range_pages.done:
        if range_pages.size > fits:
            range_pages.lost()
            lost += 1
            continue
        page = answer(ids, range_pages.ask())
        range_pages.take(page)
        found += page
    assert len(found) == len(ids)
    # A page that arrives is at least half as large as the largest that would.
    assert lost <= 6 + 2 * len(ids) / fits
