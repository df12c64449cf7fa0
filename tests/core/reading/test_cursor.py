"""Cursor: positions, recovery, rewinds, and fairness among shards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.reading.cursor import Cursor, Position, ReadNew, ReadPending
from penstock.message import EntryId, Shard
from support.entries import entries

A, B, C, D = (Shard(name, 0, name.encode()) for name in "abcd")


def live(cursor: Cursor, budget: int = 10) -> ReadNew:
    read = cursor.next(budget)
    assert isinstance(read, ReadNew)
    return read


def recovery(cursor: Cursor, budget: int = 10) -> ReadPending:
    read = cursor.next(budget)
    assert isinstance(read, ReadPending)
    return read


def receive(cursor: Cursor, shard: Shard, *ids: str) -> Position:
    """Receive entries of a shard by a live read."""
    return cursor.received(live(cursor), shard.key, entries(*ids))


def test_without_a_group_each_shard_is_read_on_after_its_last_id() -> None:
    cursor = Cursor([(A, b"5-0"), (B, b"0-0")], group=False)
    assert [p.after for p in live(cursor).positions] == [b"5-0", b"0-0"]
    assert receive(cursor, B, "1-0", "2-0").shard is B
    assert [p.after for p in live(cursor).positions] == [b"5-0", b"2-0"]


def test_without_a_group_a_reconnect_keeps_the_positions() -> None:
    cursor = Cursor([(A, b"5-0")], group=False)
    receive(cursor, A, "7-0")
    cursor.connected()
    [position] = live(cursor).positions
    assert (position.shard, position.after, position.floor) == (A, b"7-0", b"5-0")
    assert not position.recovering


def test_a_group_is_recovered_shard_by_shard_and_then_read_live() -> None:
    cursor = Cursor([(A, b"5-0"), (B, b"6-0")], group=True)
    cursor.connected()
    first = recovery(cursor)
    assert first.position.shard is A
    assert first.position.after == b"0-0"
    assert first.count == 10
    cursor.recovered(first, entries("1-0"))
    assert [p.shard for p in live(cursor).positions] == [A]
    second = recovery(cursor)
    assert second.position.shard is B
    cursor.recovered(second, [])
    assert [p.shard for p in live(cursor).positions] == [A, B]


def test_recovery_continues_page_by_page_until_a_page_is_short() -> None:
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


def test_recovery_ends_with_the_entries_that_were_pending_when_it_began() -> None:
    """Higher ids were read live, perhaps by another consumer of the same name."""
    cursor = Cursor([(A, b"0-0")], group=True)
    cursor.connected()
    page = recovery(cursor, 2)
    page.position.until = EntryId(3)
    cursor.recovered(page, entries("1-0", "2-0"))
    cursor.recovered(recovery(cursor, 2), entries("3-0", "4-0"))
    live(cursor)
    cursor.connected()
    assert recovery(cursor).position.until is None


def test_recovery_can_continue_in_the_middle_of_a_page() -> None:
    cursor = Cursor([(A, b"0-0")], group=True)
    cursor.connected()
    cursor.recovered_up_to(recovery(cursor, 2), b"1-0")
    page = recovery(cursor, 2)
    assert page.position.after == b"1-0"
    cursor.recovered(page, entries("3-0"))
    live(cursor)


def test_a_read_asks_for_no_more_than_may_come_at_once() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=True)
    page = cursor.next(100, most=2, lines=50)
    assert isinstance(page, ReadPending)
    assert page.count == 50
    for position in cursor.positions:
        position.recovering = False
    read = cursor.next(100, most=2, lines=50)
    assert isinstance(read, ReadNew)
    assert read.count == 2
    cursor.received(read, b"a", entries("1-0", "2-0"))
    rest = cursor.next(100, most=4, lines=50)
    assert isinstance(rest, ReadNew)
    assert (rest.count, len(rest.positions)) == (4, 1)


def test_if_not_all_shards_can_be_read_at_once_they_take_turns() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0"), (C, b"0-0")], group=False)

    def turn() -> tuple[str, bool]:
        read = cursor.next(100, shards=2)
        assert isinstance(read, ReadNew)
        if b"a" in [position.shard.key for position in read.positions]:
            for _ in range(brings):
                cursor.received(read, b"a", entries(f"{next(ids)}-0"))
        return "".join(p.shard.stream for p in read.positions), read.wait

    ids, brings = iter(range(1, 100)), 1
    assert [turn() for _ in range(4)] == [("ab", False), ("c", False)] * 2
    brings = 0
    # After a round without entries a read waits for all shards; then turns go on.
    rounds = [("ab", False), ("c", False), ("abc", True)]
    assert [turn() for _ in range(6)] == rounds * 2
    cursor.remove(B)
    assert turn() == ("ac", True)


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


def test_pending_entries_may_be_unknown_until_the_recovery_has_ended() -> None:
    cursor = Cursor([(A, b"5-0"), (B, b"6-0")], group=True)
    first = recovery(cursor)
    assert [p.may_have_unknown for p in cursor.positions] == [True, True]
    cursor.recovered(first, entries("1-0"))
    assert [p.may_have_unknown for p in cursor.positions] == [False, True]
    cursor.position(b"b").broken = "WRONGTYPE"
    assert [p.may_have_unknown for p in cursor.positions] == [False, False]


def test_with_noack_nothing_is_recovered() -> None:
    cursor = Cursor([(A, b"5-0")], group=True, recover=False)
    cursor.connected()
    assert live(cursor).positions[0].after == b"5-0"
    receive(cursor, A, "7-0")
    cursor.connected()
    assert live(cursor).positions[0].after == b"5-0"


def test_in_a_group_the_server_keeps_the_position() -> None:
    cursor = Cursor([(A, b"5-0")], group=True, recover=False)
    before = live(cursor).positions[0].after
    assert receive(cursor, A, "7-0").shard is A
    assert live(cursor).positions[0].after == before


def test_the_floor_of_a_group_stays_as_it_was_when_the_group_was_opened() -> None:
    cursor = Cursor([(A, b"5-0")], group=True)
    cursor.connected()
    cursor.recovered(recovery(cursor, 1), entries("8-0"))
    assert [position.floor for position in cursor.positions] == [b"5-0"]


def test_recovery_and_live_reads_take_turns() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=True)
    cursor.recovered(recovery(cursor), [])
    for _ in range(3):
        read = live(cursor)
        assert [p.shard for p in read.positions] == [A]
        assert not read.wait, "there are more entries to recover"
        page = recovery(cursor, 1)
        assert page.position.shard is B
        cursor.recovered(page, entries("1-0"))
    live(cursor)
    cursor.recovered(recovery(cursor), entries("1-0", "2-0"))
    read = live(cursor)
    assert [p.shard for p in read.positions] == [A, B]
    assert read.wait


def test_shards_that_recover_take_turns_too() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0"), (C, b"0-0")], group=True)
    pages = [recovery(cursor, 1) for _ in range(6)]
    assert [page.position.shard for page in pages] == [A, B, C, A, B, C]
    cursor.recovered(pages[0], [])
    turns = set()
    for _ in range(2):
        live(cursor)
        turns.add(recovery(cursor, 1).position.shard)
    assert turns == {B, C}


def test_while_no_shard_is_live_recovery_continues_alone() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=True)
    for _ in range(3):
        cursor.recovered(recovery(cursor, 1), entries("1-0"))


def test_shards_whose_page_was_full_are_read_alone_once() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0"), (C, b"0-0")], group=False)
    read = live(cursor, 7)
    assert (read.count, read.wait) == (2, True)
    cursor.received(read, b"a", entries("1-0", "2-0"))
    cursor.received(read, b"b", entries("1-0"))
    cursor.received(read, b"c", entries("1-0", "2-0"))
    rest = live(cursor, 7)
    assert [p.shard for p in rest.positions] == [A, C]
    assert (rest.count, rest.wait) == (3, False)
    cursor.received(rest, b"a", entries("3-0", "4-0", "5-0"))
    all_shards = live(cursor, 7)
    assert [p.shard for p in all_shards.positions] == [A, B, C]
    assert all_shards.wait


def test_after_a_read_of_full_shards_all_shards_are_read_before_any_recovery() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=True)
    for _ in range(2):
        page = cursor.next(10)
        while isinstance(page, ReadNew):
            page = cursor.next(10)
        assert page is not None
        cursor.recovered(page, [])
    read = live(cursor, 2)
    cursor.received(read, b"a", entries("1-0"))
    cursor.add(C, b"0-0")
    assert [p.shard for p in live(cursor).positions] == [A]
    assert [p.shard for p in live(cursor).positions] == [A, B]
    assert recovery(cursor).position.shard is C


def test_a_single_shard_whose_page_was_full_is_read_as_usual() -> None:
    cursor = Cursor([(A, b"0-0")], group=False)
    read = live(cursor, 1)
    cursor.received(read, b"a", entries("1-0"))
    assert live(cursor).wait


def test_after_a_reconnect_recovery_precedes_shards_whose_page_was_full() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=True)
    for position in cursor.positions:
        position.recovering = False
    cursor.received(live(cursor, 2), b"a", entries("1-0"))
    cursor.connected()
    assert recovery(cursor).position.shard is A


def test_a_broken_shard_whose_page_was_full_is_not_read() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=False)
    cursor.received(live(cursor, 2), b"a", entries("1-0"))
    cursor.positions[0].broken = "WRONGTYPE"
    assert [p.shard for p in live(cursor).positions] == [B]


def test_a_broken_shard_is_skipped_until_it_is_repaired() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=True)
    a, b = cursor.positions
    a.broken = "WRONGTYPE"
    assert list(cursor.broken) == [a]
    page = recovery(cursor)
    assert page.position is b
    cursor.recovered(page, [])
    assert list(live(cursor).positions) == [b]
    assert live(cursor).wait
    b.broken = "WRONGTYPE"
    assert cursor.next(10) is None
    a.broken = b.broken = None
    assert recovery(cursor).position is a


def test_without_shards_there_is_nothing_to_read() -> None:
    assert Cursor((), group=False).next(10) is None
    assert Cursor((), group=True).next(10) is None


def test_an_added_shard_is_read_and_in_a_group_its_pending_entries_come_first() -> None:
    cursor = Cursor([(A, b"0-0")], group=False)
    cursor.add(B, b"7-0")
    assert B in cursor
    assert list(cursor.shards) == [A, B]
    assert [p.after for p in live(cursor).positions] == [b"0-0", b"7-0"]
    grouped = Cursor((), group=True)
    grouped.add(B, b"7-0")
    page = recovery(grouped)
    assert (page.position.after, page.position.floor) == (b"0-0", b"7-0")


def test_a_removed_shard_is_not_read_any_more() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=False)
    read = live(cursor, 2)
    cursor.received(read, b"a", entries("1-0"))
    cursor.received(read, b"b", entries("1-0"))
    cursor.remove(A)
    assert A not in cursor
    assert list(cursor.shards) == [B]
    assert [p.shard for p in live(cursor).positions] == [B]


# -- rewinds -----------------------------------------------------------------------


def test_ids_not_above_the_highest_one_read_are_a_redelivery() -> None:
    cursor = Cursor([(A, b"0-0")], group=True, recover=False)
    assert not receive(cursor, A, "5-0", "9-0").rewound
    assert not receive(cursor, A, "10-0").rewound, "ids are numbers"
    position = receive(cursor, A, "9-0", "11-0")
    assert position.rewound
    assert str(position.highest) == "11-0"
    assert receive(cursor, A, "11-0").rewound
    assert not receive(cursor, A, "11-1").rewound


def test_each_shard_is_rewound_separately() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=False)
    receive(cursor, A, "5-0")
    assert not receive(cursor, B, "4-0").rewound
    assert receive(cursor, A, "4-0").rewound


def test_a_reported_rewind_is_forgotten_when_it_is_over() -> None:
    cursor = Cursor([(A, b"0-0")], group=False)
    receive(cursor, A, "5-0")
    position = receive(cursor, A, "1-0")
    assert not position.rewind_reported
    position.rewind_reported = True
    assert receive(cursor, A, "2-0").rewind_reported, "it is still the same rewind"
    assert not receive(cursor, A, "6-0").rewind_reported
    assert not receive(cursor, A, "3-0").rewind_reported, "this is another rewind"


def test_a_restarted_shard_does_not_report_a_rewind() -> None:
    cursor = Cursor([(A, b"0-0")], group=True)
    [position] = cursor.positions
    position.recovering = False
    receive(cursor, A, "5-0")
    position.restart(b"2-0")
    assert (position.after, position.floor) == (b"2-0", b"2-0")
    position = receive(cursor, A, "3-0")
    assert position.rewound
    assert position.rewind_reported


def test_a_restart_ends_recovery() -> None:
    cursor = Cursor([(A, b"0-0")], group=True)
    cursor.positions[0].restart(b"7-0")
    assert not cursor.positions[0].recovering
    live(cursor)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_rewind_is_detected_exactly_while_ids_are_not_above_the_highest_one(
    reads: list[tuple[int, int]],
) -> None:
    cursor = Cursor([(A, b"0-0")], group=False)
    seen = 0
    for first, count in reads:
        ids = range(first, first + count)
        position = receive(cursor, A, *[f"{n}-0" for n in ids])
        assert position.rewound == (first <= seen)
        seen = max(seen, *ids)
        assert position.highest.ms == seen


# -- fairness ----------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 2000))
@settings(max_examples=100, deadline=None)
def test_the_budget_is_divided_among_the_shards_with_at_least_one_entry_each(
    shards: int, budget: int
) -> None:
    start = [(Shard(str(n), 0, b"%d" % n), b"0-0") for n in range(shards)]
    read = live(Cursor(start, group=False), budget)
    assert read.count >= 1
    assert len(read.positions) == shards
    # The sum exceeds a tiny budget by less than the number of shards.
    assert read.count * shards <= max(budget, shards)
    assert read.count * shards > budget - shards


def test_an_entry_from_a_shard_that_is_not_read_is_a_bug() -> None:
    with pytest.raises(KeyError):
        receive(Cursor([(A, b"0-0")], group=False), C, "1-0")


def test_a_pinned_start_counts_as_an_id_that_was_seen() -> None:
    cursor = Cursor([], group=False)
    cursor.add(A, b"5-0", pinned=True)
    cursor.add(B, b"5-0")
    assert [p.highest for p in cursor.positions] == [EntryId(5), EntryId.MIN]


def test_a_pending_id_above_all_known_ones_came_in_a_lost_reply() -> None:
    cursor = Cursor([(A, b"0-0")], group=True)
    [position] = cursor.positions
    assert not position.unseen(EntryId(1))  # no summary is known yet
    position.recovery_began(EntryId(5))
    assert position.unseen(EntryId(6))
    assert not position.unseen(EntryId(5))
    position.recovery_began(EntryId(9))  # the entries that were pending at first count
    assert position.unseen(EntryId(6))
    position.highest = EntryId(7)
    assert not position.unseen(EntryId(7))
    assert position.unseen(EntryId(8))


def test_a_reconnect_makes_the_identity_of_a_stream_doubtful() -> None:
    cursor = Cursor([(A, b"0-0"), (B, b"0-0")], group=True)
    cursor.connected()
    assert not any(position.doubtful for position in cursor.positions)
    for position in cursor.positions:
        position.recovering = False
    receive(cursor, A, "5-0")
    cursor.connected()
    one, other = cursor.positions
    assert one.doubtful
    assert one.identity.interrupted
    assert not other.doubtful


def test_a_recreated_stream_is_read_from_its_beginning() -> None:
    cursor = Cursor([(A, b"0-0")], group=False)
    receive(cursor, A, "5-0", "6-0")
    position = cursor.position(A.key)
    assert position.redelivers(b"6-0")
    assert not position.redelivers(b"6-1")
    position.recreated()
    assert (position.after, position.floor) == (b"0-0", b"0-0")
    assert not position.redelivers(b"0-1")


def test_shards_whose_reply_was_lost_are_read_first() -> None:
    cursor = Cursor([(shard, b"0-0") for shard in (A, B, C, D)], group=False)
    assert [*read_turn(cursor, 2)] == [A, B]
    cursor.connected()
    assert [*read_turn(cursor, 1)] == [A]
    assert [*read_turn(cursor, 9)] == [A, B, C, D]
    cursor.connected()
    assert [*read_turn(cursor, 2)] == [B, C]


def read_turn(cursor: Cursor, shards: int) -> Iterator[Shard]:
    read = cursor.next(10, shards=shards)
    assert isinstance(read, ReadNew)
    for position in read.positions:
        yield position.shard
