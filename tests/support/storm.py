"""Cancellation of calls in progress, at any moment and in every way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio

from support.waiting import eventually

__all__ = ["Storm", "nothing_left"]

Call: TypeAlias = Callable[[], Awaitable[Any]]
_Made: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

# The longest time in seconds after which a call is cancelled, if not by loop turns.
LONGEST = 0.003
TURNS = 12


class Storm:
    """Makes calls and cancels each at a moment and in a way that a seed chooses.

    Args:
        seed: The seed of the choices.
        longest: The longest time in seconds after which a call is cancelled.
        spared: The share of calls that are not cancelled, since on a slow machine no
            call might end otherwise.
    """

    def __init__(
        self, seed: int, longest: float = LONGEST, *, spared: float = 0.0
    ) -> None:
        self._random = random.Random(seed)
        self._longest = longest
        self._spared = spared
        # The number of calls that were cancelled, and that ended.
        self.cancelled = 0
        self.done = 0

    async def over(
        self, *calls: Call, times: int, cancel: int = 0, concurrency: int = 8
    ) -> None:
        """Make the calls in turn, several at a time.

        Args:
            *calls: The calls.
            times: The least number of calls.
            cancel: The least number of calls to be cancelled. How many are, depends on
                the machine, so calls are made until there are enough.
            concurrency: The number of calls at a time.
        """
        numbers = itertools.count()

        async def some() -> None:
            for number in numbers:
                if number >= times and self.cancelled >= cancel:
                    return
                await self.once(calls[number % len(calls)])

        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(some())

    async def once(self, call: Call) -> None:
        """Make a call and cancel it; raise any other exception of the call."""
        way = self._random.choice((self._by_task, self._by_scope, self._by_timeout))
        if self._random.random() < self._spared:
            way = self._not_at_all
        ended = False

        async def made() -> None:
            nonlocal ended
            await call()
            ended = True

        await way(made)
        self.done += ended
        self.cancelled += not ended

    async def _moment(self) -> None:
        if self._random.random() < 0.5:
            for _ in range(self._random.randrange(TURNS)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self._delay())

    def _delay(self) -> float:
        return self._random.random() ** 2 * self._longest

    async def _not_at_all(self, call: _Made) -> None:
        await asyncio.create_task(call())

    async def _by_task(self, call: _Made) -> None:
        task = asyncio.create_task(call())
        # A second cancellation must not interrupt the cleanup of the first.
        for _ in range(self._random.choice((1, 1, 2))):
            await self._moment()
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _by_scope(self, call: _Made) -> None:
        async def made() -> None:
            with anyio.move_on_after(self._delay()):
                await call()

        await asyncio.create_task(made())

    async def _by_timeout(self, call: _Made) -> None:
        async def made() -> None:
            limit = asyncio.timeout(self._delay())
            try:
                async with limit:
                    await call()
            except TimeoutError:
                assert limit.expired()

        await asyncio.create_task(made())


@asynccontextmanager
async def nothing_left(redis: Any) -> AsyncIterator[None]:
    """Check that no task, connection or complaint of asyncio is left after a block."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    tasks = asyncio.all_tasks()
    connections = len(await redis.client_list())

    async def gone() -> bool:
        return len(await redis.client_list()) <= connections

    async def ended() -> bool:
        return asyncio.all_tasks() == tasks

    try:
        yield
        await eventually(gone)
        gc.collect()
        # The task that has closed the last connection may need some more turns.
        await eventually(ended, within=2)
        assert not complaints
    finally:
        loop.set_exception_handler(None)
