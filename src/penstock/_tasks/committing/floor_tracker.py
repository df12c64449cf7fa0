"""Keeping in mind up to where a group has acknowledged everything.

Should the group vanish, it is made anew there. What was acknowledged since we looked is
handled again then, so we look often: with the acknowledgements, once a second.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from penstock._connection.reconnect import CommandConnection
from penstock._core.reading.cursor import Position
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.group import Membership, floors
from penstock.message import EntryId, Shard

__all__ = ["FloorTracker"]

_EVERY: Final = 1.0


class FloorTracker:
    """Looks how far the group has come with the shards of cursors.

    Args:
        connection: The command connection.
        member: The group.
        cursors: Their floors are kept up to date.
        on_doubt: Called when a stream may have been recreated, so that a reader has to
            check it.
    """

    def __init__(
        self,
        connection: CommandConnection,
        member: Membership,
        cursors: SlotCursors,
        on_doubt: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._member = member
        self._cursors = cursors
        self._on_doubt = on_doubt
        self._next = monotonic() + _EVERY

    async def look(self) -> None:
        """Look, if it is time to.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        if monotonic() < self._next:
            return
        self._next = monotonic() + _EVERY
        positions = self._cursors.positions
        shards = [position.shard for position in positions]
        before = [position.floor for position in positions]
        found = await floors(self._connection, self._member, shards)
        for position, old, floor in zip(positions, before, found, strict=True):
            if floor is None or position.floor != old:
                continue  # sought meanwhile, or recreated
            position.floor = floor
            if EntryId.parse(floor) < EntryId.parse(old):
                # The group was set back, or it is another one.
                self._doubt(position)

    def doubt(self, shard: Shard) -> None:
        """Have it checked whether a shard's stream is still the same."""
        for position in self._cursors.positions:
            if position.shard == shard:
                self._doubt(position)

    def _doubt(self, position: Position) -> None:
        position.doubtful = True
        self._on_doubt()
