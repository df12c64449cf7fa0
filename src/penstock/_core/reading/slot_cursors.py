"""Slot cursors: the grouping of shards into reads, by the slots of their keys.

One read names all shards until a server refuses that. A server in cluster mode, even if
it is the only node or hides the other nodes behind it, does not accept a command with
keys of several slots (`CROSSSLOT`). After that refusal each slot is read separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock._core.protocol.cluster_slots import slot
from penstock._core.reading.cursor import Cursor, Position
from penstock.message import Shard

__all__ = ["SlotCursors"]


class SlotCursors:
    """The cursors of one consumer: one for all shards, or one for each slot.

    Args:
        make: Returns a new cursor without shards.
    """

    def __init__(self, make: Callable[[], Cursor]) -> None:
        self._make = make
        self.all: list[Cursor] = [make()]
        # The cursors by slot, once each slot has its own.
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
        """Return the cursor that reads a shard; None if a new one has to be created."""
        if self._by_slot is None:
            return self.all[0]
        return self._by_slot.get(slot(shard.key))

    def open(self, shard: Shard) -> Cursor:
        """Return the cursor that reads a shard, and create it if necessary."""
        found = self.find(shard)
        if found is None:
            assert self._by_slot is not None  # noqa: S101 - else `find` has the first
            found = self._by_slot[slot(shard.key)] = self._make()
            self.all.append(found)
        return found

    def to_part(self) -> int:
        """Return the number of additional cursors that `part` would create."""
        slots = {slot(shard.key) for shard in self.shards}
        return 0 if self._by_slot is not None else max(0, len(slots) - 1)

    def part(self) -> Sequence[Cursor]:
        """Create a cursor for each slot and return the new cursors.

        The first shard stays with its cursor.
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
