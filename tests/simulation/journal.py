"""Journal: the records of one simulated process."""

from __future__ import annotations

from typing import Any

from faults.history import History, Note, Record
from simulation.world import World

__all__ = ["Journal"]


class Journal:
    """The records of one process.

    Args:
        world: The world, whose clock the records have.
        history: The records of all processes.
        who: The process.
    """

    def __init__(self, world: World, history: History, who: str) -> None:
        self._world = world
        self._history = history
        self._who = who

    def tell(self, kind: type[Record], **facts: Any) -> None:
        """Add a record of now."""
        record = kind(at=self._world.time(), who=self._who, **facts)
        self._history.append(record)
        words = (str(value) for value in facts.values())
        self._world.record(self._who, f"{kind.__name__.lower()} {' '.join(words)}")

    def note(self, text: str) -> None:
        """Add anything else."""
        self.tell(Note, text=text)
