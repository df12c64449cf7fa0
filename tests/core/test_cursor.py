from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.cursor import Cursor, Live, Position, Recover
from penstock._core.replies import RawEntry
from penstock.message import Shard

A, B, C = (Shard(name, 0, name.encode()) for name in "abc")


def entries(*ids: str) -> list[RawEntry]:
    return [[id_.encode(), [b"msg", b""]] for id_ in ids]


def live(cursor: Cursor, room: int = 10) -> Live:
    read = cursor.next(room)
    assert isinstance(read, Live)
    return read


def recovery(cursor: Cursor, room: int = 10) -> Recover:
    read = cursor.next(room)
    assert isinstance(read, Recover)
    return read


def test_without_a_group_reading_goes_on_after_the_last_id_seen_of_each_shard() -> None:
    cursor = Cursor([(A, b"5-0"), (B, b"0-0")], group=False)
    assert [p.after for p in live(cursor).positions] == [b"5-0", b"0-0"]
    assert cursor.received(b"b", entries("1-0", "2-0")) is B
    assert [p.after for p in live(cursor).positions] == [b"5-0", b"2-0"]


def test_without_a_group_a_reconnect_keeps_the_positions() -> None:
    cursor = Cursor([(A, b"5-0")], group=False)
    cursor.received(b"a", entries("7-0"))
    cursor.connected()
    [position] = live(cursor).positions
    assert position == Position(A, b"7-0", floor=b"5-0", recovering=False)


def test_a_group_is_recovered_shard_by_shard_and_then_live() -> None:
    cursor = Cursor([(A, b"5-0"), (B, b"6-0")], group=True)
    cursor.connected()
    first = recovery(cursor)
    assert first.position.shard is A
    assert first.position.after == b"0-0"
    assert first.count == 10
    cursor.recovered(first, entries("1-0"))
    second = recovery(cursor)
    assert second.position.shard is B
    cursor.recovered(second, [])
    assert [p.shard for p in live(cursor).positions] == [A, B]


def test_recovery_goes_page_by_page_until_a_page_is_short() -> None:
    cursor = Cursor([(A, b"0-0")], group=True)
    cursor.connected()
    cursor.recovered(recovery(cursor, 2), entries("1-0", "3-0"))
    page = recovery(cursor, 2)
    assert page.position.after == b"3-0"
    cursor.recovered(page, entries("4-0", "5-0"))
    page = recovery(cursor, 3)
    assert page.position.after == b"5-0"
    assert page.count == 3
    cursor.recovered(page, entries("6-0", "7-0"))
    live(cursor)


def test_a_full_page_is_not_the_last_even_if_nothing_follows() -> None:
    cursor = Cursor([(A, b"0-0")], group=True)
    cursor.connected()
    cursor.recovered(recovery(cursor, 1), entries("1-0"))
    cursor.recovered(recovery(cursor, 1), [])
    live(cursor)


def test_a_group_is_recovered_from_the_start_on_every_connection() -> None:
    cursor = Cursor([(A, b"5-0")], group=True)
    cursor.connected()
    cursor.recovered(recovery(cursor, 1), entries("8-0"))
    cursor.connected()
    again = recovery(cursor)
    assert again.position.after == b"0-0"
    cursor.recovered(again, [])
    live(cursor)
    cursor.connected()
    assert recovery(cursor).position.after == b"0-0"


def test_where_the_server_acknowledges_by_itself_nothing_is_recovered() -> None:
    cursor = Cursor([(A, b"5-0")], group=True, recover=False)
    cursor.connected()
    assert live(cursor).positions[0].after == b"5-0"
    cursor.received(b"a", entries("7-0"))
    cursor.connected()
    assert live(cursor).positions[0].after == b"5-0"


def test_in_a_group_the_server_knows_where_to_go_on() -> None:
    cursor = Cursor([(A, b"5-0")], group=True)
    before = live(cursor).positions[0].after
    assert cursor.received(b"a", entries("7-0")) is A
    assert live(cursor).positions[0].after == before


def test_the_floor_of_a_group_stays_where_it_was_when_we_looked() -> None:
    cursor = Cursor([(A, b"5-0")], group=True)
    cursor.connected()
    cursor.recovered(recovery(cursor, 1), entries("8-0"))
    assert [position.floor for position in cursor.positions] == [b"5-0"]


@given(st.integers(1, 5), st.integers(1, 2000))
@settings(max_examples=100, deadline=None)
def test_the_room_is_divided_among_the_shards_and_at_least_one_each(
    shards: int, room: int
) -> None:
    start = [(Shard(str(n), 0, b"%d" % n), b"0-0") for n in range(shards)]
    read = live(Cursor(start, group=False), room)
    assert read.count >= 1
    assert len(read.positions) == shards
    # Over the room by less than there are shards, and only if it is tiny.
    assert read.count * shards <= max(room, shards)
    assert read.count * shards > room - shards


def test_what_comes_from_a_shard_that_is_not_read_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Cursor([(A, b"0-0")], group=False).received(C.key, entries("1-0"))
