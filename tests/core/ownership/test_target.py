"""Targets: balanced, with the fewest moves, and the same for everybody."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.ownership.target import Target, decode, encode, plan

NAMES = st.sampled_from("abcdef")
MEMBERS = st.dictionaries(NAMES, st.integers(1, 4), min_size=1)
OLD = st.dictionaries(st.integers(0, 80), st.sampled_from("abcdefgh"))
SHARDS = st.sets(st.integers(0, 80))


def loads(target: Target, members: dict[str, int]) -> dict[str, int]:
    owners = list(target.values())
    return {name: owners.count(name) for name in members}


def moves(old: Target, new: Target) -> int:
    return sum(old.get(shard) != name for shard, name in new.items())


@given(OLD, MEMBERS, SHARDS)
def test_each_shard_has_a_member_and_each_member_its_share(
    old: dict[int, str], members: dict[str, int], shards: set[int]
) -> None:
    target = plan(old, members, shards)
    assert set(target) == shards
    whole = sum(members.values())
    for name, load in loads(target, members).items():
        assert abs(load - len(shards) * members[name] / whole) < 1


@given(OLD, st.sets(NAMES, min_size=1), SHARDS)
def test_equal_members_differ_by_one_at_most(
    old: dict[int, str], names: set[str], shards: set[int]
) -> None:
    members = dict.fromkeys(names, 1)
    found = loads(plan(old, members, shards), members).values()
    assert max(found) - min(found) <= 1


@given(OLD, MEMBERS, SHARDS)
def test_a_balanced_target_stays_as_it_is(
    old: dict[int, str], members: dict[str, int], shards: set[int]
) -> None:
    target = plan(old, members, shards)
    assert plan(target, members, shards) == target


@given(OLD, MEMBERS, SHARDS, st.randoms())
def test_the_order_of_what_is_given_does_not_matter(
    old: dict[int, str], members: dict[str, int], shards: set[int], chance: object
) -> None:
    def mixed(given: dict[object, object]) -> dict[object, object]:
        items = [*given.items()]
        chance.shuffle(items)  # type: ignore[attr-defined]
        return dict(items)

    same = plan(mixed(old), mixed(members), shards)  # type: ignore[arg-type]
    assert [*same.items()] == [*plan(old, members, shards).items()]


@given(
    st.dictionaries(st.integers(0, 5), st.sampled_from("abcx")),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1),
    st.sets(st.integers(0, 5), max_size=5),
)
def test_no_balanced_target_has_fewer_moves(
    old: dict[int, str], members: dict[str, int], shards: set[int]
) -> None:
    whole = sum(members.values())
    fewest = min(
        moves(old, target)
        for owners in product(sorted(members), repeat=len(shards))
        for target in [dict(zip(sorted(shards), owners, strict=True))]
        if all(
            abs(load - len(shards) * members[name] / whole) < 1
            for name, load in loads(target, members).items()
        )
    )
    assert moves(old, plan(old, members, shards)) == fewest


def test_free_shards_go_to_those_with_most_room_and_ties_to_the_first_name() -> None:
    assert plan({}, {"b": 1, "a": 1}, range(5)) == {
        0: "a",
        1: "a",
        2: "b",
        3: "a",
        4: "b",
    }
    assert plan({0: "a", 1: "a"}, {"a": 1, "b": 1}, range(3)) == {
        0: "a",
        1: "a",
        2: "b",
    }


def test_without_members_nobody_has_anything() -> None:
    assert plan({0: "a"}, {}, range(4)) == {}


@given(st.dictionaries(st.integers(0, 5000), st.text(max_size=5)))
def test_a_target_is_packed_and_unpacked(target: dict[int, str]) -> None:
    assert decode(encode(target)) == target


def test_a_packed_target_takes_little_more_than_a_byte_for_each_shard() -> None:
    members = dict.fromkeys([f"worker-{n}" for n in range(4)], 1)
    assert len(encode(plan({}, members, range(1024)))) < 1024 + 4 * 16


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"\x81\xa1\xff\x91\x00",  # a name that is no text
        b"\x81\xa1a\x92\x01\xff",  # a gap below 0
        b"\x81\xa1a\x92\x01\x00",  # a shard twice
        b"\x82\xa1a\x91\x01\xa1b\x91\x01",  # of two members
    ],
)
def test_what_is_no_target_is_none(raw: bytes) -> None:
    assert decode(raw) is None
