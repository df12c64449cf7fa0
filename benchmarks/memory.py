"""Whether a consumer's memory grows with the number of messages.

The consumer is a process of its own and this one sends, so that nothing but the
consumer is measured. The server keeps a few percent of the messages only.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.harness import (
    PAYLOAD,
    STREAM,
    Settings,
    client,
    connection,
    pack_command,
    send,
)
from benchmarks.reading import check_group

MODES = ("realtime", "load_balanced")

MIB = 1024 * 1024
# What a consumer may grow by after the first tenth, in which it warms up.
GROWTH_SHARE = 0.05
GROWTH_BYTES = 2 * MIB

# Percents that are sent before the consumer has told of them. One would have it wait
# for the sender; many would fill the server.
AHEAD = 2
# Seconds without a word of the consumer after which messages count as missing.
SILENCE = 60


async def main(settings: Settings, modes: Sequence[str]) -> None:
    """Measure the modes, one after the other."""
    if settings.messages < 100:
        raise SystemExit("at least 100 messages: it looks at every percent of them")
    # All are measured and printed, even if the first one grows.
    bounded = [report(settings, mode, await measure(settings, mode)) for mode in modes]
    if not all(bounded):
        raise SystemExit("memory grew by more than it may")


async def measure(settings: Settings, mode: str) -> list[int]:
    """Have a consumer receive all messages; gives its bytes at every percent."""
    async with client(settings.url) as redis:
        await redis.delete(STREAM)
        async with consumer(settings, mode) as process:
            sizes = await feed(settings, process)
            if await process.wait():
                raise RuntimeError(f"the consumer ended with {process.returncode}")
        if mode == "load_balanced":
            await check_group(redis, settings)
        await redis.delete(STREAM)
    return sizes


@asynccontextmanager
async def consumer(settings: Settings, mode: str) -> AsyncIterator[Process]:
    """A consumer, in a process of its own."""
    module = "benchmarks.memory_consumer"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, mode, str(settings.messages)),
        # Not as an argument: there may be a password in it, and `ps` shows those.
        env={**os.environ, "REDIS_URL": settings.url},
        stdout=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def feed(settings: Settings, process: Process) -> list[int]:
    """Send a percent after the other, as fast as the consumer takes them."""
    sizes: list[int] = []
    percent = -(-settings.messages // 100)
    # What goes by this is older than what the consumer has not told of yet.
    trim = (b"MAXLEN", b"~", percent * (AHEAD + 1))
    add = pack_command((b"XADD", STREAM, *trim, b"*", b"msg", PAYLOAD))
    sent = 0
    async with connection(settings.url) as conn:
        for number in range(1, 100 + AHEAD + 1):
            due = min(settings.messages * number // 100, settings.messages)
            await send(conn, [add], due - sent)
            sent = due
            if number > AHEAD:
                sizes.append(await told(process, len(sizes), sent))
    return sizes


async def told(process: Process, percent: int, sent: int) -> int:
    """Wait for the consumer's next figure.

    Raises:
        RuntimeError: There is none, because messages are missing or it died.
    """
    assert process.stdout is not None  # noqa: S101 - it was asked for
    try:
        line = await asyncio.wait_for(process.stdout.readline(), SILENCE)
    except TimeoutError:
        line = b""
    if not line:
        raise RuntimeError(
            f"messages are missing: {sent:,} were sent, and after {percent} % of all "
            f"the consumer told of no more"
        )
    return int(line)


def report(settings: Settings, mode: str, sizes: Sequence[int]) -> bool:
    """Print a line; gives whether the growth is within bounds."""
    base = sizes[9]
    growth = max(sizes[10:]) - base
    resident = {str(p): round(sizes[p - 1] / MIB, 2) for p in (1, 10, 50, 100)}
    bounded = growth <= base * GROWTH_SHARE + GROWTH_BYTES
    line = {
        "name": f"penstock {mode}",
        "messages": settings.messages,
        "resident_mib_at_percent": resident,
        "growth_mib": round(growth / MIB, 2),
        "growth_percent": round(100 * growth / base, 1),
        "bounded": bounded,
    }
    if settings.as_json:
        print(json.dumps(line), flush=True)
    else:
        figures = "".join(f"{mib:>8.1f} MiB at {p} %" for p, mib in resident.items())
        print(
            f"{line['name']:<24}{figures}"
            f"{line['growth_mib']:>8.2f} MiB ({line['growth_percent']} %) growth after "
            f"10 %{'' if bounded else ': TOO MUCH'}",
            flush=True,
        )
    return bounded
