"""Keeping in mind up to where a group has acknowledged everything.

Should the group vanish, it is made anew there. What was acknowledged since we looked is
handled again then, so we look often: with the acknowledgements, once a second.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from penstock._core.cursors import Cursors
from penstock._link.link import Line
from penstock._tasks.membership import Membership, floors

__all__ = ["Sounding"]

_EVERY: Final = 1.0


class Sounding:
    """Looks how far the group has come with the shards of cursors.

    Args:
        line: The command connection.
        member: The group.
        cursors: Their floors are kept up to date.
    """

    def __init__(self, line: Line, member: Membership, cursors: Cursors) -> None:
        self._line = line
        self._member = member
        self._cursors = cursors
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
        found = await floors(self._line, self._member, shards)
        for position, floor in zip(positions, found, strict=True):
            if floor is not None:
                position.floor = floor
