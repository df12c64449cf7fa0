"""The event loops that are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

LOOPS = ("asyncio", "uvloop")


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run a coroutine on one of them."""
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415 - not everybody has it

        uvloop.run(main)
    else:
        asyncio.run(main)
