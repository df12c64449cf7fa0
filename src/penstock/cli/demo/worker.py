"""Worker of `penstock demo`: a process that writes down which lines it handled.

An acknowledged message is never redelivered, so the record has to be written before the
acknowledgement, and it has to survive SIGKILL. So every message is one write(2) into
the worker's own journal, unbuffered: what is written is the kernel's, whatever becomes
of the process. (It need not survive the machine: no fsync.) `async for` acknowledges a
message when it asks for the next one. The process ends with its parent.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from typing import Final

from penstock import Consumer, PenstockError
from penstock._tasks.task_scopes import task_group
from penstock.cli.run.status_pipe import URL_VARIABLE, StatusPipe

__all__ = ["CLOSING", "GROUP"]

GROUP: Final = "counters"
CLOSING: Final = 15.0  # seconds that a worker has to close; a consumer's own are 10


async def _work(descriptor: str, stream: str, name: str, folder: str) -> None:
    pipe = StatusPipe(int(descriptor))
    pipe.watch(CLOSING)
    loop = asyncio.get_running_loop()
    # The replacement of a killed worker has its name, so it gets its pending messages.
    consumer = Consumer(stream, url=os.environ[URL_VARIABLE], group=GROUP, name=name)
    async with consumer, task_group() as tasks:
        loop.add_signal_handler(signal.SIGTERM, tasks.start_soon, consumer.aclose)
        with io.FileIO(f"{folder}/{os.getpid()}.journal", "x") as journal:
            pipe.ready()
            async for message in consumer:
                # A key of bytes that are no UTF-8 has surrogates: back to those bytes.
                key = (message.key or "").encode("utf-8", "surrogateescape")
                line = b"%b %b\n" % (bytes(message.id), key)
                if journal.write(line) != len(line):
                    raise OSError("only a part of a line was written: the disk is full")


if __name__ == "__main__":
    try:
        asyncio.run(_work(*sys.argv[1:]))
    except (PenstockError, OSError) as error:
        sys.exit(str(error))
