"""Isolation: a broken shard does not stop the others, and is read again when whole."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    CommandError,
    Consumer,
)
from support.events import Events
from support.waiting import eventually, numbers, options, pending, read, send, spread

MODES = [REALTIME, RESUMABLE, LOAD_BALANCED]


@pytest.mark.parametrize("mode", MODES)
async def test_a_shard_that_became_another_type_does_not_stop_the_others(
    url: str, stream: str, redis: Any, mode: Any, events: Events
) -> None:
    await spread(url, stream, *range(8), shards=4)
    given = {**options(mode), "on_event": events}
    async with Consumer(stream, url=url, **given) as consumer:
        assert sorted(numbers(await read(consumer, 8))) == list(range(8))
        await redis.set(f"{stream}:2", "a string")
        for turn in range(5):
            for shard in (0, 1, 3):
                await redis.xadd(f"{stream}:{shard}", {"msg": turn * 10 + shard})
            async with asyncio.timeout(2):
                got = numbers(await read(consumer, 3))
            assert sorted(got) == [turn * 10, turn * 10 + 1, turn * 10 + 3]
        [event] = events.named("shard_broken")
        assert event.level == logging.ERROR
        assert event.facts["shard"] == 2
        assert "WRONGTYPE" in str(event.facts["reply"])
        # It is read again within three seconds, and no entry is missed.
        await redis.delete(f"{stream}:2")
        await redis.xadd(f"{stream}:2", {"msg": 102})
        assert numbers(await read(consumer, 1, within=3)) == [102]
        assert events.named("shard_healed")
    assert len(consumer.shards) == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_consumer_whose_only_stream_breaks_waits_until_it_is_repaired(
    url: str, stream: str, redis: Any, mode: Any, events: Events
) -> None:
    given = {**options(mode), "on_event": events}
    async with Consumer(stream, url=url, **given) as consumer:
        await send(url, stream, 1)
        assert numbers(await read(consumer, 1)) == [1]
        await redis.delete(stream)
        await redis.set(stream, "a string")
        # Without a group this is noticed only once there is something to read.
        await eventually(lambda: was_reported(events, "shard_broken"))
        await redis.delete(stream)
        # Lower ids than before: the stream is new.
        await redis.xadd(stream, {"msg": "2"}, id="1-1")
        assert numbers(await read(consumer, 1, within=3)) == [2]


async def was_reported(events: Events, name: str) -> bool:
    return bool(events.named(name))


@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED])
async def test_a_group_that_is_deleted_on_one_shard_does_not_stop_the_others(
    url: str, stream: str, redis: Any, mode: Any, events: Events
) -> None:
    await spread(url, stream, *range(8), shards=4)
    given = {**options(mode), "on_event": events}
    async with Consumer(stream, url=url, **given) as consumer:
        assert sorted(numbers(await read(consumer, 8))) == list(range(8))
        await consumer.commit()
        await redis.xgroup_destroy(f"{stream}:3", "g")
        for shard in range(4):
            await redis.xadd(f"{stream}:{shard}", {"msg": 100 + shard})
        # On the shard without a group, messages that were handled since its last check
        # may be redelivered: here all of them, since a second has not passed.
        seen = set(numbers(await read(consumer, 4, within=3)))
        async with asyncio.timeout(5):
            while not {100, 101, 102, 103} <= seen:
                seen |= set(numbers(await read(consumer, 1)))
    [event] = events.named("group_recreated")
    assert event.facts["shard"] == 3


async def test_a_group_is_recreated_at_its_recent_position(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """Messages that were handled long before are not redelivered."""
    await send(url, stream, *range(50))
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        assert numbers(await read(consumer, 50)) == list(range(50))
        assert await consumer.next(timeout=1.2) is None
        # With these the consumer checks how far the group has acknowledged.
        await send(url, stream, *range(50, 55))
        assert numbers(await read(consumer, 5)) == list(range(50, 55))
        assert await consumer.next(timeout=0.3) is None
        await redis.xgroup_destroy(stream, "g")
        await send(url, stream, 99)
        assert numbers(await read(consumer, 1, within=3)) == [99]
    assert events.named("group_recreated")


async def test_a_shard_that_may_not_be_recreated_does_not_stop_the_others(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await spread(url, stream, *range(4), shards=4)
    given = {**options(LOAD_BALANCED), "on_event": events, "mkstream": False}
    async with Consumer(stream, url=url, **given) as consumer:
        assert sorted(numbers(await read(consumer, 4))) == [0, 1, 2, 3]
        await redis.delete(f"{stream}:1")
        await redis.xadd(f"{stream}:0", {"msg": 10})
        assert numbers(await read(consumer, 1, within=3)) == [10]
        await redis.xadd(f"{stream}:1", {"msg": 11})
        assert numbers(await read(consumer, 1, within=3)) == [11]


async def test_a_group_that_is_rewound_is_reported_and_its_entries_redelivered(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(30))
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        assert numbers(await read(consumer, 30)) == list(range(30))
        await redis.xgroup_setid(stream, "g", "0")
        await send(url, stream, 30)
        assert numbers(await read(consumer, 31)) == list(range(31))
        assert await consumer.next(timeout=0.3) is None
        assert await pending(redis, stream, "g") == 0
    assert len(events.named("set_back")) == 1


async def test_a_stream_that_lost_entries_in_an_outage_is_read_from_its_new_end(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """A server restored from an older snapshot assigns lower ids than were seen."""
    await redis.xadd(stream, {"msg": "0"}, id="3000-0")
    await redis.xadd(stream, {"msg": "1"}, id="5000-0")
    async with Consumer(stream, url=url, start=EARLIEST, on_event=events) as consumer:
        assert numbers(await read(consumer, 2)) == [0, 1]
        async with redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(stream)
            pipeline.xadd(stream, {"msg": "0"}, id="3000-0")
            await pipeline.execute()
        await redis.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: was_reported(events, "set_back"))
        await redis.xadd(stream, {"msg": "2"}, id="4000-0")
        assert numbers(await read(consumer, 1)) == [2]


async def test_a_key_that_never_was_a_stream_is_refused_at_once_in_a_group(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(f"{stream}-b", "a string")
    with pytest.raises(CommandError, match="WRONGTYPE"):
        async with Consumer(stream, f"{stream}-b", url=url, group="g"):
            pytest.fail("must not open")
