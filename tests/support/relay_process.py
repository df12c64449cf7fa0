"""`penstock relay` in a process, for tests."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from penstock import Producer
from support.run_process import Run
from support.waiting import eventually

# The name of its connections, which are cut; those of a test must stay.
NAME = "relay"


def named(url: str) -> str:
    """Return a URL that names the connections."""
    return f"{url}{'&' if '?' in url else '?'}client_name={NAME}"


class Relay(Run):
    """`penstock relay` in a process; it is ready when its workers are."""

    def start(self, *arguments: str, target: str = "", cwd: Path = Path()) -> None:
        """Start it with these options; `target` is the name of the list."""
        # Where it locks files.
        self.env["TMPDIR"] = str(self.log.parent)
        where = ["--queue", target or f"{self.env['TEST_STREAM']}.queue"]
        if {"--queue", "--to-stream"} & {*arguments}:
            where = []
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "error", "-m", "penstock.cli", "relay"),
                    *("--stream", self.env["TEST_STREAM"], *where),
                    *("--ready-file", str(self.ready_file), *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                start_new_session=True,
            )
        self.processes.append(process)


async def fill(url: str, stream: str, count: int, first: int = 0) -> None:
    """Send the numbers from `first` on."""
    async with Producer(url, on_event=lambda _: None) as producer:
        for at in range(first, first + count, 2000):
            numbers = range(at, min(first + count, at + 2000))
            await producer.send_many(stream, [b"%d" % number for number in numbers])


async def torment(
    relay: Relay, redis: Any, target: Any, *options: str, times: int
) -> None:
    """Kill workers, connections and the whole relay at random, while it relays.

    The relay is running in the end.

    Args:
        relay: The relay, which is running.
        redis: A client of the server whose connections are cut.
        target: A client of the server that has the list.
        *options: The options with which the relay is started again.
        times: How often to kill.
    """
    queue = relay.env["TEST_STREAM"] + ".queue"
    for _ in range(times):
        before = await target.llen(queue)

        async def goes_on(before: int = before) -> bool:
            return bool(await target.llen(queue) > before)

        # Killing processes that only start would show nothing.
        with suppress(AssertionError):
            await eventually(goes_on, within=15)
        await asyncio.sleep(random.uniform(0, 0.1))
        victim = random.choice(["worker", "connections", "relay"])
        if victim == "connections":
            for client in await redis.client_list():
                if client["name"] == NAME:
                    await redis.client_kill_filter(_id=client["id"])
            continue
        for pid in relay.workers() if victim == "worker" else [relay.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim == "relay":
            relay.process.wait()
            relay.start(*options)


async def feed(url: str, stream: str, count: int, *, seconds: float) -> None:
    """Send the numbers up to `count`, spread over some seconds."""
    first, parts = 0, max(1, int(seconds / 0.05))
    for part in range(1, parts + 1):
        end = count * part // parts
        await fill(url, stream, end - first, first)
        first = end
        await asyncio.sleep(0.05)


async def elements(redis: Redis, name: str) -> list[int]:
    """Return the numbers in a list."""
    return [int(value) for value in await redis.lrange(name, 0, -1)]
