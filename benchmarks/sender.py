"""The sender of `latency`: a process that sends when it is time, come what may.

`python -m benchmarks.sender` is told the `url`, how many `messages`, at what `rate`,
and how many at first do not count (`skip`); it tells the milliseconds from when
messages were due to their receipts, and how late it was itself, by percentile.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from functools import partial

from benchmarks.delay import precise_loop
from benchmarks.job import STREAM
from benchmarks.lines import say, told
from benchmarks.spread import in_milliseconds
from penstock import KEEP_ALL, Producer, Receipt

# From opening to the first message.
LEAD = 0.2


async def send(url: str, messages: int, rate: int, skip: int) -> None:
    """Send all of them, each when it is due."""
    receipts, late = array("q"), array("q")
    step = 1_000_000_000 / rate

    def note(due: int, receipt: asyncio.Future[Receipt]) -> None:
        receipt.result()
        receipts.append(time.monotonic_ns() - due)

    async with Producer(url, retention=KEEP_ALL) as producer:
        first = time.monotonic_ns() + int(LEAD * 1e9)
        for number in range(messages):
            due = first + int(number * step)
            early = due - time.monotonic_ns()
            if early > 0:
                await asyncio.sleep(early / 1e9)
            late.append(time.monotonic_ns() - due)
            payload = b"%d %d" % (number, due)
            receipt = await producer.enqueue(STREAM, payload.ljust(200))
            receipt.add_done_callback(partial(note, due))
        await producer.flush()
    say(receipt=in_milliseconds(receipts[skip:]), late=in_milliseconds(late[skip:]))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(told(send))
