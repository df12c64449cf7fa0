"""Moving a stream to a list on its server: batches of the relay, and transactions.

A transaction for each message, one at a time and 64 at a time, does the same in its own
way. What is the fastest at least once is there to compare: read, push and acknowledge
by hand, without any check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from benchmarks.consume import prepare
from benchmarks.harness import (
    GROUP,
    STREAM,
    Contender,
    Settings,
    connection,
    measure,
    pack_command,
)
from benchmarks.reading import COUNT, check_group, entries
from penstock import Consumer, Fields, Message
from penstock.cli.relay.router import RelayRouter
from penstock.cli.relay.settings import RelaySettings

LIST: Final = "bench.queue"


async def by_hand(settings: Settings) -> None:
    """Read 500, push and acknowledge them; a crash in between pushes them again."""
    pack = pack_command
    head = (b"XREADGROUP", b"GROUP", GROUP, b"raw", b"COUNT", COUNT)
    read = pack((*head, b"BLOCK", 1000, b"STREAMS", STREAM, b">"))
    async with connection(settings.url) as conn:
        seen = 0
        while seen < settings.messages:
            found = await entries(conn, read)
            seen += len(found)
            push = pack((b"RPUSH", LIST, *(fields[1] for _, fields in found)))
            ack = pack((b"XACK", STREAM, GROUP, *(id_ for id_, _ in found)))
            await conn.send_packed_command(push + ack, check_health=False)
            for _ in range(2):
                await conn.read_response(disable_decoding=True)


class Counting(RelayRouter):
    """A relay that stops when it has moved so many messages."""

    def __init__(self, settings: RelaySettings, messages: int) -> None:
        self._left = messages
        super().__init__(settings)

    async def relay(self, messages: list[Message[Fields]]) -> None:
        """Push messages, and count them."""
        await super().relay(messages)
        self._left -= len(messages)
        if not self._left:
            self.stop()


def relayed(batch: int) -> Callable[[Settings], Awaitable[None]]:
    async def job(settings: Settings) -> None:
        options = RelaySettings(stream=STREAM, group=GROUP, target=LIST, batch=batch)
        await Counting(options, settings.messages).run(settings.url)

    return job


def transacted(concurrency: int) -> Callable[[Settings], Awaitable[None]]:
    async def job(settings: Settings) -> None:
        seen = 0
        consumer = Consumer(STREAM, url=settings.url, group=GROUP)

        async def handle(message: Message[bytes]) -> None:
            nonlocal seen
            async with message.transaction() as tx:
                tx.command("RPUSH", LIST, message.payload)
            seen += 1
            if seen == settings.messages:
                await consumer.aclose()

        async with consumer:
            await consumer.run(handle, concurrency=concurrency)

    return job


async def empty_list(redis: Any, settings: Settings) -> None:
    """Have all messages in the stream, and an empty list."""
    await redis.delete(LIST)
    await prepare(redis, settings)


async def check(redis: Any, settings: Settings) -> None:
    """All are in the list, once each, and nothing is pending."""
    length = await redis.llen(LIST)
    if length != settings.messages:
        raise RuntimeError(f"{length} of {settings.messages} are in the list")
    await check_group(redis, settings)


async def main(settings: Settings) -> None:
    """Run it."""
    contenders = [
        Contender("a transaction each, 64 at a time", transacted(64)),
        Contender("a transaction each, one at a time", transacted(1)),
        Contender("relay --batch 100", relayed(100)),
        Contender("relay --batch 500", relayed(500)),
        Contender("by hand, at least once", by_hand),
    ]
    await measure(settings, contenders, empty_list, check)
