"""Owned cursors: each owned shard is read by itself, under a name of its own."""

from __future__ import annotations

from collections.abc import Callable

from penstock._core.reading.cursor import Cursor
from penstock._core.reading.slot_cursors import SlotCursors
from penstock.message import Shard

__all__ = ["OwnedCursors"]


class OwnedCursors(SlotCursors):
    """The cursors of the shards that a consumer owns now: one for each.

    Args:
        make: Returns a new cursor without shards.
    """

    def __init__(self, make: Callable[[], Cursor]) -> None:
        super().__init__(make)
        self.all.clear()

    def find(self, shard: Shard) -> Cursor | None:
        """Return the cursor that reads a shard; None if a new one has to be created."""
        return next((cursor for cursor in self.all if shard in cursor), None)

    def open(self, shard: Shard) -> Cursor:
        """Create the cursor that is to read a shard."""
        cursor = self._make()
        self.all.append(cursor)
        return cursor

    def close(self, cursor: Cursor) -> None:
        """Forget a cursor: its shard is given up."""
        self.all.remove(cursor)

    def to_part(self) -> int:
        """Return 0: each shard has its own cursor already."""
        return 0
