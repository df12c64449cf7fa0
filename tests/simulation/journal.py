"""Journal: the records of one simulated process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faults.history import Excuse, History, Record
from faults.journal import Journal as StoredJournal
from simulation.world import World

__all__ = ["Journal"]


class Journal(StoredJournal):
    """The records of one process, which are kept in memory and never lost.

    Args:
        world: The world, whose clock the records have.
        history: The records of all processes.
        who: The process.
        seen: Called with each record.
    """

    def __init__(
        self,
        world: World,
        history: History,
        who: str,
        seen: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._world = world
        self._seen = seen
        self._history = history
        self._who = who

    @property
    def length(self) -> int:
        """The number of records of all processes."""
        return len(self._history)

    def lost_groups_since(self, length: int) -> bool:
        """Return whether a fault may have deleted groups since there were few records.

        Args:
            length: How many there were.
        """
        records = self._history[length:]
        return any(isinstance(r, Excuse) and "again" in r.what for r in records)

    def excuse_again(self, group: str) -> None:
        """Excuse that a group handles again what there is."""
        since = self._world.time()
        self.add(Excuse, since=since, what=["again"], group=group)

    def add(self, kind: type[Record], **facts: Any) -> None:
        """Add a record of now."""
        record = kind(at=self._world.time(), who=self._who, **facts)
        self._history.append(record)
        words = (str(value) for value in facts.values())
        self._world.record(self._who, f"{kind.__name__.lower()} {' '.join(words)}")
        self._seen(record)
