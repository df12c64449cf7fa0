"""Waits for conditions, and helpers to send and read messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from penstock import (
    EARLIEST,
    REALTIME,
    Consumer,
    Message,
    Mode,
    Producer,
    RoundRobin,
)
from penstock._core.messages import shard_record


async def eventually(
    condition: Callable[[], Awaitable[object]], within: float = 15.0
) -> float:
    """Check a condition until it is true; return the seconds that it took.

    The bound is for conditions that never become true. A test of how long something
    may take passes its own.
    """
    start = time.monotonic()
    while not await condition():
        if time.monotonic() - start > within:
            raise AssertionError(f"not true within {within} s")
        await asyncio.sleep(0.002)
    return time.monotonic() - start


async def pending(redis: Any, stream: str, group: str) -> int:
    """Return the number of pending entries of a group."""
    return int((await redis.xpending(stream, group))["pending"])


async def is_blocked(redis: Any) -> bool:
    """Return whether a client is waiting in a blocking read."""
    return bool((await redis.info("clients"))["blocked_clients"])


async def deliveries(redis: Any, stream: str, group: str) -> dict[str, int]:
    """Return the delivery counts of pending entries."""
    lines = await redis.xpending_range(stream, group, "-", "+", 10_000)
    return {line["message_id"].decode(): line["times_delivered"] for line in lines}


async def owners(redis: Any, stream: str) -> dict[str, str]:
    """Return the consumers of group g that own pending entries, by entry."""
    lines = await redis.xpending_range(stream, "g", "-", "+", 10_000)
    return {line["message_id"].decode(): line["consumer"].decode() for line in lines}


async def leave_pending(
    redis: Any, stream: str, name: str, count: int | None = None, *, idle: float = 0
) -> None:
    """Create group g, and leave entries pending with a consumer; by default all.

    `idle`, in seconds, is how long nobody seems to have looked at them.
    """
    await redis.xgroup_create(stream, "g", "0")
    await redis.xreadgroup("g", name, {stream: ">"}, count=count)
    if idle:
        lines = await redis.xpending_range(stream, "g", "-", "+", 100_000)
        ids = [line["message_id"] for line in lines]
        await redis.xclaim(
            stream, "g", name, 0, ids, idle=round(idle * 1000), justid=True
        )


async def holds(consumer: Consumer[Any], count: int) -> bool:
    """Return whether a consumer holds that many messages."""
    return consumer.statistics().in_hand == count


async def read(consumer: Consumer[Any], count: int, within: float = 20) -> list[Any]:
    """Read a number of messages."""
    async with asyncio.timeout(within):
        return [await consumer.next() for _ in range(count)]


def numbers(messages: list[Message[bytes]]) -> list[int]:
    """Return the decimal payloads of messages."""
    return [int(message.payload) for message in messages]


async def send(url: str, stream: str, *values: int) -> None:
    """Send decimal payloads in this order."""
    async with Producer(url) as producer:
        for number in values:
            await producer.enqueue(stream, b"%d" % number)


async def spread(url: str, stream: str, *values: int, shards: int = 3) -> None:
    """Send decimal payloads to shards in turn."""
    async with Producer(url, sharder=RoundRobin(shards)) as producer:
        for number in values:
            await producer.enqueue(stream, b"%d" % number)


async def record_shards(redis: Any, stream: str, number: int) -> None:
    """Record that a stream has so many shards, whatever the sharder."""
    key = shard_record.key(stream)
    await redis.set(key, shard_record.dump(number, "", time.time()))


def options(mode: Mode) -> dict[str, Any]:
    """Return the options with which a consumer of a mode reads all entries."""
    given: dict[str, Any] = {"mode": mode, "start": EARLIEST}
    if mode is not REALTIME:
        given["group"] = "g"
    return given


async def calls(redis: Any, name: str) -> int:
    """Return how often a command was called so far, refused or not."""
    stats = await redis.info("commandstats")
    facts = stats.get(f"cmdstat_{name}", {})
    return sum(int(facts.get(kind, 0)) for kind in ("calls", "rejected_calls"))
