"""A consumer that is cut off, restarted around or killed: `recovery` looks at it.

`python -m benchmarks.recoverer` is told the `url`, its `name` and its `lease`, and
whether it is to `hold` what it gets. It tells when it is open, and of each message what
is in it and when its handler started, by the clock that all processes share. With the
next line it ends.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.job import GROUP, STREAM
from benchmarks.lines import line, say, told
from penstock import Claim, Consumer, Message

# Of a lease: how often it is looked for what others have left.
LOOKS = 4


async def recover(url: str, name: str, lease: float, *, hold: bool) -> None:
    """Consume until told to end."""
    ends = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        say(payload=message.payload.decode(), at=time.monotonic())
        if hold:
            await ends.wait()

    claim = Claim(idle=lease, interval=lease / LOOKS)
    async with Consumer(STREAM, url=url, group=GROUP, name=name, claim=claim) as it:
        running = asyncio.create_task(it.run(handle, concurrency=16))
        say(ready=True)
        await line()
        ends.set()
        await it.aclose()
        await running


if __name__ == "__main__":
    asyncio.run(told(recover))
