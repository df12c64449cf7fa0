"""Outages longer than a lease: what is in hand may be others', and has to be asked for.

Nothing is handed out before that is answered; so whatever the answer is, and if there
is none, it must not hold anything up for good.
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
    """A handler that takes its time: more waits than is to be read ahead."""

    async def __call__(self, message: Message[bytes]) -> None:
        await asyncio.sleep(0.25)
        self[int(message.payload)] += 1

    async def have(self, *wanted: int) -> bool:
        return set(wanted) <= set(self)


@asynccontextmanager
async def cut_off(between: Proxy) -> AsyncIterator[None]:
    """Have an outage that is longer than the lease."""
    await between.stop()
    try:
        yield
        await asyncio.sleep(1.5 * LEASE)
    finally:
        await between.start()


async def test_when_all_is_gone_after_it_reading_goes_on(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """A server without a file, restarted after more than a lease."""
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


async def test_a_shard_that_broke_meanwhile_does_not_stop_the_others(
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


async def test_while_the_server_does_not_answer_it_nothing_spins_and_nothing_is_taken(
    tmp_path: Path, stream: str, events: Events
) -> None:
    """It is a replica at present: one may ask whose it is, and not renew it."""
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
                await eventually(lambda: told(events, "renewal_refused"))
                before = await asked(redis)
                done = len(seen)
                await asyncio.sleep(1)
                assert await asked(redis) - before <= 20
                assert len(seen) <= done + 1
                await redis.execute_command("REPLICAOF", "NO", "ONE")
                await eventually(lambda: seen.have(*range(12)))
            assert await pending(redis, stream, "g") == 0
    # What was done when the outage began may have been done again.
    assert sum(seen.values()) <= 13
    assert len(events) < 30


async def told(events: Events, name: str) -> bool:
    return bool(events.named(name))


async def asked(redis: Any) -> int:
    return await calls(redis, "xpending") + await calls(redis, "xclaim")
