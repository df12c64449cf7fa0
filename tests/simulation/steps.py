"""Steps: what a consumer's process does besides handling messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

from faults.history import Excuse
from penstock import EARLIEST, Consumer
from simulation.journal import Journal
from simulation.plan import ConsumerPlan

__all__ = ["STEPS", "take_steps"]

Step: TypeAlias = Callable[[Consumer[bytes], int, Journal], Awaitable[None]]


async def _pause(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    """Pause for a while."""
    consumer.pause()
    try:
        await asyncio.sleep((argument % 50) / 10)
    finally:
        consumer.resume()


async def _commit(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    await consumer.commit()


async def _commit_cancelled(
    consumer: Consumer[bytes], argument: int, journal: Journal
) -> None:
    """Cancel a call of `commit` at some moment."""
    call = asyncio.create_task(consumer.commit())
    await asyncio.sleep((argument % 100) / 1000)
    call.cancel()
    await asyncio.wait([call])


async def _lag(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    await consumer.lag()


async def _lag_cancelled(
    consumer: Consumer[bytes], argument: int, journal: Journal
) -> None:
    """Cancel calls of `lag` at any await."""
    for count in range(argument % 12):
        call = asyncio.create_task(consumer.lag())
        for _ in range(count):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])


async def _seek(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    """Seek to the beginning."""
    since = asyncio.get_running_loop().time()
    try:
        await consumer.seek(EARLIEST)
    finally:
        journal.add(Excuse, since=since, what=["again"])


async def _assign(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    """Read another stream for a while."""
    await consumer.assign("other")
    await asyncio.sleep((argument % 30) / 10)
    await consumer.unassign("other")


STEPS: Final[dict[str, Step]] = {
    "pause": _pause,
    "commit": _commit,
    "commit_cancelled": _commit_cancelled,
    "lag": _lag,
    "lag_cancelled": _lag_cancelled,
    "seek": _seek,
    "assign": _assign,
}


async def take_steps(
    consumer: Consumer[bytes],
    plan: ConsumerPlan,
    journal: Journal,
    over: asyncio.Event,
) -> None:
    """Take the steps of a plan, each at its time.

    When the program is over, one `commit` that was still to come is made at once, while
    the consumer closes.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    for step in sorted(plan.steps, key=lambda step: step.at):
        if step.what == "seek" and plan.options.get("mode") != "resumable":
            continue
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, began + step.at - loop.time())):
                await over.wait()
        if over.is_set() and step.what != "commit":
            continue
        journal.note(f"step {step.what}")
        try:
            await STEPS[step.what](consumer, step.argument, journal)
        except Exception as error:  # noqa: BLE001 - outages end calls, too
            journal.note(f"step {step.what} failed: {error!r}")
        if over.is_set():
            break
