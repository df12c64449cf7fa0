"""What `penstock run` runs while `recovery` ends it.

Handlers take no time, or 0.1 s; those say when they have started.
"""

from __future__ import annotations

import asyncio

from benchmarks.job import GROUP, STREAM
from penstock import Router

SHORT = 0.1

router = Router()


@router.handler(STREAM, group=GROUP, concurrency=4)
async def handle(payload: bytes) -> None:
    """Do what the message says."""
    if payload == b"short":
        print("started", flush=True)
        await asyncio.sleep(SHORT)
