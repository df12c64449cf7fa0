"""Opening: consumers and producers whose opening is cancelled, at any await."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

from penstock import AccessError, GaveUp, PenstockError
from simulation.loop import Loop

__all__ = ["cancel_openings"]


async def cancel_openings(opened: Any, chance: Random) -> None:
    """Open a consumer or producer and cancel that, a few times.

    Nothing else may happen in the process meanwhile.

    Raises:
        AssertionError: A cancelled opening has left something behind.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    for _ in range(chance.choice((1, 3))):
        before = loop.left_open()
        opening = asyncio.create_task(opened.__aenter__())
        if chance.random() < 0.5:
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(chance.choice((0.0005, 0.003, 0.03, 0.3)))
        for _ in range(chance.choice((1, 1, 2))):
            opening.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            # What it found may have ended it by now.
            with suppress(GaveUp, AccessError):
                await opened.__aexit__(None, None, None)
        elif not opening.cancelled():
            # It was refused, which only a fault does.
            assert isinstance(opening.exception(), PenstockError), opening
        left = [each for each in loop.left_open() if each not in before]
        assert not left, f"a cancelled opening has left {left}"
