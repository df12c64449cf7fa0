"""REALTIME: each consumer gets all messages, and keeps its position in memory."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    REALTIME,
    CommandError,
    Consumer,
    UsageError,
)
from support.proxy import proxy
from support.waiting import eventually, numbers, read, send


async def test_each_consumer_gets_all_messages(url: str, stream: str) -> None:
    async with (
        Consumer(stream, url=url) as one,
        Consumer(stream, url=url, mode=REALTIME) as two,
    ):
        await send(url, stream, *range(50))
        assert numbers(await read(one, 50)) == list(range(50))
        assert numbers(await read(two, 50)) == list(range(50))


async def test_consumers_can_read_half_of_the_history_or_all_of_it(
    url: str, stream: str
) -> None:
    """SeaStreamer's `realtime`: one from now on, one from the start, two streams."""
    a, b = f"{stream}-a", f"{stream}-b"
    await send(url, a, *range(5))
    async with Consumer(a, url=url) as half:
        await send(url, a, *range(5, 10))
        async with Consumer(a, b, url=url, start=EARLIEST) as full:
            assert numbers(await read(half, 5)) == [5, 6, 7, 8, 9]
            assert numbers(await read(full, 10)) == list(range(10))
            await send(url, a, 10, 11, 12)
            assert numbers(await read(full, 2)) == [10, 11]
            await send(url, a, 13, 14)
            assert numbers(await read(full, 3)) == [12, 13, 14]
            await send(url, b, *range(15, 20))
            assert numbers(await read(full, 5)) == [15, 16, 17, 18, 19]


async def test_latest_skips_history_and_does_not_starve_quiet_streams(
    url: str, stream: str
) -> None:
    fast, *quiet = [f"{stream}-{n}" for n in range(4)]
    for name in (fast, *quiet):
        await send(url, name, 97, 98, 99)
    async with Consumer(fast, *quiet, url=url) as consumer:
        for turn in range(5):
            await send(url, fast, turn)
            assert numbers(await read(consumer, 1)) == [turn]
        for number, name in enumerate(quiet):
            await send(url, name, 10 + number)
        await send(url, fast, 5)
        got = numbers(await read(consumer, 4))
    assert sorted(got) == [5, 10, 11, 12]


async def test_streams_that_do_not_exist_yet_are_seen_from_their_first_message(
    url: str, stream: str
) -> None:
    async with Consumer(f"{stream}-a", f"{stream}-b", url=url) as consumer:
        for number in range(4):
            await send(url, f"{stream}-{'ab'[number % 2]}", number)
        assert sorted(numbers(await read(consumer, 4))) == [0, 1, 2, 3]


async def test_a_reconnect_loses_nothing_on_a_quiet_stream_beside_a_busy_one(
    url: str, stream: str
) -> None:
    busy, quiet = f"{stream}-busy", f"{stream}-quiet"
    async with proxy(url) as between:
        async with Consumer(busy, quiet, url=between.url) as consumer:
            await send(url, busy, 0)
            assert numbers(await read(consumer, 1)) == [0]
            await between.stop()
            await send(url, quiet, 1)
            await send(url, busy, 2)
            await between.start()
            assert sorted(numbers(await read(consumer, 2))) == [1, 2]


async def test_a_lost_reply_is_read_again(url: str, stream: str) -> None:
    async with proxy(url) as between:
        async with Consumer(stream, url=between.url) as consumer:
            between.cut_on = b"XREAD"
            between.cut_next_reply = True
            await send(url, stream, 1, 2, 3)
            assert numbers(await read(consumer, 3)) == [1, 2, 3]
            assert between.cuts == 1


async def test_messages_in_realtime_can_not_be_acknowledged(
    url: str, stream: str
) -> None:
    async with Consumer(stream, url=url) as consumer:
        await send(url, stream, 1)
        message = await consumer.next()
        with pytest.raises(UsageError, match="REALTIME"):
            message.ack()
        await consumer.commit()


async def test_foreign_entries_do_not_stop_a_consumer(
    url: str, stream: str, redis: Any
) -> None:
    """SeaStreamer's W3: entries without the message field stopped it."""
    for _ in range(250):
        await redis.xadd(stream, {"strange": "entry"})
    await send(url, stream, 7)
    async with Consumer(stream, url=url, start=EARLIEST) as consumer:
        [message] = await read(consumer, 1)
    assert message.payload == b"7"


async def test_memory_is_bounded_by_the_messages_that_are_held(
    url: str, stream: str
) -> None:
    """SeaStreamer's W2: an acknowledgement was kept for every message, forever."""
    async with Consumer(stream, url=url) as consumer:
        await send(url, stream, *range(3000))
        await read(consumer, 3000)
        await consumer.next(timeout=0)
        statistics = consumer.statistics()
    assert statistics.in_hand == 0
    assert statistics.uncommitted == 0
    assert statistics.acknowledged == 3000


async def test_a_key_of_another_type_is_an_error_from_next(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(stream, "a string")
    with pytest.raises(CommandError, match="WRONGTYPE"):
        async with asyncio.timeout(5), Consumer(stream, url=url) as consumer:
            await consumer.next()


async def test_an_error_that_no_call_has_raised_is_raised_by_the_block(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(stream, "a string")
    with pytest.raises(CommandError, match="WRONGTYPE"):
        async with Consumer(stream, url=url) as consumer:
            # Wait until the reader gets the error, without asking for a message.
            await eventually(lambda: failed(consumer))


async def failed(consumer: Consumer[bytes]) -> bool:
    return consumer._open.gate.error is not None


@pytest.mark.parametrize("ahead", ["now", "next", "far"])
@pytest.mark.parametrize("last", ["1000-0", None])
async def test_a_start_in_the_future_is_waited_for_however_quiet_the_stream_is(
    url: str, stream: str, redis: Any, ahead: str, last: str | None
) -> None:
    """It must not be taken for a recreated stream, which is read from its beginning."""
    if last:
        await redis.xadd(stream, {"msg": "1"}, id=last)
    start: Any = {"now": datetime.now(UTC), "next": "1000-1", "far": "5000-0"}[ahead]
    async with Consumer(stream, url=url, start=start) as consumer:
        # Longer than a blocked read, after which the stream is checked.
        assert await consumer.next(timeout=2.6) is None
        await redis.xadd(stream, {"msg": "2"}, id="1000-1")
        await redis.xadd(stream, {"msg": "3"}, id="5000-1")
        await send(url, stream, 4)
        expected = {"now": [4], "next": [2, 3, 4], "far": [3, 4]}[ahead]
        assert numbers(await read(consumer, len(expected))) == expected
