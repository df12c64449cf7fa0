"""Read pauses: functions that run between two reads, on the reader's connection.

The positions are changed (by a seek, or by another shard) between two reads, by the
reader itself. So no reply can arrive for a position that no longer exists.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from penstock._connection.connection import Connection
from penstock._connection.reading_connection import ReadingConnection
from penstock.errors import ClosedError, ConnectionLost, PenstockError

__all__ = ["ReadPauses"]

ReadPause: TypeAlias = Callable[[Connection], Awaitable[None]]
"""A function that runs between two reads, on the reader's connection.

If the connection ends meanwhile, the function runs again from the start.
"""


@dataclass(slots=True, eq=False)
class _Queued:
    work: ReadPause
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def settle(self, error: PenstockError | None) -> None:
        self.begun.set()
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
            # The caller may be cancelled. Then asyncio must not log "never retrieved".
            self.done.exception()


class ReadPauses:
    """The functions that wait for the end of a reader's present read.

    Args:
        connection: The reader's connection.
        wake: Wakes the reader if it waits for something else than a read.

    Attributes:
        running: Whether a function is running.
    """

    def __init__(self, connection: ReadingConnection, wake: Callable[[], None]) -> None:
        self._connection = connection
        self._wake = wake
        self._queue: deque[_Queued] = deque()
        self._closed = False
        self._stopping = False
        self.running = False

    @property
    def any(self) -> bool:
        """Whether a function waits for the end of the present read."""
        return bool(self._queue)

    async def between_reads(self, work: ReadPause) -> None:
        """Run a function between two reads; the server ends a blocked read for it.

        The function runs even if the caller is cancelled.

        Args:
            work: The function.

        Raises:
            ClosedError: The consumer closed before the function was done.
            PenstockError: The function raised it.
        """
        if self._closed:
            raise ClosedError("consumer")
        asked = _Queued(work)
        self._queue.append(asked)
        self._wake()
        await self._connection.unblock_until(asked.begun)
        await asyncio.shield(asked.done)

    async def interrupt(self) -> None:
        """Wait until the reply to a read under way is recorded.

        The server ends a blocked read for it.

        Raises:
            ClosedError: The consumer closed before.
        """
        await self.between_reads(_nothing)

    async def run(self) -> None:
        """Run the functions that wait, in their order; called between two reads.

        Raises:
            ConnectionLost: The connection ended. The function stays queued, for the
                next connection.
        """
        while self._queue and not self._stopping:
            asked = self._queue[0]
            asked.begun.set()
            error: PenstockError | None = None
            self.running = True
            try:
                await asked.work(self._connection.current)
            except ConnectionLost:
                raise
            except PenstockError as failure:
                error = failure
            finally:
                self.running = False
            asked.settle(error)
            self._queue.popleft()

    def stop(self) -> None:
        """Begin no function any more; one that runs is completed."""
        self._stopping = True

    def close(self) -> None:
        """End the pauses: there are no more reads."""
        self._closed = True
        while self._queue:
            self._queue.popleft().settle(ClosedError("consumer"))


async def _nothing(_: Connection) -> None: ...
