"""Signals between the parts of a consumer: who is woken by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Signal", "Signals"]


class Signal:
    """Calls all that are connected to it, in the order of connecting."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def connect(self, *listeners: Callable[[], None]) -> None:
        """Have the signal call these from now on; they may only wake a task."""
        self._listeners += listeners

    def __call__(self) -> None:
        for listener in self._listeners:
            listener()


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals of one consumer.

    Attributes:
        capacity: Entries can be read or claimed again.
        outcomes: Outcomes wait for the committer.
        ready: An entry may be taken that no read has just brought.
        postponed: The next retry is due earlier than before.
        restored: The command connection is there again.
        renewed: Leases were renewed.
        recovered: A shard's own pending entries have been read.
        sent: The committer has finished a round.
    """

    capacity: Signal = field(default_factory=Signal)
    outcomes: Signal = field(default_factory=Signal)
    ready: Signal = field(default_factory=Signal)
    postponed: Signal = field(default_factory=Signal)
    restored: Signal = field(default_factory=Signal)
    renewed: Signal = field(default_factory=Signal)
    recovered: Signal = field(default_factory=Signal)
    sent: Signal = field(default_factory=Signal)
