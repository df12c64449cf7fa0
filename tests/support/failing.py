"""Handlers that fail, and consumers that run them in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from penstock import Consumer, Message

__all__ = ["Boom", "Tries", "handled", "noting", "running"]

Tries: TypeAlias = dict[int, list[tuple[int, float]]]
"""By payload: each attempt's number and when it began."""


class Boom(Exception):  # noqa: N818 - what handlers say
    """What a failing handler raises."""


@asynccontextmanager
async def running(
    consumer: Consumer[Any], handle: Callable[[Any], object], **how: Any
) -> AsyncIterator[Consumer[Any]]:
    """Have messages handled in the background of a block."""
    async with consumer:
        run = asyncio.create_task(consumer.run(handle, **how))
        try:
            yield consumer
        finally:
            await consumer.aclose()
            async with asyncio.timeout(10):
                await run


def noting(
    tries: Tries, then: Callable[[Message[bytes]], Awaitable[None]]
) -> Callable[[Message[bytes]], Awaitable[None]]:
    """A handler that notes attempts and when they were, and does something then."""

    async def handle(message: Message[bytes]) -> None:
        tried = tries.setdefault(int(message.payload), [])
        tried.append((message.attempt, time.monotonic()))
        await then(message)

    return handle


async def handled(redis: Any, stream: str, count: int) -> bool:
    """Whether the group is done with a stream of that many."""
    group = (await redis.xinfo_groups(stream))[0]
    last = (await redis.xinfo_stream(stream))["last-generated-id"]
    assert await redis.xlen(stream) == count
    return bool(group["last-delivered-id"] == last and not group["pending"])
