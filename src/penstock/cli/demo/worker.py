"""Worker of `penstock demo`: a process that writes down which lines it handled.

The record has to survive SIGKILL, and it has to be written before the message is
acknowledged: an acknowledged message is never redelivered. So every message is one
write(2) into the worker's own journal, unbuffered: what is written is the kernel's,
whatever becomes of the process. (It need not survive the machine: no fsync.) The write
comes before the acknowledgement because `async for` acknowledges a message only when
the loop asks for the next one.

The worker closes its consumer on SIGTERM, and when its parent is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

from penstock import Consumer, PenstockError
from penstock._tasks.lifetime import task_group
from penstock.cli.run.status_pipe import URL_VARIABLE, StatusPipe

__all__ = ["CLOSING", "GROUP", "main"]

GROUP: Final = "counters"
CLOSING: Final = 15.0  # seconds that a worker has to close; a consumer's own are 10


async def work(stream: str, name: str, journal: Path, pipe: StatusPipe) -> None:
    """Write down each message's id and key until SIGTERM."""
    loop = asyncio.get_running_loop()
    # The replacement of a killed worker has its name, so it gets its pending messages.
    consumer = Consumer(stream, url=os.environ[URL_VARIABLE], group=GROUP, name=name)
    async with consumer, task_group() as tasks:
        loop.add_signal_handler(signal.SIGTERM, tasks.start_soon, consumer.aclose)
        with journal.open("ab", buffering=0) as file:
            pipe.ready()
            async for message in consumer:
                # A key of bytes that are no UTF-8 has surrogates: back to those bytes.
                key = (message.key or "").encode("utf-8", "surrogateescape")
                line = b"%b %b\n" % (bytes(message.id), key)
                if file.write(line) != len(line):
                    raise OSError("only a part of a line was written: the disk is full")


def main() -> None:
    """Work as the arguments say: status pipe, stream, name, journal."""
    descriptor, stream, name, journal = sys.argv[1:]
    pipe = StatusPipe(int(descriptor))
    pipe.watch(CLOSING)
    try:
        asyncio.run(work(stream, name, Path(journal), pipe))
    except (PenstockError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
