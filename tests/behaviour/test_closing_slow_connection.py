"""Closing on a slow connection: everything that close_timeout allows is done."""

from __future__ import annotations

import time
from typing import Any

import pytest

from penstock import Claim, Consumer
from support.events import Events
from support.proxy import Proxy, proxy
from support.waiting import numbers, pending, read, send


async def open_consumer(between: Proxy, stream: str, events: Events) -> Consumer[bytes]:
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


@pytest.mark.parametrize("round_trip", [0.6, 1.4, 2.0])
async def test_on_a_slow_connection_closing_still_acknowledges_and_releases(
    url: str, stream: str, redis: Any, events: Events, round_trip: float
) -> None:
    await send(url, stream, *range(60))
    async with (
        proxy(url) as between,
        Consumer(stream, url=url, group="g", claim=Claim(idle=60)) as other,
    ):
        # The other one has to find the prefetched messages without waiting for a lease.
        other.pause()
        consumer = await open_consumer(between, stream, events)
        mine = await read(consumer, 5)
        between.delay = round_trip / 2
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
    # Ending the blocked read, and one round trip for everything else. Each direction
    # takes the delay plus or minus a half, and what is already under way goes first.
    assert took < 5 * round_trip


async def test_an_expired_close_timeout_is_reported_with_what_was_left_undone(
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
