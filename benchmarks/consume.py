"""Consuming through a group with acknowledgements, until nothing is pending."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import (
    GROUP,
    PAYLOAD,
    STREAM,
    Contender,
    Settings,
    client,
    connection,
    measure,
    pack_command,
)
from penstock import Consumer, Message

COUNT = 500


async def raw(settings: Settings) -> None:
    """The hand-written serial loop on the bare connection: read 500, ack 500."""
    pack = pack_command
    head = (b"XREADGROUP", b"GROUP", GROUP, b"raw", b"COUNT", COUNT)
    read = pack((*head, b"BLOCK", 1000, b"STREAMS", STREAM, b">"))
    async with connection(settings.url) as conn:
        seen = 0
        while seen < settings.messages:
            await conn.send_packed_command(read, check_health=False)
            reply = await conn.read_response(disable_decoding=True)
            [(_, entries)] = reply.items() if isinstance(reply, dict) else reply
            ids = []
            for id_, fields in entries:
                if fields[1]:
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
    seen = 0
    async with Consumer(STREAM, url=settings.url, group=GROUP) as consumer:
        async for message in consumer:
            if message.payload:
                seen += 1
            if seen == settings.messages:
                break


async def run_16(settings: Settings) -> None:
    """Penstock with 16 handlers."""
    seen = 0
    async with Consumer(STREAM, url=settings.url, group=GROUP) as consumer:

        async def handle(message: Message[bytes]) -> None:
            nonlocal seen
            if message.payload:
                seen += 1
            if seen == settings.messages:
                await consumer.aclose()

        await consumer.run(handle, concurrency=16)


async def prepare(redis: Any, settings: Settings) -> None:
    """Fill the stream and make the group."""
    await redis.delete(STREAM)
    command = pack_command((b"XADD", STREAM, b"*", b"msg", PAYLOAD))
    async with connection(settings.url) as conn:
        left = settings.messages
        while left:
            batch = min(left, 1000)
            await conn.send_packed_command(command * batch, check_health=False)
            for _ in range(batch):
                await conn.read_response(disable_decoding=True)
            left -= batch
    await redis.xgroup_create(STREAM, GROUP, id="0")


async def check(redis: Any, settings: Settings) -> None:
    """Nothing may be left, so that nobody wins by not acknowledging."""
    pending = (await redis.xpending(STREAM, GROUP))["pending"]
    group = (await redis.xinfo_groups(STREAM))[0]
    if pending or group["entries-read"] != settings.messages:
        raise RuntimeError(f"{pending} pending, {group['entries-read']} read")


async def main(settings: Settings) -> None:
    """Run it."""
    contenders = [
        Contender("raw", raw),
        Contender("redis-py batch", redis_py),
        Contender("penstock async for", async_for),
        Contender("penstock run(16)", run_16),
    ]
    await measure(settings, contenders, prepare, check)
