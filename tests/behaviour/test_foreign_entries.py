"""Foreign entries: without the message field, they block nothing in any mode."""

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
FOREIGN = 250
# Fewer than there are foreign entries in a row.
FEW = Prefetch(max_messages=10)


def grouped(mode: Mode) -> str | None:
    return None if mode is REALTIME else "g"


async def write_foreign_entries(redis: Any, stream: str) -> list[str]:
    """Write entries that no Penstock producer writes; return their ids."""
    async with redis.pipeline(transaction=False) as batch:
        for number in range(FOREIGN):
            # A field name occurs twice, which redis-py's dict can't express.
            pair = ("temp", f"{number}")
            batch.execute_command("XADD", stream, "*", *pair, *pair, "unit", "C")
        return [id_.decode() for id_ in await batch.execute()]


@pytest.mark.parametrize("mode", MODES)
async def test_foreign_entries_are_skipped_and_reported(
    url: str, stream: str, redis: Any, events: Events, mode: Mode
) -> None:
    ids = await write_foreign_entries(redis, stream)
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
        assert consumer.statistics().undecodable == FOREIGN
    if mode is REALTIME:
        # They are reported once a second; only lines of the log are lost by that.
        [reported] = events.named("undecodable")
        assert reported.facts["id"] == ids[0]
        return
    assert [event.facts["id"] for event in events.named("gave_up")] == ids
    assert await pending(redis, stream, "g") == 0
    assert await redis.xlen(f"{stream}.dead") == FOREIGN


@pytest.mark.parametrize("mode", MODES)
async def test_handlers_do_not_receive_foreign_entries(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await write_foreign_entries(redis, stream)
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
async def test_with_fields_foreign_entries_and_messages_are_delivered_whole(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await write_foreign_entries(redis, stream)
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
        messages = await read(consumer, FOREIGN + 1)
    for number, message in enumerate(messages[:FOREIGN]):
        pair = (b"temp", b"%d" % number)
        assert message.payload == (pair, pair, (b"unit", b"C"))
    assert messages[-1].payload == ((b"msg", b"7"),)
    if mode is not REALTIME:
        assert await pending(redis, stream, "g") == 0
