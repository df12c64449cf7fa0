"""Entries that others wrote, without the message field, block nothing in any mode."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Consumer,
    Fields,
    Message,
    Mode,
    Prefetch,
)
from support.events import Events
from support.waiting import numbers, pending, read, send

MODES = [REALTIME, RESUMABLE, LOAD_BALANCED]
STRANGE = 250
# Fewer than there are strange ones in a row.
FEW = Prefetch(max_messages=10)


def grouped(mode: Mode) -> str | None:
    return None if mode is REALTIME else "g"


async def strangers(redis: Any, stream: str) -> list[str]:
    """Write entries that no producer of ours would; gives their ids."""
    async with redis.pipeline(transaction=False) as batch:
        for number in range(STRANGE):
            # A name twice, which redis-py's dict can't say.
            pair = ("temp", f"{number}")
            batch.execute_command("XADD", stream, "*", *pair, *pair, "unit", "C")
        return [id_.decode() for id_ in await batch.execute()]


@pytest.mark.parametrize("mode", MODES)
async def test_a_loop_gets_past_them_and_they_are_told_of(
    url: str, stream: str, redis: Any, events: Events, mode: Mode
) -> None:
    ids = await strangers(redis, stream)
    await send(url, stream, 1, 2, 3)
    async with Consumer(
        stream,
        url=url,
        mode=mode,
        group=grouped(mode),
        start=EARLIEST,
        prefetch=FEW,
        on_event=events,
    ) as consumer:
        assert numbers(await read(consumer, 3)) == [1, 2, 3]
        assert consumer.statistics().undecodable == STRANGE
    if mode is REALTIME:
        # Nothing is lost by it but a line in the log: told of once a second.
        [told] = events.named("undecodable")
        assert told.facts["id"] == ids[0]
        return
    assert [event.facts["id"] for event in events.named("gave_up")] == ids
    assert await pending(redis, stream, "g") == 0
    assert await redis.xlen(f"{stream}.dead") == STRANGE


@pytest.mark.parametrize("mode", MODES)
async def test_handlers_do_not_get_them(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await strangers(redis, stream)
    await send(url, stream, *range(50))
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) == 50:
            await consumer.aclose()

    async with Consumer(
        stream,
        url=url,
        mode=mode,
        group=grouped(mode),
        start=EARLIEST,
        prefetch=FEW,
    ) as consumer:
        async with asyncio.timeout(10):
            await consumer.run(handle, concurrency=3)
    assert sorted(seen) == list(range(50))
    if mode is not REALTIME:
        assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("mode", MODES)
async def test_fields_takes_them_whole_and_ours_too(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await strangers(redis, stream)
    await send(url, stream, 7)
    async with Consumer(
        stream,
        url=url,
        mode=mode,
        group=grouped(mode),
        start=EARLIEST,
        prefetch=FEW,
        payload=Fields,
    ) as consumer:
        messages = await read(consumer, STRANGE + 1)
    for number, message in enumerate(messages[:STRANGE]):
        pair = (b"temp", b"%d" % number)
        assert message.payload == (pair, pair, (b"unit", b"C"))
    assert messages[-1].payload == ((b"msg", b"7"),)
    if mode is not REALTIME:
        assert await pending(redis, stream, "g") == 0
