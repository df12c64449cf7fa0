"""Reassignments: an operator's move is in the target, and members leave it there."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.ownership.reassignment import reassign
from penstock._core.ownership.target import Target, plan

NAMES = st.sampled_from("abcdef")


@st.composite
def moves(
    draw: st.DrawFn,
) -> tuple[dict[int, str], dict[str, int], int, str, dict[int, int]]:
    members = draw(st.dictionaries(NAMES, st.integers(1, 9), min_size=1))
    target = draw(st.dictionaries(st.integers(0, 20), NAMES, min_size=1))
    shard = draw(st.sampled_from(sorted(target)))
    to = draw(st.sampled_from(sorted(members)))
    pending = draw(st.dictionaries(st.integers(0, 20), st.integers(0, 3)))
    return target, members, shard, to, pending


def changed(one: Target, other: Target) -> list[int]:
    return [number for number in one if one[number] != other[number]]


@given(moves())
def test_the_shard_is_the_member_s_and_members_leave_the_target_as_it_is(
    given_move: tuple[dict[int, str], dict[str, int], int, str, dict[int, int]],
) -> None:
    target, members, shard, to, pending = given_move
    moved = reassign(target, members, shard, to, pending)
    assert moved[shard] == to
    assert moved.keys() == target.keys()
    assert plan(moved, members, moved) == moved


@given(moves())
def test_no_other_target_that_lasts_has_fewer_moves(
    given_move: tuple[dict[int, str], dict[str, int], int, str, dict[int, int]],
) -> None:
    target, members, shard, to, pending = given_move
    balanced = plan(target, members, target)
    moves = changed(balanced, reassign(target, members, shard, to, pending))
    if balanced[shard] == to:
        assert moves == []
        return
    alone = {**balanced, shard: to}
    lasts = plan(alone, members, alone) == alone
    assert len(moves) == (1 if lasts else 2)
    assert shard in moves


def test_a_move_to_the_member_with_fewer_shards_is_one_move() -> None:
    target = {0: "a", 1: "a", 2: "b"}
    assert reassign(target, {"a": 1, "b": 1}, 0, "b", {}) == {0: "b", 1: "a", 2: "b"}


def test_otherwise_the_shard_with_the_fewest_pending_entries_goes_the_other_way() -> (
    None
):
    target = {0: "a", 1: "a", 2: "b", 3: "b", 4: "c", 5: "c"}
    members = {"a": 1, "b": 1, "c": 1}
    moved = reassign(target, members, 0, "b", {2: 7, 3: 8})
    assert moved == {**target, 0: "b", 2: "a"}
    moved = reassign(target, members, 0, "b", {2: 7, 3: 7})
    assert moved == {**target, 0: "b", 3: "a"}


def test_a_member_without_a_shard_to_give_has_another_member_give_one() -> None:
    target = {0: "a", 1: "a", 2: "c"}
    members = {"a": 4, "b": 1, "c": 1}
    assert reassign(target, members, 0, "b", {}) == {0: "b", 1: "a", 2: "a"}


def test_a_shard_that_is_the_member_s_already_changes_nothing() -> None:
    target = {0: "a", 1: "b"}
    assert reassign(target, {"a": 1, "b": 1}, 0, "a", {}) == target


@pytest.mark.parametrize("to", ["a", "b"])
def test_a_target_that_does_not_suit_the_members_is_brought_into_balance(
    to: str,
) -> None:
    target = dict.fromkeys(range(4), "gone")
    moved = reassign(target, {"a": 1, "b": 1}, 3, to, {})
    assert moved[3] == to
    assert sorted(moved.values()) == ["a", "a", "b", "b"]


def test_every_shard_can_be_had_by_every_member() -> None:
    members = {"a": 9, "b": 1, "c": 2, "d": 1}
    target = plan({}, members, range(7))
    for shard, name in ((s, n) for s in target for n in members):
        assert reassign(target, members, shard, name, {})[shard] == name
    for one, other in combinations(range(7), 2):
        first = reassign(target, members, one, "b", {})
        assert reassign(first, members, other, "b", {})[other] == "b"
