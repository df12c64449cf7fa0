"""Reader: the order of its requests and of what others do."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from penstock import REALTIME, Consumer, Message
from penstock._tasks.reading.read_request import ReadRequest


async def test_handlers_of_a_few_entries_begin_before_the_next_request_is_sent(
    redis: Any, url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not wait until a request that is for later entries has been written."""
    steps: list[str] = []
    handled = asyncio.Event()
    send = ReadRequest.send

    async def noted(self: ReadRequest, *given: Any) -> Any:
        steps.append("request")
        came = await send(self, *given)
        if came:
            steps.append("reply")
        return came

    async def handle(_: Message[bytes]) -> None:
        steps.append("handler")
        handled.set()

    monkeypatch.setattr(ReadRequest, "send", noted)
    # Without a group, no start is counted on the server before its handler begins.
    async with (
        Consumer(stream, url=url, mode=REALTIME) as consumer,
        asyncio.timeout(20),
    ):
        running = asyncio.create_task(consumer.run(handle, concurrency=4))
        for _ in range(10):
            await redis.xadd(stream, {"msg": "x"})
            await handled.wait()
            handled.clear()
        await consumer.aclose()
        await running
    after_replies = [
        after for step, after in itertools.pairwise(steps) if step == "reply"
    ]
    # The first request asks for one entry, so its reply is full and others may follow.
    assert after_replies == ["request", *["handler"] * 9]
