"""A producer in a process of its own, written by the README alone.

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
from penstock import Receipt as Told


class Sender:
    """Sends messages at a rate, and writes down what it is told of each.

    Args:
        asked: How.
        journal: Where.
    """

    def __init__(self, asked: dict[str, Any], journal: Journal) -> None:
        self._asked = asked
        self._journal = journal
        self._chance = Random(f"{asked['seed']} {asked['who']}")

    def event(self, event: Event) -> None:
        """Be told of what happens in the background."""
        self._journal.note(f"event {event}")

    async def send(self, producer: Producer, until: asyncio.Event) -> None:
        """Send until it is time to end."""
        loop, rate = asyncio.get_running_loop(), self._asked["rate"]
        begun, number = loop.time(), 0
        while not until.is_set():
            for _ in range(self._asked["burst"]):
                await self._send(producer, f"{self._asked['who']}-{number}")
                number += 1
            ahead = begun + number / rate - loop.time()
            if ahead < -1.0:
                begun = loop.time() - number / rate  # what was missed stays undone
            elif ahead > 0.005:
                await asyncio.sleep(ahead)

    async def _send(self, producer: Producer, message: str) -> None:
        payload = make(message, self._chance)
        key = f"k{self._chance.randrange(self._asked['keys'])}"
        hurry: dict[str, Any] = self._chance.choice([{}, {}, {}, {"timeout": 0.5}])
        self._journal.tell(Attempt, message=message, key=key, digest=digest(payload))
        try:
            outcome = await producer.enqueue(
                self._asked["stream"], payload, key=key, **hurry
            )
        except SendFailed as error:
            self._journal.tell(Failed, message=message, code=error.code)
        else:
            outcome.add_done_callback(partial(self._told, message))

    def _told(self, message: str, outcome: asyncio.Future[Told]) -> None:
        match None if outcome.cancelled() else outcome.exception():
            case SendUnknown():
                self._journal.tell(Unknown, message=message)
            case SendFailed() as error:
                self._journal.tell(Failed, message=message, code=error.code)
            case None:
                told = outcome.result()
                facts = {"shard": told.shard, "id": str(told.id)}
                self._journal.tell(Receipt, message=message, **facts)
            case error:
                raise error


async def main(asked: dict[str, Any], journal: Journal) -> None:
    """Send until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    sender = Sender(asked, journal)
    options = asked["options"]
    async with Producer(open_timeout=60, on_event=sender.event, **options) as producer:
        journal.note("ready")
        sending = asyncio.create_task(sender.send(producer, over))
        await over.wait()
        # It may wait for room, as long as a fault takes.
        done, _ = await asyncio.wait([sending], timeout=asked.get("patience", 20))
        if not done:
            sending.cancel()
    journal.note("closed")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(main(given, Journal(sys.argv[2], given["who"])))
