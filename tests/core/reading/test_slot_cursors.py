"""What is read together, and which slot a key is in."""

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

# Of one slot: the first two by their braces.
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
def test_a_slot_is_that_of_the_specification(key: bytes, number: int) -> None:
    assert slot(key) == (number or key_slot(key))


@given(st.lists(st.sampled_from([b"{", b"}", b"a", b"\xff", b""])).map(b"".join))
def test_a_slot_is_what_others_find_it_to_be(key: bytes) -> None:
    assert slot(key) == key_slot(key)


def test_all_are_read_together_as_long_as_nobody_minds() -> None:
    all_of_them = cursors()
    for shard in (A, C, B):
        assert shard not in all_of_them
        assert all_of_them.find(shard) is all_of_them.open(shard) is all_of_them.all[0]
        all_of_them.open(shard).add(shard, b"0-0")
        assert shard in all_of_them
    assert list(all_of_them.shards) == [A, C, B]
    assert [position.shard for position in all_of_them.positions] == [A, C, B]
    assert len(all_of_them.all) == 1


def test_parted_each_slot_is_read_where_it_was_left() -> None:
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


def test_once_apart_a_slot_that_is_new_has_a_cursor_of_its_own() -> None:
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


def test_what_is_in_one_slot_needs_no_parting() -> None:
    made = cursors()
    assert made.to_part() == 0
    for shard in (A, B):
        made.open(shard).add(shard, b"0-0")
    assert made.to_part() == 0
