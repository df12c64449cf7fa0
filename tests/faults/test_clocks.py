"""Clocks that jump: that of the server, by libfaketime, and that of this process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock import Claim, Consumer, Message, Owned, Producer, _clock
from support.events import Events
from support.failing import running
from support.owned_group import open_group
from support.server import Server
from support.waiting import eventually, leave_pending, pending, send

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
CLAIM = Claim(idle=1, interval=0.2)
LEASE = 2.0


class Seen(Counter[int]):
    """A handler that counts messages."""

    async def __call__(self, message: Message[bytes]) -> None:
        await asyncio.sleep(0.005)
        self[int(message.payload)] += 1

    async def have(self, count: int) -> bool:
        return len(self) >= count


class Clock:
    """The clock of a server.

    Args:
        folder: The folder of its file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.shift("+0")

    def shift(self, by: str) -> None:
        """Set it to the real time plus a shift."""
        self._file.write_text(by)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a server with this clock."""
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture(autouse=True)
def _server_of_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's hangs on starting: jemalloc and libfaketime wait for each other."""
    monkeypatch.delenv("PENSTOCK_EMBEDDED_SERVER", raising=False)


@asynccontextmanager
async def server_with_a_clock(folder: Path) -> AsyncIterator[tuple[Server, Clock]]:
    if not FAKETIME.exists():
        pytest.skip("there is no libfaketime here; Debian's package is `faketime`")
    clock = Clock(folder)
    server = Server(folder, environment=clock.environment)
    await server.start()
    try:
        yield server, clock
    finally:
        server.kill()


async def none_pending(redis: Any, stream: str) -> bool:
    return await pending(redis, stream, "g") == 0


async def test_when_the_server_s_clock_jumps_nothing_is_lost_and_few_messages_repeat(
    tmp_path: Path, stream: str
) -> None:
    """An hour ahead, then an hour back; for the server, all leases end at once."""
    seen = Seen()
    async with server_with_a_clock(tmp_path) as (server, clock):
        url = server.url
        first = Consumer(stream, url=url, group="g", claim=CLAIM)
        second = Consumer(stream, url=url, group="g", claim=CLAIM)
        async with (
            running(first, seen, concurrency=4),
            running(second, seen, concurrency=4),
            Producer(url) as producer,
        ):
            receipts = []
            for number in range(300):
                receipts.append(await producer.send(stream, b"%d" % number))
                if number == 100:
                    clock.shift("+1h")
                if number == 200:
                    clock.shift("-1h")
            await eventually(lambda: seen.have(300))
            async with server.client() as redis:
                await eventually(lambda: none_pending(redis, stream))
        ids = [receipt.id for receipt in receipts]
        assert ids == sorted(set(ids))
        # Messages that are held at a jump may be redelivered. The handlers keep up, so
        # these are few.
        assert sum(seen.values()) - len(seen) <= 40, seen


async def test_the_messages_of_a_dead_consumer_are_claimed_after_a_jump_ahead(
    tmp_path: Path, stream: str
) -> None:
    seen = Seen()
    async with server_with_a_clock(tmp_path) as (server, clock):
        await send(server.url, stream, *range(5))
        async with server.client() as redis:
            await leave_pending(redis, stream, "dead")
        consumer = Consumer(stream, url=server.url, group="g", claim=Claim(idle=60))
        async with running(consumer, seen):
            clock.shift("+1h")
            await eventually(lambda: seen.have(5))


async def test_the_wall_clock_of_this_process_does_not_affect_leases(
    url: str,
    stream: str,
    redis: Any,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leases, waits and backoffs are measured by the clock that never jumps."""
    real, shift = time.time, 0.0
    monkeypatch.setattr(_clock, "wall", lambda: real() + shift)
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    seen = Seen()
    await send(url, stream, *range(300))
    consumer = Consumer(stream, url=url, group="g", claim=CLAIM, on_event=events)
    async with running(consumer, seen, concurrency=2):
        for hours in (1, -1, 24, 0):
            shift = 3600.0 * hours
            enough = len(seen) + 20
            await eventually(lambda: seen.have(enough))
        await eventually(lambda: seen.have(300))
        await eventually(lambda: none_pending(redis, stream))
    assert set(seen.values()) == {1}
    assert not events


@pytest.mark.parametrize("jump", ["+60", "-60"])
async def test_when_the_server_s_clock_jumps_shards_are_taken_again_a_few_times(
    tmp_path: Path, stream: str, jump: str
) -> None:
    """Ahead, all leases end at once; back, they last for so much longer."""

    async def handle(_: Message[bytes]) -> None:
        await asyncio.sleep(0.005)

    async with server_with_a_clock(tmp_path) as (server, clock), AsyncExitStack() as on:
        redis = await on.enter_async_context(server.client())
        options: dict[str, Any] = {"ownership": Owned(lease=LEASE)}
        group = await on.enter_async_context(
            open_group(server.url, stream, redis, 8, handle, concurrency=4)
        )
        for name in ("one", "two"):
            await group.join(name, **options)
        await group.settle()
        for shift in (jump, "+0"):
            clock.shift(shift)
            until = time.monotonic() + 1.5 * LEASE
            while time.monotonic() < until:
                await group.send(20)
                await group.finish()
            await group.settle()
        for number in range(8):
            await eventually(partial(none_pending, redis, f"{stream}:{number}"))
        # Two at the beginning, and what the two jumps have brought about.
        assert max((await group.epochs()).values()) <= 10
