"""The receiver of `latency`: a process that notes when handlers start.

`python -m benchmarks.receiver` is told the `url`, how many `messages` come, how many at
first do not count (`skip`), for how long handlers `wait`, at what `concurrency`, and
the event `loop`; it says when it is open, and at last the milliseconds from when
messages were due to their handlers' start, by percentile.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array

from benchmarks import loops
from benchmarks.job import GROUP, STREAM
from benchmarks.lines import say
from benchmarks.spread import in_milliseconds
from penstock import Consumer, Message


async def receive(
    url: str, messages: int, skip: int, wait: float, concurrency: int
) -> None:
    """Handle all of them."""
    starts = array("q")
    left = messages

    async def handle(message: Message[bytes]) -> None:
        nonlocal left
        now = time.monotonic_ns()
        number, due = map(int, message.payload.split())
        if number >= skip:
            starts.append(now - due)
        if wait:
            await asyncio.sleep(wait)
        left -= 1
        if not left:
            await consumer.aclose()

    async with Consumer(STREAM, url=url, group=GROUP) as consumer:
        say(open=True)
        await consumer.run(handle, concurrency=concurrency)
    say(start=in_milliseconds(starts))


def main() -> None:
    told = json.loads(sys.stdin.readline())
    loop = told.pop("loop")
    loops.run(receive(**told), loop)


if __name__ == "__main__":
    main()
