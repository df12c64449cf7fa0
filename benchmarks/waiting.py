"""Waiting for what contenders do in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def drained(redis: Any, stream: str, group: str) -> None:
    """Wait until nothing is pending, for those that do not tell when they are done."""
    # Nobody tells us: it is another library's, or the server's.
    while (await redis.xpending(stream, group))["pending"]:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def by_50(send: Callable[[], Awaitable[Any]], times: int) -> None:
    """Await `send()` so often, 50 at a time."""
    while times:
        some = min(times, 50)
        await asyncio.gather(*(send() for _ in range(some)))
        times -= some
