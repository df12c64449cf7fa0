"""A consumer in a process of its own, to be killed; what it does it writes down first.

A payload says what its handler has to do, as `<number> <what> [<argument> …]`:

- `ok`: nothing; `sleep 0.01`: take that long.
- `fail 2`: raise, on the first two attempts; `fail`: on all.
- `kill 2`: end this process by SIGKILL, on the first two attempts; `kill`: on all.
- `exit 2`: raise SystemExit, on the first two attempts; `exit`: on all.
- `hang 1 0.2`: never end, on the first attempt; after that take so long.
- `count out`: in a transaction, count it in the hash `out.counts` and send it to `out`.

Each line of the journal is one write(2), begun before anything follows from it, so it
survives the process: the time, by the clock that all processes of a machine share, and

- `start <number> <attempt> <key> <id>`, before the handler does anything;
- `end <number>` or `fail <number>`, before its outcome can be told to the server; with
  `lost` behind it if the message was somebody else's by then;
- `taken <id> …`: pending entries that it was given after somebody else;
- `event <name>`, `ready`, and `closed`.

SIGTERM has it close the consumer in order. Asked to `restart`, it starts itself anew
whenever it was killed or has failed, by a fork, which takes no time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from penstock import Claim, Consumer, Event, Message, Retry
from penstock._core.ledger.deliveries import Deliveries
from penstock._core.protocol.replies import RawEntry
from penstock.message import Shard


class Labourer:
    """Does what payloads say.

    Args:
        file: The journal.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def note(self, *words: object) -> None:
        """Write a line."""
        line = " ".join([str(time.monotonic()), *map(str, words)]) + "\n"
        assert os.write(self._file, line.encode()) == len(line)

    def event(self, event: Event) -> None:
        """Be told of what happens in the background."""
        self.note("event", event.name)

    async def handle(self, message: Message[bytes]) -> None:
        """Handle a message."""
        number, what, *more = message.payload.decode().split()
        self.note("start", number, message.attempt, message.key, message.id)
        if what == "sleep":
            await asyncio.sleep(float(more[0]))
        elif what == "count":
            await self._count(message, number, more[0])
        elif what != "ok" and message.attempt <= int(more[0] if more else 10**9):
            await self._break(what)
            self.note("fail", number, *["lost"] * message.lost)
            raise RuntimeError(what)
        elif len(more) > 1:
            await asyncio.sleep(float(more[1]))
        self.note("end", number, *["lost"] * message.lost)

    @staticmethod
    async def _count(message: Message[bytes], number: str, out: str) -> None:
        await asyncio.sleep(0.01)
        async with message.transaction() as tx:
            tx.command("HINCRBY", f"{out}.counts", number, 1)
            tx.command("HINCRBY", f"{out}.counts", "total", 1)
            tx.send(out, number)

    @staticmethod
    async def _break(what: str) -> None:
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            await asyncio.sleep(0.05)
            sys.exit(7)
        if what == "hang":
            await asyncio.Event().wait()


@contextmanager
def takeovers_noted(worker: Labourer) -> Iterator[None]:
    """Have it written down which entries come from before, or from others."""
    recovered = Deliveries.recovered

    def noting(
        deliveries: Deliveries,
        shard: Shard,
        entries: Sequence[RawEntry],
        *more: Any,
        **how: Any,
    ) -> int:
        worker.note("taken", *(id_.decode() for id_, _ in entries))
        return recovered(deliveries, shard, entries, *more, **how)

    with patch.object(Deliveries, "recovered", noting):
        yield


async def main(asked: dict[str, Any], worker: Labourer) -> None:
    """Consume until SIGTERM."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    if "leash" in asked:
        loop.add_reader(asked["leash"], os._exit, 1)
    consumer = Consumer(
        asked["stream"],
        url=asked["url"],
        group="g",
        name=asked["name"],
        claim=Claim(**asked["claim"]),
        retry=Retry(**asked["retry"]),
        on_event=worker.event,
        close_timeout=asked["close_timeout"],
    )
    async with consumer:
        worker.note("ready")
        run = asyncio.create_task(consumer.run(worker.handle, **asked["run"]))
        told = asyncio.create_task(over.wait())
        await asyncio.wait([told, run], return_when=asyncio.FIRST_COMPLETED)
        if over.is_set():
            await consumer.aclose()
        await run
    worker.note("closed")


def fork_lives() -> int:
    """Return in a child, once per life, with a pipe that ends with the parent.

    The parent exits when a child has ended well.
    """
    leash, held = os.pipe()
    while os.fork():
        _, status = os.wait()
        if status == 0:
            sys.exit()
    os.close(held)
    return leash


if __name__ == "__main__":
    given, journal = json.loads(sys.argv[1]), sys.argv[2]
    labourer = Labourer(os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    if given["restart"]:
        given["leash"] = fork_lives()
    with takeovers_noted(labourer):
        asyncio.run(main(given, labourer))
