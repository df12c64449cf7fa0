"""Sending, until every message is confirmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from benchmarks.harness import (
    PAYLOAD,
    STREAM,
    Contender,
    Settings,
    client,
    connection,
    measure,
    pack_command,
)
from benchmarks.reading import CODECS, ORDER, Order
from penstock import KEEP_ALL, Codec, Producer, RoundRobin

BATCH = 500
SHARDS = 3
KEYS = [STREAM, *[f"{STREAM}:{number}" for number in range(SHARDS)]]


async def raw(
    settings: Settings, encode: Callable[[Order], bytes] | None = None
) -> None:
    """Pipelined writes of 500 on the bare connection."""
    async with connection(settings.url) as conn:
        left = settings.messages
        while left:
            batch = min(left, BATCH)
            data = b"".join(
                [
                    pack_command((b"XADD", STREAM, b"*", b"msg", body))
                    for body in _bodies(batch, encode)
                ]
            )
            await conn.send_packed_command(data, check_health=False)
            for _ in range(batch):
                await conn.read_response(disable_decoding=True)
            left -= batch


def _bodies(count: int, encode: Callable[[Order], bytes] | None) -> Iterable[bytes]:
    if encode is None:
        return repeat(PAYLOAD, count)
    return map(encode, repeat(ORDER, count))


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
    async with Producer(settings.url, retention=KEEP_ALL) as producer:
        for _ in range(settings.messages):
            await producer.enqueue(STREAM, PAYLOAD)
        await producer.flush()


async def enqueue_sharded(settings: Settings) -> None:
    """The same, each message to another shard than the one before."""
    async with Producer(
        settings.url, retention=KEEP_ALL, sharder=RoundRobin(SHARDS)
    ) as producer:
        for _ in range(settings.messages):
            await producer.enqueue(STREAM, PAYLOAD)
        await producer.flush()


def typed(name: str, codec: Codec[Order]) -> list[Contender]:
    """The same with orders: what Penstock adds to encoding and writing by hand."""

    async def by_hand(settings: Settings) -> None:
        await raw(settings, codec.encode)

    async def penstock(settings: Settings) -> None:
        async with Producer(settings.url, retention=KEEP_ALL) as producer:
            orders = producer.to(STREAM, codec=codec)
            for _ in range(settings.messages):
                await orders.enqueue(ORDER)
            await producer.flush()

    base = Contender(f"raw, {name}", by_hand)
    base.raw = base
    return [base, Contender(f"penstock enqueue, {name}", penstock, raw=base)]


async def prepare(redis: Any, settings: Settings) -> None:
    """Start from nothing."""
    _ = settings
    await redis.delete(*KEYS)


async def check(redis: Any, settings: Settings) -> None:
    """All of it has to be there, over all shards."""
    length = sum([await redis.xlen(key) for key in KEYS])
    if length != settings.messages:
        raise RuntimeError(f"{length} entries instead of {settings.messages}")
    await redis.delete(*KEYS)


async def main(settings: Settings) -> None:
    """Run it."""
    contenders = [
        Contender("raw", raw),
        Contender("redis-py pipeline", redis_py),
        Contender("penstock enqueue", enqueue),
        Contender("penstock to 3 shards", enqueue_sharded),
    ]
    for name, codec in CODECS.items():
        contenders += typed(name, codec)
    await measure(settings, contenders, prepare, check)
