"""What all benchmarks share: a server, rounds in turn, medians, and the printing.

Contenders take turns within a round, so a machine that slows down slows all of them,
and what is quoted is a ratio of medians of one run.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, parse_url

from penstock import embedded

# hiredis' stubs ask for a tuple of one word.
pack_command: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command

PAYLOAD = b"x" * 200
STREAM = "bench"
GROUP = "bench"
ADD = pack_command((b"XADD", STREAM, b"*", b"msg", PAYLOAD))
# The same with keys in turn.
ADD_KEYED = [
    pack_command((b"XADD", STREAM, b"*", b"msg", PAYLOAD, b"key", b"%d" % key))
    for key in range(1000)
]


@dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    url: str
    messages: int
    rounds: int
    as_json: bool


@dataclass
class Contender:
    """One way to do the job.

    `job` is timed, and raises if it did not do all of it. `prepare` is not; it is done
    instead of what all others have done before. `raw` is what it is compared with, if
    not the first of all.
    """

    name: str
    job: Callable[[Settings], Awaitable[None]]
    prepare: Callable[[Any, Settings], Awaitable[None]] | None = None
    raw: Contender | None = None
    seconds: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)

    def rate(self, messages: int) -> float:
        return messages / statistics.median(self.seconds)


@asynccontextmanager
async def server(url: str | None) -> AsyncIterator[str]:
    """The server named, or an embedded one."""
    if url:
        yield url
        return
    embedded_server = embedded.acquire()
    try:
        yield embedded_server.url
    finally:
        embedded.release(embedded_server)


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Any]:
    """A bare redis-py connection, as fast as that library goes."""
    options: dict[str, Any] = dict(parse_url(url))
    kind = options.pop("connection_class", Connection)
    made = kind(**options, socket_timeout=None, driver_info=None)
    await made.connect()
    try:
        yield made
    finally:
        await made.disconnect()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    """redis-py's client with its defaults, but no socket timeout: that costs it."""
    redis = Redis(connection_pool=ConnectionPool.from_url(url, socket_timeout=None))
    try:
        yield redis
    finally:
        await redis.aclose()
        await redis.connection_pool.disconnect()


async def send(conn: Any, commands: Sequence[bytes], times: int) -> None:
    """Have packed commands executed in turn, so many in all, by writes of 1,000."""
    turn = cycle(commands)
    left = times
    while left:
        batch = min(left, 1000)
        packed = b"".join(islice(turn, batch))
        await conn.send_packed_command(packed, check_health=False)
        for _ in range(batch):
            await conn.read_response(disable_decoding=True)
        left -= batch


async def check_length(redis: Any, settings: Settings) -> None:
    """All must be there."""
    length = await redis.xlen(STREAM)
    if length != settings.messages:
        raise RuntimeError(f"{length} of {settings.messages} are there")


async def command_calls(redis: Any) -> int:
    """How many stream commands the server has executed so far."""
    stats = await redis.info("commandstats")
    return sum(
        facts["calls"] for name, facts in stats.items() if name.startswith("cmdstat_x")
    )


async def measure(
    settings: Settings,
    contenders: Sequence[Contender],
    prepare: Callable[[Any, Settings], Awaitable[None]],
    check: Callable[[Any, Settings], Awaitable[None]],
) -> None:
    """Run all contenders in turn, `rounds` times after a warm-up of a tenth."""
    async with client(settings.url) as redis:
        for number in range(settings.rounds + 1):
            for contender in contenders:
                await (contender.prepare or prepare)(redis, settings)
                before = await command_calls(redis)
                start = time.perf_counter()
                await contender.job(settings)
                taken = time.perf_counter() - start
                calls = await command_calls(redis) - before
                await check(redis, settings)
                await redis.delete(STREAM)
                if number:  # round 0 warms up
                    contender.seconds.append(taken)
                    contender.commands.append(calls / settings.messages)
    report(settings, contenders)


def report(settings: Settings, contenders: Sequence[Contender]) -> None:
    """Print a line a contender."""
    for contender in contenders:
        raw = (contender.raw or contenders[0]).rate(settings.messages)
        rate = contender.rate(settings.messages)
        line = {
            "name": contender.name,
            "messages_per_second": round(rate),
            "ratio_to_raw": round(rate / raw, 3),
            "commands_per_message": round(statistics.median(contender.commands), 4),
            "rounds": settings.rounds,
        }
        if settings.as_json:
            print(json.dumps(line), flush=True)
        else:
            print(
                f"{line['name']:<30}{line['messages_per_second']:>10,} msg/s"
                f"{line['ratio_to_raw']:>8.2f} of raw"
                f"{line['commands_per_message']:>9.4f} commands a message",
                flush=True,
            )
