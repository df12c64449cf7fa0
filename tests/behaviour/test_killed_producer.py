"""Killed producers: confirmed messages are stored, and none is stored in part."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

WAYS = ("plain", "resend", "idempotent")
CHILD = """
import asyncio, sys
from penstock import Producer

async def send(url, stream, way):
    how = {} if way == "plain" else {way: True}
    async with Producer(url, max_messages=100, max_batch=10, **how) as producer:
        for number in range(10_000_000):
            future = await producer.enqueue(f"{stream}-{way}", b"%d" % number * 50)
            future.add_done_callback(
                lambda future, number=number: print(way, number, future.result().id)
            )

async def main(url, stream, *ways):
    await asyncio.gather(*[send(url, stream, way) for way in ways])

asyncio.run(main(*sys.argv[1:]))
"""


async def confirmed(url: str, stream: str) -> list[str]:
    """Kill a producer while it sends; return its lines of way, number and id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, url, stream, *WAYS, stdout=PIPE
    )
    assert process.stdout is not None
    try:
        lines = [await process.stdout.readline() for _ in range(1000)]
    finally:
        process.kill()
    rest = await process.stdout.read()
    await process.wait()
    # The last line may have been cut.
    whole = b"".join(lines) + rest[: rest.rfind(b"\n") + 1]
    return whole.decode().splitlines()


async def test_messages_that_a_killed_producer_had_confirmed_are_stored(
    url: str, stream: str, redis: Any
) -> None:
    lines = await confirmed(url, stream)
    for way in WAYS:
        found = await redis.xrange(f"{stream}-{way}")
        # In order, each once and whole.
        bodies = [fields[b"msg"] for _, fields in found]
        assert bodies == [b"%d" % number * 50 for number in range(len(found))]
        stored = [
            f"{way} {number} {id_.decode()}" for number, (id_, _) in enumerate(found)
        ]
        reported = [line for line in lines if line.startswith(way)]
        assert reported
        assert reported == stored[: len(reported)]
