"""Tokens, the names of consumers, and the keys beside a shard."""

from __future__ import annotations

import pytest

from penstock._core.ownership.keys import members_key, news_channel, owner_key
from penstock._core.ownership.tokens import Token, consumer_name, is_ownership


@pytest.mark.parametrize("member", ["a", "a:b", "a#3", "ä.1", ""])
def test_a_token_is_read_as_it_was_written(member: str) -> None:
    token = Token(7, member, "f00", 3)
    assert Token.parse(token.encode()) == token


def test_a_token_has_its_number_its_member_and_a_nonce() -> None:
    assert Token(7, "a", "f00", 3).encode() == b"7:a:f00.3"


@pytest.mark.parametrize(
    "raw",
    [b"", b"x", b"1:a", b"1:a:r", b"1:a:.1", b"x:a:r.1", b"1:a:r.x", b"1:\xff:r.1"],
)
def test_what_is_no_token_is_none(raw: bytes) -> None:
    assert Token.parse(raw) is None


def test_a_name_is_that_of_one_ownership_and_changes_with_lost_reads() -> None:
    token = Token(18, "me", "f00", 3)
    names = [consumer_name(token), consumer_name(token, 2)]
    assert names == ["me#18", "me#18.2"]
    assert all(is_ownership(name.encode()) for name in names)


@pytest.mark.parametrize(
    "name", [b"me", b"me#", b"me#1a", b"#1.", b"me#1.2.3x", b"1\n"]
)
def test_other_names_are_not_those_of_ownerships(name: bytes) -> None:
    assert not is_ownership(name)


def test_the_hashes_are_in_the_slots_of_their_streams() -> None:
    assert members_key(b"orders", "billing") == b"{orders}.members:billing"
    assert owner_key(b"orders:17", "billing") == b"{orders:17}.owner:billing"
    assert owner_key(b"{o}:17", "b") == b"{o}:17.owner:b"
    assert news_channel(b"orders", "b") == b"penstock:owners:orders:b"
