"""A consumer in a process of its own, written by the README alone.

`python -m faults.worker '<JSON of the options>' <journal>`; SIGTERM ends it in order.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from faults.history import End, Start, digest
from faults.journal import Journal
from faults.task import parse
from penstock import Claim, Commit, Consumer, Event, Message, Prefetch, Retry


class Handler:
    """Does what messages say, and writes it down.

    Args:
        journal: Where.
        group: What the group is called there.
    """

    def __init__(self, journal: Journal, group: str) -> None:
        self._journal = journal
        self._group = group

    def event(self, event: Event) -> None:
        """Be told of what happens in the background."""
        self._journal.note(f"event {event}")

    async def handle(self, message: Message[bytes]) -> None:
        """Handle a message."""
        task = parse(message.payload)
        self._journal.tell(
            Start,
            **self._names(message),
            attempt=message.attempt,
            message=task.message,
            key=message.key or "",
            digest=digest(message.payload),
        )
        ok = False
        try:
            if task.what == "sleep":
                await asyncio.sleep(task.argument)
            if task.what == "fail" and message.attempt <= (task.argument or 10**9):
                raise RuntimeError(task.what)
            ok = True
        finally:
            lost = message.lost
            self._journal.tell(End, **self._names(message), ok=ok, lost=lost)

    async def try_(self, message: Message[bytes], *, ack: bool = False) -> None:
        """Handle a message of a loop of one's own."""
        try:
            await self.handle(message)
        except RuntimeError:
            message.nack()
        else:
            if ack:
                message.ack()

    def _names(self, message: Message[bytes]) -> dict[str, Any]:
        id_ = str(message.id)
        return {"group": self._group, "shard": message.shard, "id": id_}


async def by_run(
    consumer: Consumer[bytes],
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
) -> None:
    """Have `run` call the handler."""
    run = asyncio.create_task(consumer.run(handler.handle, **how))
    ended = asyncio.create_task(over.wait())
    await asyncio.wait([run, ended], return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    await consumer.aclose()
    await run


async def by_next(
    consumer: Consumer[bytes],
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
) -> None:
    """Ask for one message after the other."""
    while not over.is_set():
        message = await consumer.next(timeout=0.2)
        if message is not None:
            await handler.try_(message, **how)


async def by_take(
    consumer: Consumer[bytes],
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
) -> None:
    """Ask for several at a time, and have what was acknowledged sent at once."""
    while not over.is_set():
        for message in await consumer.take(10, timeout=0.2):
            await handler.try_(message, **how)
        if how:
            await consumer.commit()


STYLES = {"run": by_run, "next": by_next, "take": by_take}


async def main(asked: dict[str, Any], journal: Journal) -> None:
    """Consume until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    handler = Handler(journal, asked["called"])
    options = dict(asked["options"])
    kinds = {"claim": Claim, "commit": Commit, "retry": Retry, "prefetch": Prefetch}
    for name in kinds.keys() & options.keys():
        options[name] = kinds[name](**options[name])
    consumer = Consumer(
        asked["stream"], open_timeout=60, on_event=handler.event, **options
    )
    async with consumer:
        journal.note("ready")
        style = STYLES[asked.get("style", "run")]
        await style(consumer, handler, asked["run"], over)
    journal.note("closed")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(main(given, Journal(sys.argv[2], given["who"])))
