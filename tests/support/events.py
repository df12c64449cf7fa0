"""Events that a test inspects."""

from __future__ import annotations

from penstock import Event


class Events(list[Event]):
    """An `on_event` that keeps the events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def named(self, name: str) -> list[Event]:
        return [event for event in self if event.name == name]
