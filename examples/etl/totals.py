"""Count the requests and bytes of each client, each line exactly once."""

import os
import re

from penstock import MaxLen, Message, Router

router = Router()
LINE = re.compile(r'^(\S+) .* "[^"]*" \d{3} (\d+|-)(?: |$)')


@router.on_start
async def announce() -> None:
    print(f"process {os.getpid()} counts", flush=True)


@router.handler(
    "access",
    group="totals",
    ordering="key",
    concurrency=8,
    payload=str,
    dead_letter_retention=MaxLen(10_000),
)
async def count(message: Message[str]) -> None:
    found = LINE.match(message.payload)
    if found is None:
        message.reject("not a line of an access log")
        return
    client, size = found.groups()
    # Both counts and the acknowledgement are one step on the server: all or nothing.
    async with message.transaction() as tx:
        tx.command("HINCRBY", "totals.requests", client, 1)
        tx.command("HINCRBY", "totals.bytes", client, 0 if size == "-" else int(size))
