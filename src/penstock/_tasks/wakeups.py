"""How tasks wake each other: one wake-up a batch, none a message."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

__all__ = ["AutoResetEvent", "Generation", "WaiterQueue"]


class AutoResetEvent:
    """Wakes the one task that waits for it; remembers a ring until then."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the task, or the next that comes to wait."""
        self._event.set()

    def clear(self) -> None:
        """Forget a ring that nobody has waited for."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait for a ring; cancelling leaves the bell as it was."""
        await self._event.wait()
        self._event.clear()


class WaiterQueue:
    """Tasks that wait for something to do, woken in the order of their coming."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def wake(self, count: int) -> None:
        """Wake that many, if as many wait."""
        waiting = self._waiting
        while count and waiting:
            future, _ = waiting.popitem(last=False)
            if not future.done():
                future.set_result(None)
                count -= 1

    def wake_all(self) -> None:
        """Wake everybody."""
        self.wake(len(self._waiting))

    async def wait(self) -> None:
        """Wait to be woken; a waker's call is passed on by who was cancelled."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        except asyncio.CancelledError:
            # On a silent stream nobody wakes us, and who gave up would stay for ever.
            self._waiting.pop(future, None)
            if not future.cancelled():
                self.wake(1)
            raise


class Generation:
    """Tells everybody who waits that another round is over."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def advance(self) -> None:
        """End a round."""
        done, self._next = self._next, asyncio.Event()
        done.set()

    async def wait(self) -> None:
        """Wait for the end of the round that runs, or of the next."""
        await self._next.wait()
