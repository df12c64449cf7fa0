"""What the benchmarks that read share: a full stream, and the ways to read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from benchmarks.harness import (
    ADD,
    ADD_KEYED,
    GROUP,
    STREAM,
    Settings,
    connection,
    pack_command,
    send,
)
from penstock import Codec, Consumer, Message, Ordering, json_codec, msgpack_codec

COUNT = 500


class Order(msgspec.Struct):
    """What the typed lines send and read."""

    id: int
    customer: str
    item: str
    quantity: int
    price: float
    paid: bool


ORDER = Order(1_234_567, "customer-4711", "a cup with a handle", 12, 4.95, paid=True)
CODECS: dict[str, Codec[Order]] = {
    "JSON": json_codec(Order),
    "msgpack": msgpack_codec(Order),
}


def fill_typed(codec: Codec[Order]) -> Callable[[Any, Settings], Awaitable[None]]:
    """Fill the stream with orders, as Penstock writes them."""
    kind = codec.content_type  # type: ignore[attr-defined]
    fields = (b"msg", codec.encode(ORDER), b"content-type", kind)
    add = pack_command((b"XADD", STREAM, b"*", *fields))

    async def fill(redis: Any, settings: Settings) -> None:
        await redis.delete(STREAM)
        async with connection(settings.url) as conn:
            await send(conn, [add], settings.messages)

    return fill


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


async def async_for(consumer: Consumer[Any], messages: int) -> None:
    """Penstock, one message after the other."""
    seen = 0
    async with consumer:
        async for message in consumer:
            if message.payload:
                seen += 1
            if seen == messages:
                break


async def run_16(
    consumer: Consumer[Any], messages: int, ordering: Ordering = Ordering.NONE
) -> None:
    """Penstock with 16 handlers."""
    seen = 0

    async def handle(message: Message[Any]) -> None:
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
