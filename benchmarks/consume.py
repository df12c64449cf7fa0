"""Consuming through a group with acknowledgements, until nothing is pending."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import reading
from benchmarks.harness import (
    GROUP,
    STREAM,
    Contender,
    Settings,
    client,
    connection,
    measure,
    pack_command,
)
from benchmarks.reading import (
    CODECS,
    COUNT,
    Order,
    check_group,
    entries,
    fill,
    fill_keyed,
    fill_typed,
)
from penstock import Codec, Consumer, Ordering, Retry

Job = Callable[[Settings], Awaitable[None]]


async def raw(
    settings: Settings, decode: Callable[[bytes], object] | None = None
) -> None:
    """The hand-written serial loop on the bare connection: read 500, ack 500."""
    pack = pack_command
    head = (b"XREADGROUP", b"GROUP", GROUP, b"raw", b"COUNT", COUNT)
    read = pack((*head, b"BLOCK", 1000, b"STREAMS", STREAM, b">"))
    async with connection(settings.url) as conn:
        seen = 0
        while seen < settings.messages:
            ids = []
            for id_, fields in await entries(conn, read):
                if fields[1] if decode is None else decode(fields[1]):
                    seen += 1
                ids.append(id_)
            ack = pack((b"XACK", STREAM, GROUP, *ids))
            await conn.send_packed_command(ack, check_health=False)
            await conn.read_response(disable_decoding=True)


async def redis_py(settings: Settings) -> None:
    """redis-py's own loop, one XACK a batch."""
    async with client(settings.url) as redis:
        seen = 0
        while seen < settings.messages:
            reply = await redis.xreadgroup(
                GROUP, "redis-py", {STREAM: ">"}, count=COUNT, block=1000
            )
            ids = []
            for id_, fields in reply[0][1]:
                if fields[b"msg"]:
                    seen += 1
                ids.append(id_)
            await redis.xack(STREAM, GROUP, *ids)


async def async_for(settings: Settings) -> None:
    """Penstock, one message after the other."""
    consumer = Consumer(STREAM, url=settings.url, group=GROUP)
    await reading.async_for(consumer, settings.messages)


async def run_16(settings: Settings) -> None:
    """Penstock with 16 handlers."""
    consumer = Consumer(STREAM, url=settings.url, group=GROUP)
    await reading.run_16(consumer, settings.messages)


async def run_16_retry(settings: Settings) -> None:
    """The same with a policy for failures, and none."""
    retry = Retry(max_attempts=5)
    consumer = Consumer(STREAM, url=settings.url, group=GROUP, retry=retry)
    await reading.run_16(consumer, settings.messages)


async def run_16_by_key(settings: Settings) -> None:
    """The same in the order of each key, of which there are 1,000."""
    consumer = Consumer(STREAM, url=settings.url, group=GROUP)
    await reading.run_16(consumer, settings.messages, Ordering.KEY)


def typed(name: str, codec: Codec[Order]) -> list[Contender]:
    """The same with orders: what Penstock adds to reading and decoding by hand."""
    filled = fill_typed(codec)

    async def ready(redis: Any, settings: Settings) -> None:
        await filled(redis, settings)
        await redis.xgroup_create(STREAM, GROUP, id="0")

    async def by_hand(settings: Settings) -> None:
        await raw(settings, codec.decode)

    def penstock(read: Callable[[Consumer[Any], int], Awaitable[None]]) -> Job:
        async def job(settings: Settings) -> None:
            consumer = Consumer(STREAM, url=settings.url, group=GROUP, codec=codec)
            await read(consumer, settings.messages)

        return job

    base = Contender(f"raw, {name}", by_hand, ready)
    base.raw = base
    return [
        base,
        Contender(
            f"penstock async for, {name}", penstock(reading.async_for), ready, base
        ),
        Contender(f"penstock run(16), {name}", penstock(reading.run_16), ready, base),
    ]


async def prepare(redis: Any, settings: Settings) -> None:
    """Fill the stream and make the group."""
    await fill(redis, settings)
    await redis.xgroup_create(STREAM, GROUP, id="0")


async def prepare_keyed(redis: Any, settings: Settings) -> None:
    """Fill the stream with keyed messages and make the group."""
    await fill_keyed(redis, settings)
    await redis.xgroup_create(STREAM, GROUP, id="0")


async def main(settings: Settings) -> None:
    """Run it."""
    contenders = [
        Contender("raw", raw),
        Contender("redis-py batch", redis_py),
        Contender("penstock async for", async_for),
        Contender("penstock run(16)", run_16),
        Contender("penstock run(16), retry", run_16_retry),
        Contender("penstock run(16), by key", run_16_by_key, prepare_keyed),
    ]
    for name, codec in CODECS.items():
        contenders += typed(name, codec)
    await measure(settings, contenders, prepare, check_group)
