"""Warnings about settings that may lose data or fill the memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    KEEP_ALL,
    ConfigurationError,
    Consumer,
    MaxAge,
    MaxLen,
    Outgoing,
    Producer,
    RoundRobin,
)
from support.events import Events
from support.server import server, with_login

UNBOUNDED = "unbounded_stream"
EVICTED = "streams_may_be_evicted"


async def test_an_unbounded_stream_is_reported_once(
    url: str, stream: str, events: Events
) -> None:
    async with Producer(url, on_event=events) as producer:
        await producer.send(stream, b"a")
        await producer.send_many(stream, [b"b", Outgoing(b"c", key="k")])
        await producer.to(stream).send(b"d")
    async with producer:
        await producer.send(stream, b"e")
    [event] = events.named(UNBOUNDED)
    assert event.level == logging.WARNING
    assert event.facts["stream"] == stream
    for way in ("retention=", "admin.trim", "KEEP_ALL"):
        assert way in str(event)


async def test_an_unbounded_stream_is_reported_once_however_many_shards_it_has(
    url: str, stream: str, events: Events
) -> None:
    async with Producer(url, sharder=RoundRobin(3), on_event=events) as producer:
        await producer.send_many(stream, [b"a"] * 9)
    assert len(events.named(UNBOUNDED)) == 1


async def test_streams_that_are_bounded_or_meant_to_grow_are_not_reported(
    url: str, stream: str, events: Events
) -> None:
    def name(suffix: str) -> str:
        return f"{stream}.{suffix}"

    async with Producer(url, on_event=events) as producer:
        await producer.send(name("a"), b"", retention=MaxLen(5))
        await producer.to(name("b"), retention=MaxAge(5)).send(b"")
        await producer.to(name("c"), retention=KEEP_ALL).send(b"")
        await producer.send_many(name("d"), [b""], retention=KEEP_ALL)
    for kept in (MaxLen(5), KEEP_ALL):
        async with Producer(url, retention=kept, on_event=events) as producer:
            await producer.send(stream, b"")
    assert not events


async def test_many_unbounded_streams_cause_a_limited_number_of_events(
    url: str, stream: str, events: Events
) -> None:
    async with Producer(url, on_event=events) as producer:
        for number in range(30):
            await producer.enqueue(f"{stream}.{number}", b"")
    reported = events.named(UNBOUNDED)
    assert len(reported) == 10
    assert ["more" in event.facts for event in reported] == [False] * 9 + [True]


async def test_keep_all_overrides_the_producer_s_retention(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, retention=MaxLen(1, exact=True)) as producer:
        for _ in range(5):
            await producer.send(stream, b"a", retention=KEEP_ALL)
        assert await redis.xlen(stream) == 5
        await producer.to(stream, retention=KEEP_ALL).send(b"a")
        assert await redis.xlen(stream) == 6
        await producer.send(stream, b"a")
        assert await redis.xlen(stream) == 1


def test_the_error_about_a_wrong_retention_names_the_choices() -> None:
    with pytest.raises(ConfigurationError, match="KEEP_ALL"):
        Producer("redis://localhost", retention="keep_all")  # type: ignore[arg-type]


async def test_a_server_that_may_evict_streams_is_reported_at_each_opening(
    tmp_path: Path, events: Events
) -> None:
    settings = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu")
    async with server(tmp_path, *settings) as own:
        async with (
            Producer(own.url, retention=KEEP_ALL, on_event=events) as producer,
            Consumer("s", url=own.url, group="g", on_event=events),
        ):
            await producer.send("s", b"a")
        reported = events.named(EVICTED)
        assert [event.level for event in reported] == [logging.WARNING] * 2
        assert reported[0].facts["policy"] == "allkeys-lfu"
        assert "noeviction" in str(reported[0])


@pytest.mark.parametrize(
    ("limit", "policy"),
    [("0", "allkeys-lru"), ("100mb", "noeviction"), ("100mb", "volatile-lru")],
)
async def test_a_server_that_does_not_evict_streams_is_not_reported(
    tmp_path: Path, events: Events, limit: str, policy: str
) -> None:
    settings = ("--maxmemory", limit, "--maxmemory-policy", policy)
    async with (
        server(tmp_path, *settings) as own,
        Producer(own.url, on_event=events),
        Consumer("s", url=own.url, on_event=events),
    ):
        pass
    assert not events


async def test_without_permission_to_ask_the_server_nothing_is_reported(
    tmp_path: Path, events: Events
) -> None:
    settings = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    async with server(tmp_path, *settings) as own:
        async with own.client() as client:
            rules = ["on", ">pw", "~s", "-@all", "+@connection", "+xadd"]
            await client.execute_command("ACL", "SETUSER", "sender", *rules)
        login = with_login(own.url, "sender", "pw")
        async with Producer(login, retention=KEEP_ALL, on_event=events) as producer:
            await producer.send("s", b"a")
    assert not events
