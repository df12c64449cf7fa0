"""Sender of `penstock demo`: sends lines, pauses on request, and keeps the receipts."""

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
        # Lines without an outcome, and receipts of the others, in the stream's order.
        self.unsettled: deque[asyncio.Future[Receipt]] = deque()
        self.receipts: list[Receipt] = []
        # How many lines were not sent, or perhaps not; and why the first one.
        self.failures = 0
        self.failure: PenstockError | None = None
        self.paused = self.finished = False

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Send all lines and wait for their outcomes.

        Raises:
            PenstockError: The server is out of reach, or refuses us.
            OSError: The input can't be read.
        """
        # After a cancellation, lines that are left are not worth waiting for: 1 s.
        async with Producer(
            self._url, retention=KEEP_ALL, close_timeout=1, on_event=_log_others
        ) as producer:
            sent = 0
            async for line in lines:
                while sent >= self._limit:
                    self._raised.clear()
                    self.paused = True
                    await self._raised.wait()
                self.unsettled.append(
                    await producer.enqueue(self._stream, line, key=first_word(line))
                )
                sent += 1
                self.settle()
            await producer.flush()
        self.settle()
        self.finished = True

    def go_on(self, lines: float = math.inf) -> None:
        """Allow that many more lines to be sent."""
        self._limit += lines
        self.paused = False
        self._raised.set()

    def settle(self) -> None:
        """Record the outcomes that have arrived."""
        while self.unsettled and self.unsettled[0].done():
            try:
                self.receipts.append(self.unsettled.popleft().result())
            except PenstockError as error:
                self.failures += 1
                self.failure = self.failure or error

    def up_to(self, last: EntryId) -> int:
        """Count the lines sent whose entry's id is not above `last`."""
        return bisect_right(self.receipts, last, key=lambda receipt: receipt.id)


def _log_others(event: Event) -> None:
    # Lines that could not be sent are counted, and after Ctrl-C of no interest.
    if event.name not in {"send_failed", "send_unknown"}:
        log_event(event)
