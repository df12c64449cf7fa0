"""Resend queue: the batches that have to be written again, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeVar

from penstock._core.sending.requests import SUSPECT, SendBatch, SendRequest

__all__ = ["ResendQueue"]

K = TypeVar("K")


class ResendQueue(deque[SendBatch[K]]):
    """Batches to be written again; they are written before all newer messages."""

    __slots__ = ()

    def divide(self, batch: SendBatch[K]) -> None:
        """Replace a batch by batches of one message each."""
        place = self._place(batch)
        if place is not None:
            del self[place]
            for request in reversed(batch):
                single = SendBatch([request], losses=SUSPECT)
                single.written = batch.written
                self.insert(place, single)

    def put_first(self, requests: Sequence[SendRequest[K]]) -> None:
        """Add messages that are written one by one, before all others."""
        for request in reversed(requests):
            self.appendleft(SendBatch([request], losses=SUSPECT))

    def take(self, batch: SendBatch[K]) -> bool:
        """Remove a batch, and return whether it was there."""
        place = self._place(batch)
        if place is not None:
            del self[place]
        return place is not None

    def _place(self, batch: SendBatch[K]) -> int | None:
        # By identity: lists are equal if their elements are.
        for place, one in enumerate(self):
            if one is batch:
                return place
        return None

    def take_older(self, since: float) -> list[SendRequest[K]]:
        """Remove the batches that were first written before a time.

        Returns:
            Their messages.
        """
        old = [batch for batch in self if batch.written < since]
        self._keep([batch for batch in self if batch.written >= since])
        return [request for batch in old for request in batch]

    def take_given_up(self, *, whole: bool) -> list[SendRequest[K]]:
        """Remove the messages that nobody waits for, and return them.

        Args:
            whole: Whether a batch keeps all its messages, as long as anybody waits for
                one of them.
        """
        kept: list[SendBatch[K]] = []
        removed: list[SendRequest[K]] = []
        for batch in self:
            gone = [request for request in batch if request.given_up]
            if len(gone) == len(batch):
                removed += gone
                continue
            kept.append(batch)
            if gone and not whole:
                removed += gone
                batch[:] = [request for request in batch if not request.given_up]
        self._keep(kept)
        return removed

    def _keep(self, batches: Sequence[SendBatch[K]]) -> None:
        self.clear()
        self.extend(batches)
