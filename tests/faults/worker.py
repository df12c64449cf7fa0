"""Worker process: a consumer, written with the README only.

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
    """Does the tasks of messages, and records that.

    Args:
        journal: The journal.
        group: The name of the group in the journal.
    """

    def __init__(self, journal: Journal, group: str) -> None:
        self._journal = journal
        self._group = group

    def event(self, event: Event) -> None:
        """Record an event of the consumer."""
        self._journal.note(f"event {event}")

    async def handle(self, message: Message[bytes]) -> None:
        """Handle a message."""
        task = parse(message.payload)
        self._journal.add(
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
            self._journal.add(End, **self._names(message), ok=ok, lost=lost)

    async def handle_in_loop(
        self, message: Message[bytes], *, ack: bool = False
    ) -> bool:
        """Handle a message that was not delivered by `run`.

        Returns:
            Whether it was handled, and not nacked.
        """
        try:
            await self.handle(message)
        except RuntimeError:
            message.nack()
            return False
        if ack:
            message.ack()
        return True

    def _names(self, message: Message[bytes]) -> dict[str, Any]:
        id_ = str(message.id)
        return {"group": self._group, "shard": message.shard, "id": id_}


async def by_run(
    consumer: Consumer[bytes],
    handler: Handler,
    arguments: dict[str, Any],
    stop: asyncio.Event,
) -> None:
    """Let `run` call the handler."""
    run = asyncio.create_task(consumer.run(handler.handle, **arguments))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([run, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await consumer.aclose()
    await run


async def by_next(
    consumer: Consumer[bytes],
    handler: Handler,
    arguments: dict[str, Any],
    stop: asyncio.Event,
) -> None:
    """Take one message after the other."""
    while not stop.is_set():
        message = await consumer.next(timeout=0.2)
        if message is not None:
            await handler.handle_in_loop(message, **arguments)


async def by_take(
    consumer: Consumer[bytes],
    handler: Handler,
    arguments: dict[str, Any],
    stop: asyncio.Event,
) -> None:
    """Take several messages at a time, and send acknowledgements at once."""
    while not stop.is_set():
        for message in await consumer.take(10, timeout=0.2):
            await handler.handle_in_loop(message, **arguments)
        if arguments:
            await consumer.commit()


STYLES = {"run": by_run, "next": by_next, "take": by_take}


async def main(settings: dict[str, Any], journal: Journal) -> None:
    """Consume until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    handler = Handler(journal, settings["called"])
    options = dict(settings["options"])
    kinds = {"claim": Claim, "commit": Commit, "retry": Retry, "prefetch": Prefetch}
    for name in kinds.keys() & options.keys():
        options[name] = kinds[name](**options[name])
    consumer = Consumer(
        settings["stream"], open_timeout=60, on_event=handler.event, **options
    )
    async with consumer:
        journal.note("ready")
        style = STYLES[settings.get("style", "run")]
        await style(consumer, handler, settings["run"], stop)
    journal.note("closed")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(main(given, Journal(sys.argv[2], given["who"])))
