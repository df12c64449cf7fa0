"""Counts of the events that a consumer or a producer has reported."""

from __future__ import annotations

import logging

from penstock.events import Event, OnEvent

__all__ = ["EventCounts"]


class EventCounts:
    """Counts events by their name and level."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def counting(self, on_event: OnEvent) -> OnEvent:
        """Return a hook that counts each event before it calls another hook."""

        def count(event: Event) -> None:
            key = event.name, logging.getLevelName(event.level).lower()
            self._counts[key] = self._counts.get(key, 0) + 1
            on_event(event)

        return count

    def all(self) -> dict[tuple[str, str], int]:
        """Return the number of events by name and level; any thread may call it."""
        return dict(self._counts)
