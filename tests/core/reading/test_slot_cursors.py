"""Slot cursors: shards that are read together, and the slots of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from penstock._core.messages.shard_keys import numbered, single
from penstock._core.protocol.cluster_slots import slot
from penstock._core.reading.cursor import Cursor
from penstock._core.reading.slot_cursors import SlotCursors
from penstock.message import EntryId

# The first two are in one slot by their braces.
A, B = numbered("{s}", 0), numbered("{s}", 1)
C, D = single("c"), single("d")


def cursors() -> SlotCursors:
    return SlotCursors(lambda: Cursor((), group=True))


@pytest.mark.parametrize(
    ("key", "number"),
    [
        (b"123456789", 12739),
        (b"foo", 12182),
        (b"{user1000}.following", slot(b"user1000")),
        (b"foo{}{bar}", slot(b"foo{}{bar}")),
        (b"foo{{bar}}zap", slot(b"{bar")),
        (b"foo{bar}{zap}", slot(b"bar")),
        (b"foo{bar", 0),
    ],
)
def test_a_slot_is_computed_as_specified(key: bytes, number: int) -> None:
    assert slot(key) == (number or key_slot(key))


@given(st.lists(st.sampled_from([b"{", b"}", b"a", b"\xff", b""])).map(b"".join))
def test_a_slot_agrees_with_that_of_redis_py(key: bytes) -> None:
    assert slot(key) == key_slot(key)


def test_all_shards_share_one_cursor_as_long_as_they_may_be_read_together() -> None:
    all_of_them = cursors()
    for shard in (A, C, B):
        assert shard not in all_of_them
        assert all_of_them.find(shard) is all_of_them.open(shard) is all_of_them.all[0]
        all_of_them.open(shard).add(shard, b"0-0")
        assert shard in all_of_them
    assert list(all_of_them.shards) == [A, C, B]
    assert [position.shard for position in all_of_them.positions] == [A, C, B]
    assert len(all_of_them.all) == 1


def test_after_parting_each_slot_is_read_from_its_position() -> None:
    made = cursors()
    for shard in (A, C, B, D):
        made.open(shard).add(shard, b"0-0")
    made.positions[1].highest = EntryId(7)
    before = {position.shard: position for position in made.positions}
    assert made.to_part() == 2
    first, *others = made.all
    assert list(made.part()) == made.all[1:]
    assert [list(cursor.shards) for cursor in made.all] == [[A, B], [C], [D]]
    assert made.all[0] is first
    assert others == []
    assert {position.shard: position for position in made.positions} == before
    assert made.to_part() == 0


def test_after_parting_a_new_slot_has_its_own_cursor() -> None:
    made = cursors()
    for shard in (A, C):
        made.open(shard).add(shard, b"0-0")
    made.part()
    assert made.find(B) is made.all[0]
    assert made.find(D) is None
    new = made.open(D)
    assert made.open(D) is made.find(D) is new is made.all[2]
    new.add(D, b"0-0")
    assert list(made.shards) == [A, C, D]


def test_shards_of_one_slot_need_no_parting() -> None:
    made = cursors()
    assert made.to_part() == 0
    for shard in (A, B):
        made.open(shard).add(shard, b"0-0")
    assert made.to_part() == 0
