"""A relay whose processes and connections are killed: what arrives, and how often.

`PENSTOCK_SOAK=60` makes each test kill so often, with 100,000 messages; with
`--log-cli-level=INFO` it logs the result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from pathlib import Path
from typing import Any

import pytest

from support.relay_process import Relay, elements, feed, named, torment
from support.server import server
from support.waiting import eventually

SOAK = int(os.environ.get("PENSTOCK_SOAK", "0"))
KILLS = SOAK or 8
MESSAGES = 100_000 if SOAK else 6000
SECONDS = float(KILLS)  # for which messages are sent, with a start of 0.7 s a kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200 + 4 * SECONDS)]


def log(what: str, extra: int) -> None:
    words = "%s: %d messages, %d kills, %d pushed again"
    logging.getLogger(__name__).info(words, what, MESSAGES, KILLS, extra)


async def length(redis: Any, name: str, wanted: int) -> bool:
    return int(await redis.llen(name)) >= wanted


@pytest.fixture
async def relay(url: str, stream: str, tmp_path: Path) -> Any:
    made = Relay(named(url), stream, tmp_path)
    yield made
    for pid in made.running():
        os.kill(pid, 9)
    for process in made.processes:
        process.wait()


async def test_on_one_server_each_message_arrives_once_and_in_order(
    relay: Relay, url: str, stream: str, redis: Any
) -> None:
    queue = f"{stream}.queue"
    options = ("--batch", "7")
    relay.start(*options)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed(url, stream, MESSAGES, seconds=SECONDS))
        tasks.create_task(torment(relay, redis, redis, *options, times=KILLS))
    await eventually(lambda: length(redis, queue, MESSAGES), within=60)
    log("one server", 0)
    assert await elements(redis, queue) == list(range(MESSAGES))
    assert (await redis.xpending(stream, "relay"))["pending"] == 0
    assert not await redis.exists(f"{stream}.dead")


async def test_on_another_server_no_message_is_missing(
    relay: Relay, url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    async with server(tmp_path, "--appendfsync", "no") as other, other.client() as to:
        options = ("--batch", "7", "--to-url", named(other.url))
        relay.start(*options)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed(url, stream, MESSAGES, seconds=SECONDS))
            cut = random.choice([redis, to])
            tasks.create_task(torment(relay, cut, to, *options, times=KILLS))

        async def all_are_there() -> bool:
            return len(set(await elements(to, f"{stream}.queue"))) == MESSAGES

        await eventually(all_are_there, within=60)
        found = await elements(to, f"{stream}.queue")
    log("another server", len(found) - MESSAGES)
    assert set(found) == set(range(MESSAGES))
