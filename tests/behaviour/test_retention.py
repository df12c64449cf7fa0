"""Retention: how much of a stream is kept."""

from __future__ import annotations

import time
from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest

from penstock import ConfigurationError, MaxAge, MaxLen, Producer, RoundRobin

HOUR = 3_600_000


async def bodies(redis: Any, key: str) -> list[int]:
    """Return the decimal payloads of a stream."""
    return [int(fields[b"msg"]) for _, fields in await redis.xrange(key)]


async def test_the_newest_messages_are_kept(url: str, stream: str, redis: Any) -> None:
    async with Producer(url, retention=MaxLen(10, exact=True)) as producer:
        await producer.send_many(stream, [b"%d" % n for n in range(100)])
    assert await bodies(redis, stream) == list(range(90, 100))


async def test_approximate_retention_keeps_some_more_messages_and_never_fewer(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, retention=MaxLen(150)) as producer:
        await producer.send_many(stream, [b"%d" % n for n in range(5000)])
    assert 150 <= await redis.xlen(stream) <= 400


async def test_the_length_applies_to_each_shard(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(
        url, sharder=RoundRobin(2), retention=MaxLen(3, exact=True)
    ) as producer:
        await producer.send_many(stream, [b"%d" % n for n in range(20)])
    assert await bodies(redis, f"{stream}:0") == [14, 16, 18]
    assert await bodies(redis, f"{stream}:1") == [15, 17, 19]


async def test_older_messages_are_trimmed_by_the_next_send(
    url: str, stream: str, redis: Any
) -> None:
    now = int(time.time() * 1000)
    async with Producer(url) as producer:
        for hours in (3, 2, 1):
            await producer.send(stream, b"%d" % hours, id=str(now - hours * HOUR))
        age = timedelta(hours=1.5)
        await producer.send(stream, b"0", retention=MaxAge(age, exact=True))
    assert await bodies(redis, stream) == [1, 0]


async def test_a_message_with_its_own_timestamp_never_trims_itself(
    url: str, stream: str, redis: Any
) -> None:
    """The age of imported old messages is measured by their own timestamps."""
    day = MaxAge(timedelta(days=1), exact=True)
    async with Producer(url, retention=day) as producer:
        for hours in range(0, 100, 10):
            await producer.send(stream, b"%d" % hours, timestamp=hours * HOUR)
    assert await bodies(redis, stream) == [70, 80, 90]


async def test_an_age_beyond_1970_keeps_everything(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, retention=MaxAge(36_500 * 86_400)) as producer:
        await producer.send(stream, b"1", id="1-1")
        await producer.send(stream, b"2")
    assert await bodies(redis, stream) == [1, 2]


async def test_a_call_overrides_its_outlet_and_an_outlet_overrides_its_producer(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, retention=MaxLen(30, exact=True)) as producer:
        outlet = producer.to(stream, retention=MaxLen(20, exact=True))
        await producer.to(stream).send_many([b"1"] * 50)
        assert await redis.xlen(stream) == 30
        await outlet.send(b"1")
        assert await redis.xlen(stream) == 20
        await outlet.send(b"1", retention=MaxLen(10, exact=True))
        assert await redis.xlen(stream) == 10
        await producer.send_many(stream, [b"1"], retention=MaxLen(5, exact=True))
        assert await redis.xlen(stream) == 5


async def test_without_retention_everything_is_kept(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        await producer.send_many(stream, [b"1"] * 1000)
    assert await redis.xlen(stream) == 1000


@pytest.mark.parametrize("wrong", [5, "100", timedelta(1), True])
async def test_a_retention_of_another_type_is_refused(
    url: str, stream: str, wrong: Any
) -> None:
    with pytest.raises(ConfigurationError, match="retention="):
        Producer(url, retention=wrong)
    async with Producer(url) as producer:
        with pytest.raises(ConfigurationError, match="retention="):
            await producer.send(stream, b"x", retention=wrong)
        with pytest.raises(ConfigurationError, match="retention="):
            await producer.send_many(stream, [b"x"], retention=wrong)
        with pytest.raises(ConfigurationError, match="retention="):
            producer.to(stream, retention=wrong)


@pytest.mark.parametrize("number", [0, -1, 1.5, "3", True, None])
def test_an_invalid_length_is_refused(number: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^MaxLen\(messages\)="):
        MaxLen(number)


@pytest.mark.parametrize("age", [0, -1, "1", True, timedelta(-1), float("inf")])
def test_an_invalid_age_is_refused(age: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^MaxAge\(age\)="):
        MaxAge(age)


def test_exact_must_be_a_bool() -> None:
    for create in (lambda: MaxLen(5, exact="no"), lambda: MaxAge(5, exact=1)):  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="exact"):
            create()


def test_retentions_are_frozen_and_equal_by_value() -> None:
    assert MaxAge(timedelta(hours=1)) == MaxAge(3600)
    with pytest.raises(FrozenInstanceError):
        MaxLen(5).messages = 6  # type: ignore[misc]
