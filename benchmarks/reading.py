"""What the benchmarks that read share: a full stream, and the ways to read it."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import (
    ADD,
    ADD_KEYED,
    GROUP,
    STREAM,
    Settings,
    connection,
    send,
)
from penstock import Consumer, Message, Ordering

COUNT = 500


async def fill(redis: Any, settings: Settings) -> None:
    """Have all messages in the stream, and nothing else."""
    await redis.delete(STREAM)
    async with connection(settings.url) as conn:
        await send(conn, [ADD], settings.messages)


async def fill_keyed(redis: Any, settings: Settings) -> None:
    """The same with 1,000 keys in turn."""
    await redis.delete(STREAM)
    async with connection(settings.url) as conn:
        await send(conn, ADD_KEYED, settings.messages)


async def entries(conn: Any, read: bytes) -> Any:
    """Have a packed read executed on a bare connection; it finds entries."""
    await conn.send_packed_command(read, check_health=False)
    reply = await conn.read_response(disable_decoding=True)
    [(_, found)] = reply.items() if isinstance(reply, dict) else reply
    return found


async def async_for(consumer: Consumer[bytes], messages: int) -> None:
    """Penstock, one message after the other."""
    seen = 0
    async with consumer:
        async for message in consumer:
            if message.payload:
                seen += 1
            if seen == messages:
                break


async def run_16(
    consumer: Consumer[bytes], messages: int, ordering: Ordering = Ordering.NONE
) -> None:
    """Penstock with 16 handlers."""
    seen = 0

    async def handle(message: Message[bytes]) -> None:
        nonlocal seen
        if message.payload:
            seen += 1
        if seen == messages:
            await consumer.aclose()

    async with consumer:
        await consumer.run(handle, concurrency=16, ordering=ordering)


async def check_group(redis: Any, settings: Settings) -> None:
    """Nothing may be left, so that nobody wins by not acknowledging."""
    pending = (await redis.xpending(STREAM, GROUP))["pending"]
    group = (await redis.xinfo_groups(STREAM))[0]
    if pending or group["entries-read"] != settings.messages:
        raise RuntimeError(f"{pending} pending, {group['entries-read']} read")
