"""One of several processes that share a group: `scaling` tells it when.

`python -m benchmarks.worker` is told the server's `url` and how many microseconds a
handler is to `compute`; it says that it is there; it reads from the next line on, until
a further one; then it tells what it has handled.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.job import GROUP, STREAM
from benchmarks.lines import line, say, told
from penstock import Consumer, Message


async def work(url: str, compute: float) -> None:
    """Handle messages until told to stop."""
    handled = 0

    async def handle(message: Message[bytes]) -> None:
        nonlocal handled
        if compute:
            # This process's own time, so that it takes longer on a busy core.
            end = time.process_time() + compute / 1e6
            while time.process_time() < end:
                pass
        if message.payload:
            handled += 1

    say(there=True)
    await line()
    cpu = time.process_time()
    async with Consumer(STREAM, url=url, group=GROUP) as consumer:
        running = asyncio.create_task(consumer.run(handle, concurrency=16))
        await line()
        await consumer.aclose()
        await running
    say(handled=handled, cpu=time.process_time() - cpu)


if __name__ == "__main__":
    asyncio.run(told(work))
