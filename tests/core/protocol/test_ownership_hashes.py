"""The hashes of owned shards as an operator reads them."""

from __future__ import annotations

import pytest

from penstock._core.protocol.ownership_hashes import (
    GroupHash,
    MemberBeat,
    OwnerHash,
    read_group_hash,
    read_owner,
    read_owner_hash,
)


def test_a_group_s_hash_has_the_target_and_the_members() -> None:
    fields = {
        b"v": b"7",
        b"a": b"\x80",
        b"since": b"1000",
        b"m:a b": b"1700000000000 3",
        "m:ä".encode(): b"1700000000001 1",
    }
    assert read_group_hash(fields) == GroupHash(
        7,
        b"\x80",
        {"a b": MemberBeat(1700000000000, 3), "ä": MemberBeat(1700000000001, 1)},
    )


def test_without_a_hash_there_is_neither() -> None:
    assert read_group_hash({}) == GroupHash(0, None, {})


@pytest.mark.parametrize(
    ("value", "member"),
    [
        (b"", MemberBeat(0, 1)),
        (b"5", MemberBeat(0, 1)),
        (b"-5 1", MemberBeat(0, 1)),
        (b"5 1 ", MemberBeat(0, 1)),
        (b"5 0", MemberBeat(5, 1)),
        (b"9" * 5000 + b" 1", MemberBeat(0, 1)),
    ],
)
def test_what_is_no_beat_counts_as_one_of_long_ago(
    value: bytes, member: MemberBeat
) -> None:
    assert read_group_hash({b"m:a": value}).members == {"a": member}


def test_a_name_that_no_member_has_is_left_out() -> None:
    assert read_group_hash({b"m:\xff": b"1 1", b"m:a": b"1 1"}).members.keys() == {"a"}


def test_a_shard_s_hash_has_its_owner() -> None:
    assert read_owner(b"o") == (
        *(b"HMGET", b"o", b"token", b"owner", b"number", b"until", b"v"),
    )
    assert read_owner_hash([b"4:a:r.1", b"a", b"4", b"900", b"7"]) == OwnerHash(
        b"4:a:r.1", "a", 4, 900, 7
    )


def test_a_free_shard_keeps_the_number_of_its_last_ownership() -> None:
    free = OwnerHash(None, "", 4, 0, 7)
    assert read_owner_hash([None, None, b"4", None, b"7"]) == free
    assert read_owner_hash([None] * 5) == OwnerHash(None, "", 0, 0, 0)


def test_what_is_no_number_is_0() -> None:
    found = read_owner_hash([b"t", b"\xff", b"x", b"-1", b"1.5"])
    assert found == OwnerHash(b"t", "\udcff", 0, 0, 0)
