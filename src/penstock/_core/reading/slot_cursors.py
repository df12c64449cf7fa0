"""What is read together, and what by itself.

One read names all shards, until a server says that it may not: one in cluster mode,
even if it is alone or hides the others behind it, takes no command with keys of
several slots (`CROSSSLOT`). From then on each slot is read by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock._core.protocol.cluster_slots import slot
from penstock._core.reading.cursor import Cursor, Position
from penstock.message import Shard

__all__ = ["SlotCursors"]


class SlotCursors:
    """The cursors of one consumer: one for all, or one for each slot.

    Args:
        make: Makes one that reads nothing yet.
    """

    def __init__(self, make: Callable[[], Cursor]) -> None:
        self._make = make
        self.all: list[Cursor] = [make()]
        # By slot, once they are apart.
        self._by_slot: dict[int, Cursor] | None = None

    @property
    def positions(self) -> Sequence[Position]:
        """The positions of all shards."""
        return tuple(each for cursor in self.all for each in cursor.positions)

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards."""
        return tuple(position.shard for position in self.positions)

    def __contains__(self, shard: Shard) -> bool:
        return any(shard in cursor for cursor in self.all)

    def find(self, shard: Shard) -> Cursor | None:
        """Give the cursor that is to read a shard; None if that needs a new one."""
        if self._by_slot is None:
            return self.all[0]
        return self._by_slot.get(slot(shard.key))

    def open(self, shard: Shard) -> Cursor:
        """Make the cursor that is to read a shard, unless it is there."""
        found = self.find(shard)
        if found is None:
            assert self._by_slot is not None  # noqa: S101 - else `find` has the first
            found = self._by_slot[slot(shard.key)] = self._make()
            self.all.append(found)
        return found

    def to_part(self) -> int:
        """Count the cursors that there would be more if they were parted."""
        slots = {slot(shard.key) for shard in self.shards}
        return 0 if self._by_slot is not None else max(0, len(slots) - 1)

    def part(self) -> Sequence[Cursor]:
        """Have each slot read by itself from now on; gives the cursors that are new.

        Where the first shard is read does not change.
        """
        first = self.all[0]
        position, *others = first.positions
        self._by_slot = {slot(position.shard.key): first}
        for position in others:
            cursor = self.open(position.shard)
            if cursor is not first:
                first.remove(position.shard)
                cursor.take_over(position)
        return self.all[1:]
