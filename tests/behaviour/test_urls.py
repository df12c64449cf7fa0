"""URLs: every connection uses the user, the password and the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    AccessError,
    Consumer,
    Mode,
    Producer,
    admin,
)
from support.server import Server, server
from support.waiting import eventually, numbers, read, send

# With characters that have to be escaped in a URL.
USER, PASSWORD = "al-ice", "p@ss:w/ord#? %"


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[tuple[Server, Any]]:
    """Provide a server that accepts only one user, and a client of database 5."""
    async with server(folder) as own:
        first = own.client()
        rights = {"keys": ["*"], "channels": ["*"], "categories": ["+@all"]}
        await first.acl_setuser(
            USER, enabled=True, passwords=[f"+{PASSWORD}"], **rights
        )
        client = Redis.from_url(
            own.url, username=USER, password=PASSWORD, db=5, socket_timeout=10
        )
        await client.ping()
        await first.acl_setuser("default", enabled=False)
        await first.aclose()
        try:
            yield own, client
        finally:
            await client.aclose()


def login(own: Server, *, password: str = PASSWORD, db: int = 5) -> str:
    at = own.url.removeprefix("redis://")
    return f"redis://{USER}:{quote(password, safe='')}@{at}/{db}"


@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE, LOAD_BALANCED])
async def test_producers_and_consumers_use_user_password_and_database(
    stream: str, tmp_path: Path, mode: Mode
) -> None:
    """SeaStreamer's W21: credentials in the URI were ignored."""
    group = None if mode is REALTIME else "g"
    async with guarded(tmp_path) as (own, redis):
        url = login(own)
        await send(url, stream, 1, 2, 3)
        assert await redis.xlen(stream) == 3
        info = await redis.info("keyspace")
        assert set(info) == {"db5"}
        async with Consumer(
            stream, url=url, mode=mode, group=group, start=EARLIEST
        ) as consumer:
            assert numbers(await read(consumer, 3)) == [1, 2, 3]
            users = {(client["user"], client["db"]) for client in await clients(redis)}
            assert users == {(USER, "5")}
        if group is not None:
            state = await admin.group_state(stream, group, url=url)
            assert state.pending == 0
        # Another database has none of it.
        async with Consumer(
            stream, url=login(own, db=6), mode=mode, group=group, start=EARLIEST
        ) as consumer:
            assert await consumer.next(timeout=0.1) is None


async def clients(redis: Any) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = await redis.client_list()
    return listed


async def test_user_and_database_are_used_again_for_a_reconnect(
    stream: str, tmp_path: Path
) -> None:
    async with guarded(tmp_path) as (own, redis):
        url = login(own)
        async with Consumer(stream, url=url, group="g") as consumer:
            await send(url, stream, 1)
            assert numbers(await read(consumer, 1)) == [1]
            await redis.execute_command("CLIENT", "KILL", "TYPE", "NORMAL")
            await send(url, stream, 2)
            assert numbers(await read(consumer, 1, within=5)) == [2]
            await consumer.commit()
            await eventually(lambda: both_are_back(redis))


async def both_are_back(redis: Any) -> bool:
    """Return whether both connections of the consumer are back, beside this client."""
    return len([c for c in await clients(redis) if c["db"] == "5"]) == 3


async def test_a_wrong_password_is_refused_and_not_quoted(
    stream: str, tmp_path: Path
) -> None:
    async with guarded(tmp_path) as (own, _):
        for url in (login(own, password="canary"), own.url):
            for opened in (
                Producer(url),
                Consumer(stream, url=url),
                Consumer(stream, url=url, group="g"),
            ):
                with pytest.raises(AccessError) as caught:
                    async with opened:
                        pytest.fail("must not open")
                assert "canary" not in str(caught.value)
