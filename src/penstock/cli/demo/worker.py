"""A worker of `penstock demo`: a process that writes down what it handled.

What it handled has to survive its SIGKILL, and it has to be written before the message
is acknowledged: a message that is acknowledged never comes again. So every message is
one write(2) into the worker's own journal, unbuffered: what is written is the kernel's,
whatever becomes of the process. (It need not survive the machine: no fsync.) The write
comes before the acknowledgement because `async for` acknowledges a message only when it
comes back for the next one.

It ends cleanly on SIGTERM, and when its standard input ends: its parent holds the other
end, so that it ends with the parent however that ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from penstock import Consumer, PenstockError
from penstock._tasks.lifetime import task_group

__all__ = ["READY", "URL_VARIABLE", "main"]

# By the environment, since everybody may read a process's arguments.
URL_VARIABLE = "PENSTOCK_DEMO_URL"
READY = b"ready\n"


async def work(stream: str, group: str, name: str, journal: Path) -> None:
    """Write down each message's id and key until told to end."""
    over = _end_asked_for()
    # With a name of its own, whoever is started in its place gets what it left.
    consumer = Consumer(stream, url=os.environ[URL_VARIABLE], group=group, name=name)
    async with consumer, task_group() as tasks:
        tasks.start_soon(_close, consumer, over)
        os.write(sys.stdout.fileno(), READY)
        await _count(consumer, journal)
        tasks.cancel_scope.cancel()


def _end_asked_for() -> asyncio.Event:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    parent = sys.stdin.fileno()

    def parent_ended() -> None:
        loop.remove_reader(parent)  # the end of a pipe can be read again and again
        over.set()

    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_reader(parent, parent_ended)
    return over


async def _count(consumer: Consumer[bytes], journal: Path) -> None:
    with journal.open("ab", buffering=0) as file:
        async for message in consumer:
            # Text of bytes that are no UTF-8, back to those bytes.
            key = (message.key or "").encode("utf-8", "surrogateescape")
            line = b"%b %b\n" % (bytes(message.id), key)
            if file.write(line) != len(line):
                raise OSError(
                    "only a part of a line could be written: the disk is full"
                )


async def _close(consumer: Consumer[bytes], over: asyncio.Event) -> None:
    await over.wait()
    await consumer.aclose()


def main() -> None:
    """Work as the arguments say: stream, group, name, journal."""
    stream, group, name, journal = sys.argv[1:]
    try:
        asyncio.run(work(stream, group, name, Path(journal)))
    except (PenstockError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
