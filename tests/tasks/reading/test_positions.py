"""Positions: a moment is an id of milliseconds or of nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import EARLIEST, LATEST, EntryId
from penstock._tasks.reading.positions import exclusive_start, first_id, last_id

MOMENT = datetime(2023, 3, 8, 13, 3, 15, 282_123, tzinfo=UTC)
NONE = EntryId.MIN
MILLISECONDS = EntryId(1_678_280_595_000, 7)
NANOSECONDS = EntryId(1_678_280_595_000_000_000, 7)
MAX = EntryId.MAX.seq
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The first id of the epoch itself has none before it.
AFTER_EPOCH = datetime(1970, 1, 1, 0, 0, 1)  # noqa: DTZ001 - Hypothesis adds the zone
LATEST_OF_NANOSECONDS = EPOCH + timedelta(microseconds=(2**64 - 1) // 1000)


@pytest.mark.parametrize("last", [NONE, MILLISECONDS])
def test_a_moment_is_all_ids_of_its_millisecond(last: EntryId) -> None:
    assert first_id(MOMENT, last) == EntryId(1_678_280_595_282, 0)
    assert last_id(MOMENT, last) == EntryId(1_678_280_595_282, MAX)


def test_in_a_stream_of_nanoseconds_it_is_all_ids_of_its_microsecond() -> None:
    assert first_id(MOMENT, NANOSECONDS) == EntryId(1_678_280_595_282_123_000, 0)
    assert last_id(MOMENT, NANOSECONDS) == EntryId(1_678_280_595_282_123_999, MAX)


@pytest.mark.parametrize("last", [NONE, MILLISECONDS, NANOSECONDS])
def test_an_id_is_itself(last: EntryId) -> None:
    assert first_id(EntryId(5, 3), last) == last_id(EntryId(5, 3), last)
    assert first_id(EntryId(5, 3), last) == EntryId(5, 3)


@given(st.datetimes(AFTER_EPOCH, timezones=st.just(UTC)))
@settings(max_examples=200, deadline=None)
def test_the_ids_of_a_moment_are_its_own_as_far_as_ids_reach(moment: datetime) -> None:
    for last in (MILLISECONDS, NANOSECONDS):
        first, highest = first_id(moment, last), last_id(moment, last)
        assert first <= highest
        if last is MILLISECONDS or moment < LATEST_OF_NANOSECONDS:
            assert first.previous() < first < highest < highest.next()
    if datetime(1974, 1, 1, tzinfo=UTC) < moment < LATEST_OF_NANOSECONDS:
        assert first_id(moment, NANOSECONDS).timestamp == moment
        assert last_id(moment, NANOSECONDS).timestamp == moment
        assert last_id(moment, NANOSECONDS).next().timestamp > moment


def test_a_moment_beyond_the_ids_of_nanoseconds_is_the_highest_one() -> None:
    moment = datetime(2555, 1, 1, tzinfo=UTC)
    assert first_id(moment, NANOSECONDS) == EntryId(EntryId.MAX.ms, 0)
    assert last_id(moment, NANOSECONDS) == EntryId.MAX


def test_reading_begins_after_the_id_before_the_place() -> None:
    assert exclusive_start(LATEST, MILLISECONDS) == b"$"
    assert exclusive_start(EARLIEST, MILLISECONDS) == b"0-0"
    assert exclusive_start(EntryId(5, 3), NANOSECONDS) == b"5-2"
    before = b"1678280595281-%d" % MAX
    assert exclusive_start(MOMENT, MILLISECONDS) == before
    before = b"1678280595282122999-%d" % MAX
    assert exclusive_start(MOMENT, NANOSECONDS) == before
