"""Readiness: a router is ready while its consumers hear from the server."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from penstock import Consumer, Message, Router
from penstock._tasks import consumer_set
from support.server import server
from support.waiting import eventually, send


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the grace; a read that waits is answered every two seconds."""
    monkeypatch.setattr(consumer_set, "LONGEST_SILENCE", 4.0)


async def test_a_router_is_not_ready_while_its_server_is_frozen_or_gone(
    stream: str, tmp_path: Path
) -> None:
    async with server(tmp_path) as own:
        router = Router(own.url, close_timeout=0)

        @router.handler(stream, group="g")
        async def _(message: Message[bytes]) -> None: ...

        async def ready() -> bool:
            return router.ready

        async def not_ready() -> bool:
            return not router.ready

        async with router.running():
            await asyncio.sleep(2.5)  # a read that waits is no silence
            assert router.ready
            own.send_signal(signal.SIGSTOP)
            assert await eventually(not_ready) > 1.5
            own.send_signal(signal.SIGCONT)
            await eventually(ready)
            assert router.consumers[0].silent_for < 3
            own.kill()
            await eventually(not_ready)
            assert router.consumers[0].silent_for > 3
            await own.start()
            await eventually(ready)


async def test_a_router_whose_handlers_are_busy_for_long_is_ready(
    url: str, stream: str
) -> None:
    """It reads nothing then, so the server owes it no answer."""
    router = Router(url, close_timeout=0)
    busy = asyncio.Event()

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        busy.set()
        await asyncio.sleep(60)

    await send(url, stream, *range(3))
    async with router.running():
        await busy.wait()
        for _number in range(25):
            await asyncio.sleep(0.2)
            assert router.ready


async def test_without_a_group_a_frozen_server_is_noticed_too(
    stream: str, tmp_path: Path
) -> None:
    async with server(tmp_path) as own:
        consumer: Consumer[Any] = Consumer(stream, url=own.url, close_timeout=0)
        assert consumer.silent_for == 0

        async def silent() -> bool:
            return consumer.silent_for > 3

        async with consumer:
            own.send_signal(signal.SIGSTOP)
            await eventually(silent)
            own.send_signal(signal.SIGCONT)
        assert consumer.silent_for == 0
