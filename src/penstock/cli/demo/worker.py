"""Worker of `penstock demo`: a process that writes down which lines it handled.

A line of the journal has the time by a clock that all processes share, the message's
shard and id, and its key.

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
import time
from typing import Any, Final

from penstock import Consumer, Message, Owned, PenstockError
from penstock._tasks.task_scopes import task_group
from penstock.cli.run.status_pipe import URL_VARIABLE, StatusPipe

__all__ = ["CLOSING", "GROUP", "OWNED", "SHARED", "identity"]

GROUP: Final = "counters"
CLOSING: Final = 15.0  # seconds that a worker has to close; a consumer's own are 10
# What a killed worker owned is free after this lease, so it is short.
_OWNED: Final = Owned(lease=2.0)

SHARED: Final = "shared"
OWNED: Final = "owned"
"""How the workers divide the stream: all read it, or each owns some of its shards."""


def identity(shard: int, id_: object) -> bytes:
    """Return what identifies a message in a stream: ids may be equal in two shards."""
    return b"%d/%b" % (shard, str(id_).encode())


async def _work(
    descriptor: str, stream: str, name: str, folder: str, division: str
) -> None:
    pipe = StatusPipe(int(descriptor))
    pipe.watch(CLOSING)
    loop = asyncio.get_running_loop()
    # The replacement of a killed worker has its name, so it gets its pending messages.
    options: dict[str, Any] = {"group": GROUP, "name": name}
    if division == OWNED:
        options["ownership"] = _OWNED
    consumer = Consumer(stream, url=os.environ[URL_VARIABLE], **options)
    async with consumer, task_group() as tasks:
        stopping = asyncio.Event()
        # Outside of a task anyio starts none if sniffio is installed.
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        tasks.start_soon(_close_when, stopping, consumer)
        with io.FileIO(f"{folder}/{os.getpid()}.journal", "x") as journal:
            pipe.ready()
            async for message in consumer:
                line = _line(message)
                if journal.write(line) != len(line):
                    raise OSError("only a part of a line was written: the disk is full")


async def _close_when(stopping: asyncio.Event, consumer: Consumer[Any]) -> None:
    await stopping.wait()
    await consumer.aclose()


def _line(message: Message[bytes]) -> bytes:
    # A key of bytes that are no UTF-8 has surrogates: back to those bytes.
    key = (message.key or "").encode("utf-8", "surrogateescape")
    which = identity(message.shard, message.id)
    return b"%d %b %b\n" % (time.monotonic_ns(), which, key)


if __name__ == "__main__":
    try:
        asyncio.run(_work(*sys.argv[1:]))
    except (PenstockError, OSError) as error:
        sys.exit(str(error))
