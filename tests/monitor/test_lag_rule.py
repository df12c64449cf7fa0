"""The lag by the replies: exact, or a bound that is never below the truth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock._core.protocol.replies import GroupInfo, StreamInfo
from penstock.message import EntryId
from penstock.monitor._lag import Lag, lag_of, stale_lag_of


def stream(*ids: int, last: int = 0, deleted: int = 0, added: int = 0) -> StreamInfo:
    """Describe a stream that has these ids."""
    return StreamInfo(
        length=len(ids),
        last=EntryId(last or max(ids, default=0)),
        first=EntryId(min(ids)) if ids else None,
        deleted=EntryId(deleted),
        newest=EntryId(max(ids)) if ids else None,
        added=added or len(ids),
    )


def group(delivered: int, lag: int | None = None) -> GroupInfo:
    return GroupInfo(b"g", 1, 0, b"%d-0" % delivered, lag)


def test_at_both_ends_of_a_stream_the_lag_is_exact_without_the_servers_number() -> None:
    some = stream(1, 2, 3)
    assert lag_of(some, group(0), trusted=False) == Lag(3, exact=True)
    assert lag_of(some, group(1), trusted=False) == Lag(2, exact=True)
    assert lag_of(some, group(3), trusted=False) == Lag(0, exact=True)
    assert lag_of(stream(last=9), group(4), trusted=False) == Lag(0, exact=True)


def test_in_the_middle_a_nil_of_the_server_gives_a_bound() -> None:
    """A group that was made with `$` or at an id has no number."""
    assert lag_of(stream(1, 2, 3, 4), group(2), trusted=True) == Lag(3, exact=False)


def test_a_number_after_a_trim_is_believed_only_where_the_server_counts_well() -> None:
    """redis/redis#13957: others count what was trimmed."""
    trimmed = stream(3, 4, 5, added=5)
    assert lag_of(trimmed, group(4, 3), trusted=False) == Lag(2, exact=False)
    assert lag_of(trimmed, group(4, 1), trusted=True) == Lag(1, exact=True)


@given(
    ids=st.sets(st.integers(1, 20), min_size=1),
    delivered=st.integers(0, 21),
    reported=st.none() | st.integers(-1, 30),
    last=st.integers(0, 21),
)
def test_no_lag_is_below_the_truth_whatever_an_old_server_reports(
    ids: set[int], delivered: int, reported: int | None, last: int
) -> None:
    """A number that the server got wrong is one of a stream that has lost entries."""
    some = stream(*ids, last=max(last, *ids), added=len(ids) + 1)
    found = lag_of(some, group(delivered, reported), trusted=False)
    truth = sum(id_ > delivered for id_ in ids)
    assert found.number >= truth
    assert not found.exact or found.number == truth


def test_between_two_descriptions_a_group_at_the_last_known_id_has_caught_up() -> None:
    known = stream(1, 2, 3)
    assert stale_lag_of(known, group(3, 0), 3) == Lag(0, exact=True)
    assert stale_lag_of(known, group(3), 3) == Lag(0, exact=True)


def test_between_two_descriptions_the_server_may_say_that_there_is_more() -> None:
    known = stream(1, 2, 3)
    assert stale_lag_of(known, group(3, 2), 5) == Lag(2, exact=False)
    assert stale_lag_of(known, group(7, 9), 5) == Lag(5, exact=False)


def test_between_two_descriptions_a_group_behind_has_at_most_the_length() -> None:
    known = stream(2, 3, 4)
    assert stale_lag_of(known, group(1), 6) == Lag(6, exact=True)
    assert stale_lag_of(known, group(3), 6) == Lag(6, exact=False)
