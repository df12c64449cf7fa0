"""Sender process: a producer, written with the README only.

`python -m faults.sender '<JSON of the options>' <journal>`; SIGTERM ends it in order.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from functools import partial
from random import Random
from typing import Any

from faults.history import Attempt, Failed, Receipt, Unknown, digest
from faults.journal import Journal
from faults.task import make
from penstock import Event, Producer, SendFailed, SendUnknown
from penstock import Receipt as PenstockReceipt


class Sender:
    """Sends messages at a rate, and records the outcome of each.

    Args:
        settings: The settings, see `Rig.send`.
        journal: The journal.
    """

    def __init__(self, settings: dict[str, Any], journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._chance = Random(f"{settings['seed']} {settings['who']}")

    def event(self, event: Event) -> None:
        """Record an event of the producer."""
        self._journal.note(f"event {event}")

    async def send(self, producer: Producer, until: asyncio.Event) -> None:
        """Send until an event is set."""
        loop, rate = asyncio.get_running_loop(), self._settings["rate"]
        begin, number = loop.time(), 0
        while not until.is_set():
            for _ in range(self._settings["burst"]):
                await self._send(producer, f"{self._settings['who']}-{number}")
                number += 1
            ahead = begin + number / rate - loop.time()
            if ahead < -1.0:
                begin = (
                    loop.time() - number / rate
                )  # messages that were missed are not sent
            elif ahead > 0.005:
                await asyncio.sleep(ahead)

    async def _send(self, producer: Producer, message: str) -> None:
        payload = make(message, self._chance)
        key = f"k{self._chance.randrange(self._settings['keys'])}"
        options: dict[str, Any] = self._chance.choice([{}, {}, {}, {"timeout": 0.5}])
        self._journal.add(Attempt, message=message, key=key, digest=digest(payload))
        try:
            outcome = await producer.enqueue(
                self._settings["stream"], payload, key=key, **options
            )
        except SendFailed as error:
            self._journal.add(Failed, message=message, code=error.code)
        else:
            outcome.add_done_callback(partial(self._on_outcome, message))

    def _on_outcome(
        self, message: str, outcome: asyncio.Future[PenstockReceipt]
    ) -> None:
        match None if outcome.cancelled() else outcome.exception():
            case SendUnknown():
                self._journal.add(Unknown, message=message)
            case SendFailed() as error:
                self._journal.add(Failed, message=message, code=error.code)
            case None:
                receipt = outcome.result()
                facts = {"shard": receipt.shard, "id": str(receipt.id)}
                self._journal.add(Receipt, message=message, **facts)
            case error:
                raise error


async def main(settings: dict[str, Any], journal: Journal) -> None:
    """Send until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sender = Sender(settings, journal)
    options = settings["options"]
    async with Producer(open_timeout=60, on_event=sender.event, **options) as producer:
        journal.note("ready")
        sending = asyncio.create_task(sender.send(producer, stop))
        await stop.wait()
        # It may wait for buffer space, as long as a fault lasts.
        done, _ = await asyncio.wait([sending], timeout=settings.get("patience", 20))
        if not done:
            sending.cancel()
    journal.note("closed")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(main(given, Journal(sys.argv[2], given["who"])))
