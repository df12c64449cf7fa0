"""Reading a stream from its beginning without a group: nothing is acknowledged."""

from __future__ import annotations

from benchmarks import reading
from benchmarks.harness import (
    STREAM,
    Contender,
    Settings,
    check_length,
    client,
    connection,
    measure,
    pack_command,
)
from benchmarks.reading import COUNT, entries, fill
from penstock import EARLIEST, Consumer


async def raw(settings: Settings) -> None:
    """The hand-written serial loop on the bare connection: read 500."""
    head = (b"XREAD", b"COUNT", COUNT, b"BLOCK", 1000, b"STREAMS", STREAM)
    async with connection(settings.url) as conn:
        seen = 0
        last = b"0"
        while seen < settings.messages:
            for id_, fields in await entries(conn, pack_command((*head, last))):
                if fields[1]:
                    seen += 1
                last = id_


async def redis_py(settings: Settings) -> None:
    """redis-py's own loop."""
    async with client(settings.url) as redis:
        seen = 0
        last = b"0"
        while seen < settings.messages:
            reply = await redis.xread({STREAM: last}, count=COUNT, block=1000)
            for id_, fields in reply[0][1]:
                if fields[b"msg"]:
                    seen += 1
                last = id_


async def async_for(settings: Settings) -> None:
    """Penstock, one message after the other."""
    consumer = Consumer(STREAM, url=settings.url, start=EARLIEST)
    await reading.async_for(consumer, settings.messages)


async def run_16(settings: Settings) -> None:
    """Penstock with 16 handlers."""
    consumer = Consumer(STREAM, url=settings.url, start=EARLIEST)
    await reading.run_16(consumer, settings.messages)


async def main(settings: Settings) -> None:
    """Run it."""
    contenders = [
        Contender("raw", raw),
        Contender("redis-py xread", redis_py),
        Contender("penstock async for", async_for),
        Contender("penstock run(16)", run_16),
    ]
    await measure(settings, contenders, fill, check_length)
