"""Sending, until every message is confirmed."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import (
    PAYLOAD,
    STREAM,
    Contender,
    Settings,
    check_length,
    client,
    connection,
    measure,
    pack_command,
)
from penstock import Producer

BATCH = 500


async def raw(settings: Settings) -> None:
    """Pipelined writes of 500 on the bare connection."""
    async with connection(settings.url) as conn:
        left = settings.messages
        while left:
            batch = min(left, BATCH)
            data = b"".join(
                [
                    pack_command((b"XADD", STREAM, b"*", b"msg", PAYLOAD))
                    for _ in range(batch)
                ]
            )
            await conn.send_packed_command(data, check_health=False)
            for _ in range(batch):
                await conn.read_response(disable_decoding=True)
            left -= batch


async def redis_py(settings: Settings) -> None:
    """redis-py's pipeline of 500."""
    async with client(settings.url) as redis:
        left = settings.messages
        while left:
            batch = min(left, BATCH)
            pipeline = redis.pipeline(transaction=False)
            for _ in range(batch):
                pipeline.xadd(STREAM, {b"msg": PAYLOAD})
            await pipeline.execute()
            left -= batch


async def enqueue(settings: Settings) -> None:
    """Penstock: enqueue each, then flush."""
    async with Producer(settings.url) as producer:
        for _ in range(settings.messages):
            await producer.enqueue(STREAM, PAYLOAD)
        await producer.flush()


async def prepare(redis: Any, settings: Settings) -> None:
    """Start from nothing."""
    _ = settings
    await redis.delete(STREAM)


async def main(settings: Settings) -> None:
    """Run it."""
    contenders = [
        Contender("raw", raw),
        Contender("redis-py pipeline", redis_py),
        Contender("penstock enqueue", enqueue),
    ]
    await measure(settings, contenders, prepare, check_length)
