"""Closing over a slow way: whatever close_timeout leaves time for is done."""

from __future__ import annotations

import time
from typing import Any

import pytest

from penstock import Claim, Consumer
from support.events import Events
from support.proxy import Proxy, proxy
from support.waiting import numbers, pending, read, send


async def opened(between: Proxy, stream: str, events: Events) -> Consumer[bytes]:
    consumer = Consumer(
        stream,
        url=between.url,
        group="g",
        claim=Claim(idle=60),
        close_timeout=10,
        on_event=events,
    )
    await consumer.start()
    return consumer


@pytest.mark.parametrize("trip", [0.6, 1.4, 2.0])
async def test_a_slow_way_does_not_keep_it_from_sending_and_giving_back(
    url: str, stream: str, redis: Any, events: Events, trip: float
) -> None:
    await send(url, stream, *range(60))
    async with (
        proxy(url) as between,
        Consumer(stream, url=url, group="g", claim=Claim(idle=60)) as other,
    ):
        # What was read ahead has to be found by the other one, without a lease's wait.
        other.pause()
        consumer = await opened(between, stream, events)
        mine = await read(consumer, 5)
        between.delay = trip / 2
        start = time.monotonic()
        await consumer.aclose()
        took = time.monotonic() - start
        between.delay = 0.0
        other.resume()
        rest = await read(other, 60 - len(mine), within=3)
    assert not {*numbers(mine)} & {*numbers(rest)}
    assert not events.named("close_incomplete")
    assert not events.named("not_given_back")
    assert await pending(redis, stream, "g") == 0
    # A read that is let go, and one round trip for everything else; each way takes
    # the delay give or take a half, and what is under way goes before.
    assert took < 5 * trip


async def test_time_that_is_up_is_told_with_what_was_left(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(30))
    async with proxy(url) as between:
        consumer = Consumer(
            stream, url=between.url, group="g", close_timeout=0.5, on_event=events
        )
        await consumer.start()
        await read(consumer, 5)
        left = consumer.statistics()
        between.delay = 5
        start = time.monotonic()
        await consumer.aclose()
        assert time.monotonic() - start < 0.8
    [event] = events.named("close_incomplete")
    assert event.facts["uncommitted"]
    [event] = events.named("not_given_back")
    assert int(str(event.facts["messages"])) >= left.queued
