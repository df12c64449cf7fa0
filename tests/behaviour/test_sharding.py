"""Sharding: a stream is spread over several keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from penstock import ConfigurationError, KeyHash, Producer, Random, RoundRobin


def test_a_key_s_shard_is_the_same_in_every_language() -> None:
    """CRC-32 of the UTF-8 key, modulo n; it never changes, or keys would move."""
    assert KeyHash(2**32)("s", "123456789", b"") == 0xCBF43926
    assert KeyHash(2**32)("s", "", b"") == 0
    assert KeyHash(4)("s", "customer-7", b"") == 0
    assert KeyHash(1000)("s", "ключ", b"") == KeyHash(1000)("other", "ключ", b"x")


def test_key_hash_spreads_keys_evenly() -> None:
    sharder = KeyHash(8)
    counts = Counter(sharder("s", f"customer-{n}", b"") for n in range(8000))
    assert set(counts) == set(range(8))
    assert min(counts.values()) > 800


def test_messages_without_a_key_go_to_the_shards_in_turn() -> None:
    sharder = KeyHash(3)
    assert [sharder("s", None, b"") for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_random_uses_all_shards_and_no_others() -> None:
    sharder = Random(5)
    assert {sharder("s", "k", b"") for _ in range(500)} == set(range(5))


@pytest.mark.parametrize("shards", [0, -1, 1.5, "3", True])
def test_an_invalid_number_of_shards_is_refused(shards: Any) -> None:
    for kind in (KeyHash, RoundRobin, Random):
        with pytest.raises(ConfigurationError, match="shards="):
            kind(shards)
    with pytest.raises(ConfigurationError, match="shards="):
        Producer("redis://localhost", shards=shards)


async def test_receipts_and_keys_have_the_number_of_the_shard(
    url: str, stream: str, redis: Any
) -> None:
    """SeaStreamer's names: `stream:0` to `stream:n-1`."""
    async with Producer(url, sharder=RoundRobin(3)) as producer:
        receipts = [await producer.send(stream, b"%d" % n) for n in range(10)]
    assert [receipt.shard for receipt in receipts] == [n % 3 for n in range(10)]
    assert not await redis.exists(stream)
    for number in range(3):
        entries = await redis.xrange(f"{stream}:{number}")
        assert [int(f[b"msg"]) for _, f in entries] == list(range(number, 10, 3))


async def test_a_key_stays_on_its_shard_in_the_order_of_the_calls(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, shards=4) as producer:
        futures = [
            await producer.enqueue(stream, b"%d" % n, key=f"k{n % 10}")
            for n in range(1000)
        ]
        await asyncio.gather(*futures)
    shard_of: dict[bytes, int] = {}
    for number in range(4):
        last: dict[bytes, int] = {}
        for _, fields in await redis.xrange(f"{stream}:{number}"):
            key, value = fields[b"key"], int(fields[b"msg"])
            assert shard_of.setdefault(key, number) == number
            assert value > last.get(key, -1)
            last[key] = value
    assert len(shard_of) == 10


async def test_a_callable_may_choose_the_shard(url: str, stream: str) -> None:
    def by_size(_: str, __: str | None, payload: bytes) -> int:
        return 7 if len(payload) > 10 else 1

    async with Producer(url, sharder=by_size) as producer:
        assert (await producer.send(stream, b"x")).shard == 1
        assert (await producer.send(stream, b"x" * 11)).shard == 7


async def test_an_invalid_result_of_a_callable_is_refused(
    url: str, stream: str
) -> None:
    for invalid in (-1, 1.5, "1", True):
        async with Producer(url, sharder=lambda *_: invalid) as producer:  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match="is not a shard"):
                await producer.send(stream, b"x")


def test_shards_and_sharder_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="exclude each other"):
        Producer("redis://localhost", shards=2, sharder=RoundRobin(2))
