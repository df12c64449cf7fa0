"""Acknowledged floor: the id up to which every group has acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import EntryId
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.trimming import (
    GroupStanding,
    acknowledged_floor,
    group_idle,
    trim_below,
)

LAST = EntryId(10)


def standing(
    last: int, oldest: int | None = None, name: str = "g", idle: float | None = 1.0
) -> GroupStanding:
    return GroupStanding(
        name,
        EntryId(last),
        0 if oldest is None else 1,
        None if oldest is None else EntryId(oldest),
        None,
        idle,
    )


def test_a_group_needs_its_pending_entries_and_those_not_yet_delivered() -> None:
    assert standing(5).needs == EntryId(5, 1)
    assert standing(5, 3).needs == EntryId(3)
    assert standing(2, 3).needs == EntryId(2, 1)
    full = GroupStanding("g", EntryId.MAX, 0, None, None, None)
    assert full.needs == EntryId.MAX


def test_the_group_that_needs_the_lowest_id_is_named() -> None:
    groups = [standing(10, name="a"), standing(9, 4, name="b"), standing(6, name="c")]
    result = acknowledged_floor(groups, LAST, None)
    assert (result.floor, result.held_by, result.ignored) == (EntryId(4), groups[1], ())


def test_no_group_is_named_if_all_groups_have_acknowledged_everything() -> None:
    result = acknowledged_floor([standing(10)], LAST, None)
    assert (result.floor, result.held_by) == (EntryId(10, 1), None)


def test_without_a_group_there_is_no_floor() -> None:
    assert acknowledged_floor([], LAST, None).floor is None


def test_groups_that_have_been_idle_for_too_long_are_ignored() -> None:
    groups = [standing(1, name="old", idle=10.1), standing(5, name="new", idle=10.0)]
    result = acknowledged_floor(groups, LAST, 10.0)
    assert (result.floor, result.ignored) == (EntryId(5, 1), ("old",))
    result = acknowledged_floor(groups, LAST, 5.0)
    assert (result.floor, result.held_by, result.ignored) == (
        None,
        None,
        ("old", "new"),
    )
    assert acknowledged_floor([standing(1, idle=None)], LAST, 0).floor == EntryId(1, 1)


@pytest.mark.parametrize(
    ("consumers", "last", "seconds"),
    [
        ([5000, 2500, 9000], 1, 2.5),
        ([0], 1, 0),
        ([], 99_000, 1),
        ([], 101_000, 0),
        ([], 0, None),
    ],
)
def test_a_group_is_as_idle_as_its_most_recently_active_consumer(
    consumers: list[int], last: int, seconds: float | None
) -> None:
    assert group_idle(consumers, EntryId(last), 100_000) == seconds


def test_the_age_of_an_id_of_nanoseconds_is_known() -> None:
    now = 1_700_000_000_000
    last = EntryId((now - 2500) * 10**6 + 999_999)
    assert group_idle([], last, now) == 2.5


def test_a_floor_is_trimmed_to_by_minid() -> None:
    assert trim_below(EntryId(5, 7)) == (b"MINID", b"=", b"5-7")
    command = commands.xtrim(b"s", trim_below(EntryId(5)))
    assert command == (b"XTRIM", b"s", b"MINID", b"=", b"5-0")
    command = scripts.xtrim_acked(b"s", b"5-0", [b"a", b"b"], trim_below(EntryId(5)))
    assert command[0] == b"EVAL"
    assert command[2:] == (1, b"s", b"5-0", 2, b"a", b"b", b"MINID", b"=", b"5-0")


@dataclass
class Group:
    """A group on the server."""

    last: EntryId = EntryId.MIN
    pending: set[EntryId] = field(default_factory=set)
    acked: set[EntryId] = field(default_factory=set)

    def inspect(self) -> GroupStanding:
        oldest = min(self.pending, default=None)
        return GroupStanding("g", self.last, len(self.pending), oldest, None, None)


@given(st.data())
def test_the_floor_never_passes_an_entry_that_a_group_has_not_acknowledged(
    data: st.DataObject,
) -> None:
    """Groups read, acknowledge and are rewound; each is inspected in two steps.

    The last delivered id is requested first and the pending entries later. The groups
    go on between the two requests and after them.
    """
    ids = st.builds(EntryId, st.integers(1, 5), st.integers(0, 3))
    stream = sorted(data.draw(st.sets(ids, min_size=1)))
    groups = [Group() for _ in range(data.draw(st.integers(1, 3)))]

    def advance(*, rewinds: bool) -> None:
        for group in groups:
            for step in data.draw(st.lists(st.sampled_from("rrab"), max_size=6)):
                if step == "r":
                    new = [id_ for id_ in stream if id_ > group.last][:2]
                    group.last = max([group.last, *new])
                    group.pending |= set(new)
                    group.acked -= set(new)
                elif step == "a" and group.pending:
                    id_ = data.draw(st.sampled_from(sorted(group.pending)))
                    group.pending.remove(id_)
                    group.acked.add(id_)
                elif step == "b" and rewinds:
                    group.last = data.draw(st.sampled_from([EntryId.MIN, *stream]))
                    group.acked = {id_ for id_ in group.acked if id_ <= group.last}

    advance(rewinds=True)
    delivered = [group.last for group in groups]
    advance(rewinds=False)
    inspected = [group.inspect() for group in groups]
    standings = [
        GroupStanding("g", last, found.pending, found.oldest_pending, None, None)
        for last, found in zip(delivered, inspected, strict=True)
    ]
    result = acknowledged_floor(standings, stream[-1], None)
    advance(rewinds=False)
    assert result.floor is not None
    for group in groups:
        needed = [id_ for id_ in stream if id_ > group.last or id_ in group.pending]
        assert all(id_ >= result.floor for id_ in needed)
    held = [id_ for id_ in stream if id_ >= result.floor]
    assert (result.held_by is not None) == bool(held)
