"""Meter of a producer: counts and times its messages, and counts its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from penstock import _clock
from penstock._core.metrics.sends import SendOutcome, SendTotals
from penstock._core.sending.requests import SendRequest
from penstock._tasks.event_counts import EventCounts

__all__ = ["SendMeter"]


class SendMeter:
    """Counts and times the messages of one producer, over any number of openings.

    Attributes:
        on: Whether messages are recorded.
        sends: The messages that have an outcome, by stream.
        events: The events that were reported.
        lost_for: Returns the seconds for which there has been no connection; 0 if there
            is one.
        server_version: Returns the version of the server; empty if it is not known.
    """

    def __init__(self) -> None:
        self.on = False
        self.sends: dict[str, SendTotals] = {}
        self.events = EventCounts()
        self.lost_for: Callable[[], float] = float
        self.server_version: Callable[[], str] = str

    def begin(self, request: SendRequest[Any]) -> None:
        """Record that a message is about to be queued."""
        request.began_at = _clock.monotonic()

    def record(
        self, requests: Iterable[SendRequest[Any]], outcome: SendOutcome
    ) -> None:
        """Record the outcome of messages; those that began unrecorded are left out."""
        if not self.on:
            return
        now = _clock.monotonic()
        for request in requests:
            if not request.began_at:
                continue
            stream = request.shard.stream
            totals = self.sends.get(stream)
            if totals is None:
                totals = self.sends[stream] = SendTotals()
            totals.outcomes[outcome] += 1
            if outcome == "stored":
                totals.seconds.observe(now - request.began_at)
            request.began_at = 0.0  # a message has one outcome
