"""The sending side of `penstock demo`."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator

from penstock import KEEP_ALL, EntryId, Event, PenstockError, Producer, Receipt
from penstock.cli.demo.input import first_word
from penstock.events import log_event

__all__ = ["Sender"]


class Sender:
    """Sends lines and keeps the receipts.

    Args:
        url: The server.
        stream: The stream's name.
        limit: How many lines to send before waiting for `go_on`; None for all.
    """

    def __init__(self, url: str, stream: str, limit: int | None = None) -> None:
        self._url = url
        self._stream = stream
        self._limit: float = math.inf if limit is None else limit
        self._raised = asyncio.Event()
        self._unsettled: deque[asyncio.Future[Receipt]] = deque()
        # Of what the server has confirmed, in the order of the stream.
        self.receipts: list[Receipt] = []
        # What could not be sent, or may not have been; and why the first one.
        self.failures = 0
        self.failure: PenstockError | None = None
        self.paused = False
        self.finished = False

    @property
    def unsettled(self) -> int:
        """How many lines have no outcome yet."""
        return len(self._unsettled)

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Send all lines and wait for their outcomes.

        Raises:
            PenstockError: The server is out of reach, or refuses us.
            OSError: The input can't be read.
        """
        # What is left when this is cancelled is not worth waiting for.
        async with Producer(
            self._url,
            retention=KEEP_ALL,
            close_timeout=1,
            on_event=_log_others,
        ) as producer:
            sent = 0
            async for line in lines:
                while sent >= self._limit:
                    await self._pause()
                self._unsettled.append(
                    await producer.enqueue(self._stream, line, key=first_word(line))
                )
                sent += 1
                self.settle()
            await producer.flush()
        self.settle()
        self.finished = True

    async def _pause(self) -> None:
        self._raised.clear()
        self.paused = True
        await self._raised.wait()

    def go_on(self, lines: float = math.inf) -> None:
        """Let that many more lines be sent."""
        self._limit += lines
        self.paused = False
        self._raised.set()

    def settle(self) -> None:
        """Take in the outcomes that have come."""
        unsettled = self._unsettled
        while unsettled and unsettled[0].done():
            try:
                self.receipts.append(unsettled.popleft().result())
            except PenstockError as error:
                self.failures += 1
                self.failure = self.failure or error

    def up_to(self, last: EntryId) -> int:
        """Count what was sent and lies in the stream no further than an id."""
        return bisect_right(self.receipts, last, key=lambda receipt: receipt.id)


def _log_others(event: Event) -> None:
    # What could not be sent is counted here already, and after Ctrl-C of no interest.
    if event.name not in {"send_failed", "send_unknown"}:
        log_event(event)
