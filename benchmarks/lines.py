"""A child's end of the lines of JSON, see `processes`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any


async def line() -> Any:
    """The next line of the input."""
    loop = asyncio.get_running_loop()
    return json.loads(await loop.run_in_executor(None, sys.stdin.readline))


def say(**what: Any) -> None:
    """Write a line."""
    print(json.dumps(what), flush=True)


async def told(job: Callable[..., Awaitable[None]]) -> None:
    """Do a job with what the first line says."""
    await job(**await line())
