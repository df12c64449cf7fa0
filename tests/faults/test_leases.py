"""Outages longer than a lease: the owners of held entries have to be asked for.

Others may have claimed the entries, so nothing is handed out before the server has
answered. Whatever the answer is, and even without one, nothing may wait forever.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from penstock import Claim, Consumer, Message
from support.events import Events
from support.failing import running
from support.proxy import Proxy, proxy
from support.server import server
from support.waiting import calls, eventually, pending, send

LEASE = 0.6
CLAIM = Claim(idle=LEASE, interval=0.2)


class Slow(Counter[int]):
    """A slow handler: more messages wait than may be prefetched."""

    async def __call__(self, message: Message[bytes]) -> None:
        await asyncio.sleep(0.25)
        self[int(message.payload)] += 1

    async def have(self, *wanted: int) -> bool:
        return set(wanted) <= set(self)


@asynccontextmanager
async def cut_off(between: Proxy) -> AsyncIterator[None]:
    """Cause an outage that is longer than the lease."""
    await between.stop()
    try:
        yield
        await asyncio.sleep(1.5 * LEASE)
    finally:
        await between.start()


async def test_reading_continues_if_the_server_has_lost_all_data_in_the_outage(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """The server has no append-only file, and restarts after more than a lease."""
    seen = Slow()
    async with server(tmp_path, "--appendonly", "no") as own:
        consumer = Consumer(
            stream, url=own.url, group="g", claim=CLAIM, on_event=events
        )
        async with running(consumer, seen):
            await send(own.url, stream, *range(12))
            await eventually(lambda: seen.have(1))
            own.kill()
            await asyncio.sleep(1.5 * LEASE)
            await own.start()
            await send(own.url, stream, 100)
            await eventually(lambda: seen.have(100))
        async with own.client() as redis:
            assert await pending(redis, stream, "g") == 0
    assert events.named("group_recreated")
    assert set(seen.values()) == {1}


async def test_a_shard_that_breaks_during_the_outage_does_not_stop_the_others(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    seen = Slow()
    one, other = f"{stream}-one", f"{stream}-other"
    async with proxy(url) as between:
        consumer = Consumer(
            one, other, url=between.url, group="g", claim=CLAIM, on_event=events
        )
        async with running(consumer, seen):
            for turn in range(5):
                await send(url, one, turn)
                await send(url, other, 100 + turn)
            await eventually(lambda: seen.have(0, 100))
            async with cut_off(between):
                await redis.delete(one)
                await redis.set(one, "a string")
            await send(url, other, 200)
            await eventually(lambda: seen.have(*range(100, 105), 200))
            await redis.delete(one)
            await send(url, one, 50)
            await eventually(lambda: seen.have(50))
        assert await pending(redis, one, "g") == await pending(redis, other, "g") == 0


async def test_while_leases_can_not_be_renewed_nothing_spins_and_nothing_is_handed_out(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """The server is a replica meanwhile: it tells owners, but renews no leases."""
    seen = Slow()
    async with server(tmp_path) as own, own.client() as redis:
        async with proxy(own.url) as between:
            consumer = Consumer(
                stream, url=between.url, group="g", claim=CLAIM, on_event=events
            )
            async with running(consumer, seen):
                await send(own.url, stream, *range(12))
                await eventually(lambda: seen.have(1))
                async with cut_off(between):
                    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
                await eventually(lambda: is_reported(events, "renewal_refused"))
                before = await count_questions(redis)
                done = len(seen)
                await asyncio.sleep(1)
                assert await count_questions(redis) - before <= 20
                assert len(seen) <= done + 1
                await redis.execute_command("REPLICAOF", "NO", "ONE")
                await eventually(lambda: seen.have(*range(12)))
            assert await pending(redis, stream, "g") == 0
    # Messages that were running when the outage began may have been repeated.
    assert sum(seen.values()) <= 13
    assert len(events) < 30


async def is_reported(events: Events, name: str) -> bool:
    return bool(events.named(name))


async def count_questions(redis: Any) -> int:
    return await calls(redis, "xpending") + await calls(redis, "xclaim")
