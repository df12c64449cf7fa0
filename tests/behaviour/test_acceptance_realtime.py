"""SeaStreamer's scenario T5, a to h: several streams in REALTIME, busy and quiet ones.

SeaStreamer waits 100 ms so that its reader is back in its blocking read when the next
message arrives. These tests ask the server whether the reader is blocked.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import EARLIEST, LATEST, REALTIME, CommandError, Consumer
from support.waiting import eventually, is_blocked, numbers, read, send


def realtime(url: str, *streams: str, start: Any = LATEST) -> Consumer[bytes]:
    return Consumer(*streams, url=url, mode=REALTIME, start=start)


async def wait_until_blocked(redis: Any) -> None:
    """Wait until the reader is in a blocking read."""
    await eventually(lambda: is_blocked(redis))


async def read_numbers(consumer: Consumer[bytes], count: int) -> list[int]:
    return numbers(await read(consumer, count, within=5))


async def test_t5a_a_fast_stream_does_not_starve_a_slow_one(
    url: str, stream: str, redis: Any
) -> None:
    fast, slow = f"{stream}-fast", f"{stream}-slow"
    async with realtime(url, fast, slow) as consumer:
        await wait_until_blocked(redis)
        await send(url, fast, 0)
        await wait_until_blocked(redis)
        await send(url, slow, 100)
        assert await read_numbers(consumer, 1) == [0]
        await send(url, fast, 1)
        assert sorted(await read_numbers(consumer, 2)) == [1, 100]


async def test_t5b_many_quiet_streams_are_delivered_beside_a_fast_one(
    url: str, stream: str, redis: Any
) -> None:
    fast, *quiet = [f"{stream}-{n}" for n in range(4)]
    async with realtime(url, fast, *quiet) as consumer:
        await wait_until_blocked(redis)
        await send(url, fast, 0)
        await wait_until_blocked(redis)
        for number, name in enumerate(quiet):
            await send(url, name, 100 + number)
        assert await read_numbers(consumer, 1) == [0]
        await send(url, fast, 1)
        assert sorted(await read_numbers(consumer, 4)) == [1, 100, 101, 102]


async def test_t5c_latest_skips_history(url: str, stream: str, redis: Any) -> None:
    a, b = f"{stream}-a", f"{stream}-b"
    await send(url, a, 0, 1, 2)
    await send(url, b, 3, 4, 5)
    async with realtime(url, a, b) as consumer:
        await wait_until_blocked(redis)
        await send(url, a, 10)
        await send(url, b, 11)
        assert sorted(await read_numbers(consumer, 2)) == [10, 11]
        assert await consumer.next(timeout=0.05) is None


async def test_t5d_a_quiet_stream_with_history_is_neither_starved_nor_replayed(
    url: str, stream: str, redis: Any
) -> None:
    fast, quiet = f"{stream}-fast", f"{stream}-quiet"
    await send(url, quiet, 97, 98, 99)
    async with realtime(url, fast, quiet) as consumer:
        await wait_until_blocked(redis)
        await send(url, fast, 0)
        await wait_until_blocked(redis)
        await send(url, quiet, 100)
        assert await read_numbers(consumer, 1) == [0]
        await send(url, fast, 1)
        assert sorted(await read_numbers(consumer, 2)) == [1, 100]
        assert await consumer.next(timeout=0.05) is None


async def test_t5e_streams_that_are_missing_on_opening_are_delivered_in_full(
    url: str, stream: str, redis: Any
) -> None:
    a, b = f"{stream}-a", f"{stream}-b"
    async with realtime(url, a, b) as consumer:
        await wait_until_blocked(redis)
        for name, number in ((a, 0), (b, 1), (a, 2), (b, 3)):
            await send(url, name, number)
        messages = await read(consumer, 4, within=5)
    assert sorted(numbers(messages)) == [0, 1, 2, 3]
    for name, wanted in ((a, [0, 2]), (b, [1, 3])):
        assert numbers([m for m in messages if m.stream == name]) == wanted


async def test_t5f_fast_and_slow_streams_are_delivered_in_every_round(
    url: str, stream: str, redis: Any
) -> None:
    fast, slow = f"{stream}-fast", f"{stream}-slow"
    async with realtime(url, fast, slow) as consumer:
        for turn in range(5):
            await send(url, fast, turn)
            await wait_until_blocked(redis)
            await send(url, slow, 100 + turn)
            assert sorted(await read_numbers(consumer, 2)) == [turn, 100 + turn]


async def test_t5g_earliest_delivers_everything(
    url: str, stream: str, redis: Any
) -> None:
    fast, quiet = f"{stream}-fast", f"{stream}-quiet"
    await send(url, quiet, 99)
    async with realtime(url, fast, quiet, start=EARLIEST) as consumer:
        await wait_until_blocked(redis)
        await send(url, fast, 0)
        await wait_until_blocked(redis)
        await send(url, quiet, 100)
        assert sorted(await read_numbers(consumer, 3)) == [0, 99, 100]


async def test_t5h_next_raises_if_a_second_key_has_another_type(
    url: str, stream: str, redis: Any
) -> None:
    text = f"{stream}-text"
    await redis.set(text, "a string")
    async with asyncio.timeout(5), realtime(url, stream, text) as consumer:
        with pytest.raises(CommandError, match="WRONGTYPE"):
            await consumer.next()
