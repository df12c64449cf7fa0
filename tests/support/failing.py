"""Handlers that fail, and consumers that run them in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from penstock import Consumer, Message

__all__ = ["Attempts", "Boom", "handled", "recording", "running"]

Attempts: TypeAlias = dict[int, list[tuple[int, float]]]
"""By payload, the number of each attempt and when it began."""


class Boom(Exception):  # noqa: N818 - raised by handlers
    """The exception that a failing handler raises."""


@asynccontextmanager
async def running(
    consumer: Consumer[Any], handle: Callable[[Any], object], **how: Any
) -> AsyncIterator[Consumer[Any]]:
    """Run a consumer's handler in the background of a block."""
    async with consumer:
        run = asyncio.create_task(consumer.run(handle, **how))
        try:
            yield consumer
        finally:
            await consumer.aclose()
            async with asyncio.timeout(10):
                await run


def recording(
    attempts: Attempts, then: Callable[[Message[bytes]], Awaitable[None]]
) -> Callable[[Message[bytes]], Awaitable[None]]:
    """Return a handler that records attempts and their times, and calls another one."""

    async def handle(message: Message[bytes]) -> None:
        tried = attempts.setdefault(int(message.payload), [])
        tried.append((message.attempt, time.monotonic()))
        await then(message)

    return handle


async def handled(redis: Any, stream: str, count: int) -> bool:
    """Return whether the group has acknowledged a stream of `count` entries."""
    group = (await redis.xinfo_groups(stream))[0]
    last = (await redis.xinfo_stream(stream))["last-generated-id"]
    assert await redis.xlen(stream) == count
    return bool(group["last-delivered-id"] == last and not group["pending"])
