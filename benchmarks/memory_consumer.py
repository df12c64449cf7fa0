"""The consumer whose memory `memory` measures: a process that does nothing else.

`python -m benchmarks.memory_consumer realtime|load_balanced MESSAGES`, with the server
in `REDIS_URL`. It writes its resident set size in bytes, a line for every percent of
the messages, and ends after the last one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from benchmarks.harness import GROUP, STREAM
from penstock import EARLIEST, Consumer, EntryId, Mode


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def main(mode: Mode, messages: int) -> None:
    """Receive all messages."""
    group = None if mode is Mode.REALTIME else GROUP
    last = EntryId(0)
    seen = 0
    percent = 1
    async with Consumer(STREAM, mode=mode, group=group, start=EARLIEST) as consumer:
        async for message in consumer:
            # One that came twice must not make up for one that is missing.
            if message.payload and message.id > last:
                last = message.id
                seen += 1
            if seen == messages * percent // 100:
                print(resident(), flush=True)
                percent += 1
            if seen == messages:
                break


if __name__ == "__main__":
    asyncio.run(main(Mode(sys.argv[1]), int(sys.argv[2])))
