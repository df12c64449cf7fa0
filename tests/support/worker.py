"""Worker process: a consumer that may be killed and journals its actions before them.

A payload says what its handler has to do, as `<number> <what> [<argument> …]`:

- `ok`: nothing; `sleep 0.01`: take 0.01 seconds.
- `fail 2`: raise, on the first two attempts; `fail`: on all.
- `kill 2`: end this process by SIGKILL, on the first two attempts; `kill`: on all.
- `exit 2`: raise SystemExit, on the first two attempts; `exit`: on all.
- `hang 1 0.2`: never end on the first attempt; take 0.2 seconds on the others.
- `count out`: in a transaction, count the message in the hash `out.counts` and send it
  to `out`.

Each line of the journal is one write(2) that precedes its consequences, so the line
survives the process. It has the time, by the clock that all processes of a machine
share, and

- `start <number> <attempt> <key> <id> <shard> <epoch>`, before the handler does
  anything;
- `end <number>` or `fail <number>`, before its outcome can be sent to the server;
  followed by `lost` if another consumer had claimed the message by then;
- `taken <id> …`: pending entries that were recovered or claimed;
- `event <name>`, `ready`, and `closed`.

On SIGTERM it closes the consumer in order. With `restart`, it restarts itself whenever
it was killed or has failed, by a fork, which takes no time.
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

from penstock import Claim, Consumer, Event, Message, Owned, Retry
from penstock._core.ledger.deliveries import Deliveries
from penstock._core.protocol.replies import RawEntry
from penstock.message import Shard


class ScriptedHandler:
    """A handler that does what payloads say, and journals it.

    Args:
        file: The journal.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def write(self, *words: object) -> None:
        """Write a line to the journal."""
        line = " ".join([str(time.monotonic()), *map(str, words)]) + "\n"
        assert os.write(self._file, line.encode()) == len(line)

    def event(self, event: Event) -> None:
        """Journal an event of the consumer."""
        self.write("event", event.name)

    async def handle(self, message: Message[bytes]) -> None:
        """Handle a message."""
        number, what, *more = message.payload.decode().split()
        where = message.id, message.shard, message.epoch
        self.write("start", number, message.attempt, message.key, *where)
        if what == "sleep":
            await asyncio.sleep(float(more[0]))
        elif what == "count":
            await self._count(message, number, more[0])
        elif what != "ok" and message.attempt <= int(more[0] if more else 10**9):
            await self._break(what)
            self.write("fail", number, *["lost"] * message.lost)
            raise RuntimeError(what)
        elif len(more) > 1:
            await asyncio.sleep(float(more[1]))
        self.write("end", number, *["lost"] * message.lost)

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
def journal_recovered(worker: ScriptedHandler) -> Iterator[None]:
    """Journal the entries that are recovered or claimed, within the block."""
    recovered = Deliveries.recovered

    def journaled(
        deliveries: Deliveries,
        shard: Shard,
        entries: Sequence[RawEntry],
        *more: Any,
        **how: Any,
    ) -> int:
        worker.write("taken", *(id_.decode() for id_, _ in entries))
        return recovered(deliveries, shard, entries, *more, **how)

    with patch.object(Deliveries, "recovered", journaled):
        yield


def sharing(settings: dict[str, Any]) -> dict[str, Any]:
    """Return how the consumer shares the stream with the others of its group."""
    ownership = settings["ownership"]
    if ownership is None:
        return {"name": settings["name"], "claim": Claim(**settings["claim"])}
    return {"ownership": Owned(**ownership)}


async def main(settings: dict[str, Any], worker: ScriptedHandler) -> None:
    """Consume until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if "parent_pipe" in settings:
        loop.add_reader(settings["parent_pipe"], os._exit, 1)
    consumer = Consumer(
        settings["stream"],
        url=settings["url"],
        group="g",
        retry=Retry(**settings["retry"]),
        on_event=worker.event,
        close_timeout=settings["close_timeout"],
        **sharing(settings),
    )
    async with consumer:
        worker.write("ready")
        run = asyncio.create_task(consumer.run(worker.handle, **settings["run"]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, run], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await consumer.aclose()
        await run
    worker.write("closed")


def restart_by_fork() -> int:
    """Return in each child process, with a pipe that ends with the parent.

    The parent forks again when a child has failed, and exits when one has succeeded.
    """
    parent_pipe, held = os.pipe()
    while os.fork():
        _, status = os.wait()
        if status == 0:
            sys.exit()
    os.close(held)
    return parent_pipe


if __name__ == "__main__":
    given, journal = json.loads(sys.argv[1]), sys.argv[2]
    scripted = ScriptedHandler(os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    if given["restart"]:
        given["parent_pipe"] = restart_by_fork()
    with journal_recovered(scripted):
        asyncio.run(main(given, scripted))
