"""Shard keys: the names of streams, and the keys of their shards."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.messages import shard_keys
from penstock.errors import ConfigurationError
from penstock.message import Shard


@pytest.mark.parametrize(
    "stream", ["orders", "orders:7", "{tag}:orders", "für", " ", "\x00", "a" * 10_000]
)
def test_the_name_of_a_stream_is_its_key_whatever_it_contains(stream: str) -> None:
    assert shard_keys.single(stream) == Shard(stream, 0, stream.encode())


@pytest.mark.parametrize("stream", ["", None, b"orders", 5, ["orders"]])
def test_a_name_that_is_not_text_or_is_empty_is_refused(stream: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a stream name"):
        shard_keys.single(stream)


@pytest.mark.parametrize("stream", ["\ud800", "a\udcff"])
def test_a_name_with_a_lone_surrogate_is_refused(stream: str) -> None:
    with pytest.raises(ConfigurationError, match="lone surrogate") as caught:
        shard_keys.single(stream)
    assert str(caught.value).isprintable()


def test_a_wrong_name_is_cut_in_the_error() -> None:
    for wrong in ("\ud800" * 10_000, b"x" * 10_000):
        with pytest.raises(ConfigurationError) as caught:
            shard_keys.single(wrong)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("stream", "number", "key"),
    [
        ("orders", 0, b"orders:0"),
        ("orders", 12, b"orders:12"),
        ("a:1", 2, b"a:1:2"),
        ("{für}", 1, "{für}:1".encode()),
        ("orders", 2**70, b"orders:%d" % 2**70),
    ],
)
def test_the_key_of_a_shard_is_the_name_of_the_stream_and_its_number(
    stream: str, number: int, key: bytes
) -> None:
    assert shard_keys.numbered(stream, number) == Shard(stream, number, key)


@pytest.mark.parametrize("number", [-1, 1.0, "1", None, True])
def test_shards_are_numbered_from_0(number: Any) -> None:
    with pytest.raises(ConfigurationError, match="numbered from 0"):
        shard_keys.numbered("orders", number)


@pytest.mark.parametrize("stream", ["", "\ud800", None])
def test_a_shard_of_an_invalid_stream_is_refused_like_the_stream(stream: Any) -> None:
    with pytest.raises(ConfigurationError, match="stream name"):
        shard_keys.numbered(stream, 0)


def test_several_shards_are_named_like_one() -> None:
    numbers = range(3)
    one_by_one = [shard_keys.numbered("a:b{c}", number) for number in numbers]
    assert list(shard_keys.several("a:b{c}", numbers)) == one_by_one
