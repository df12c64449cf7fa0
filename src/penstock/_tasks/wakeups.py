"""Wake-ups between tasks: one for each batch, none for each message."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

__all__ = ["AutoResetEvent", "Generation", "WaiterQueue"]


class AutoResetEvent:
    """Wakes the one task that waits for it; stays set until then."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiting task, or the next task that waits."""
        self._event.set()

    def clear(self) -> None:
        """Reset the event, if no task has waited for it."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait until the event is set, then reset it; if cancelled, do not reset it."""
        await self._event.wait()
        self._event.clear()


class WaiterQueue:
    """Tasks that wait for something to do, woken in the order in which they came."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def wake(self, count: int) -> None:
        """Wake `count` tasks, or all if fewer wait."""
        waiting = self._waiting
        while count and waiting:
            future, _ = waiting.popitem(last=False)
            if not future.done():
                future.set_result(None)
                count -= 1

    def wake_all(self) -> None:
        """Wake all tasks that wait."""
        self.wake(len(self._waiting))

    async def wait(self) -> None:
        """Wait to be woken; a task that is cancelled then passes the wake-up on."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        except asyncio.CancelledError:
            # On a silent stream no wake-up comes, so a cancelled task would stay in the
            # queue forever.
            self._waiting.pop(future, None)
            if not future.cancelled():
                self.wake(1)
            raise


class Generation:
    """Wakes all tasks that wait for the end of a round."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def advance(self) -> None:
        """End the current round."""
        done, self._next = self._next, asyncio.Event()
        done.set()

    async def wait(self) -> None:
        """Wait for the end of the current round; if none is running, of the next."""
        await self._next.wait()
