"""Shard records: how they are stored, and which producers agree with them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.messages import shard_record
from penstock.sharding import MAX_SHARDS, ShardRecord

NOW = 1_764_514_800.5


@pytest.mark.parametrize(
    ("stream", "key"),
    [
        ("orders", b"{orders}.shards"),
        ("{shop}:orders", b"{shop}:orders.shards"),
        ("a}b", b"a}b.shards"),
    ],
)
def test_the_record_is_beside_the_stream_in_its_slot(stream: str, key: bytes) -> None:
    assert shard_record.key(stream) == key


def test_a_record_is_readable_text() -> None:
    assert shard_record.dump(4, "KeyHash", NOW) == (
        b'{"shards":4,"sharder":"KeyHash","changed":1764514800500}'
    )


@given(st.none() | st.integers(1, MAX_SHARDS), st.text(), st.floats(0, 2.5e11))
def test_what_is_stored_is_loaded(number: int | None, sharder: str, now: float) -> None:
    record = shard_record.load(shard_record.dump(number, sharder, now))
    assert record == ShardRecord(number, sharder, int(now * 1000))
    assert record.changed.tzinfo is UTC


def test_the_time_of_a_record_is_a_datetime() -> None:
    record = shard_record.load(shard_record.dump(4, "KeyHash", NOW))
    assert record is not None
    assert record.changed == datetime(2025, 11, 30, 15, 0, 0, 500_000, UTC)


def test_no_record_is_none_and_unknown_fields_are_ignored() -> None:
    assert shard_record.load(None) is None
    later = b'{"shards":4,"sharder":"KeyHash","changed":0,"weights":[1,2]}'
    assert shard_record.load(later) == ShardRecord(4, "KeyHash", 0)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"4",
        b"four",
        b"{}",
        b"\xff",
        b'{"shards":0,"sharder":"","changed":0}',
        b'{"shards":16385,"sharder":"","changed":0}',
        b'{"shards":1.5,"sharder":"","changed":0}',
        b'{"shards":4,"sharder":null,"changed":0}',
        b'{"shards":4,"sharder":"","changed":-1}',
        b'{"shards":4,"sharder":"","changed":253402300800000}',
    ],
)
def test_what_is_no_record_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        shard_record.load(stored)


def test_the_shards_of_a_record_are_numbered_from_0() -> None:
    keys = [shard.key for shard in shard_record.shards("orders", 3)]
    assert keys == [b"orders:0", b"orders:1", b"orders:2"]


@pytest.mark.parametrize(
    ("recorded", "mine", "agrees"),
    [
        ((4, "KeyHash"), (4, "KeyHash"), True),
        ((4, "KeyHash"), (8, "KeyHash"), False),
        ((4, "KeyHash"), (2, "KeyHash"), False),
        ((4, "KeyHash"), (4, "RoundRobin"), False),
        ((4, ""), (4, "RoundRobin"), True),
        ((4, ""), (8, "RoundRobin"), False),
        # Who does not know its number may choose a shard that nobody reads.
        ((4, "by_day"), (None, "by_day"), False),
        # Where the number is open, consumers search.
        ((None, "by_day"), (None, "by_day"), True),
        ((None, "by_day"), (7, "by_day"), True),
        ((None, "by_day"), (None, "by_week"), False),
    ],
)
def test_a_producer_agrees_if_number_and_sharder_are_those_of_the_record(
    recorded: tuple[int | None, str], mine: tuple[int | None, str], *, agrees: bool
) -> None:
    record = ShardRecord(*recorded, 0)
    error = shard_record.difference("orders", record, *mine)
    assert (error is None) == agrees
    if error is not None:
        assert (error.number, error.sharder) == mine
        assert (error.recorded_number, error.recorded_sharder) == recorded


def test_only_a_larger_number_is_told_how_to_grow() -> None:
    record = ShardRecord(4, "KeyHash", 0)
    more = shard_record.difference("orders", record, 8, "KeyHash")
    fewer = shard_record.difference("orders", record, 2, "KeyHash")
    assert "admin.set_shards('orders', 8)" in str(more)
    assert "set_shards" not in str(fewer)
    opened = shard_record.difference("orders", record, None, "by_day")
    assert "an unknown number of shards by by_day" in str(opened)
