"""Where each shard is read.

In a group a shard is first *recovered*: what this consumer was given and has not
acknowledged (from before a crash, or because a reply got lost with its connection)
is read again, page by page. Then it is *live* and gets what is new. Every reconnect
starts over with recovery; what is in flight already is told apart by the ledger.

Without a group the position is an id that lives here: the last one seen. It is kept
over reconnects, so a quiet stream beside a busy one loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from penstock._core.replies import RawEntry
from penstock.message import Shard

__all__ = ["Cursor", "Live", "Position", "Read", "Recover"]

_START = b"0-0"


@dataclass(slots=True)
class Position:
    """Where one shard is read.

    Attributes:
        shard: The shard.
        after: The last id seen: of the recovery's pages in a group, else of all.
        floor: In a group, an id below which all was acknowledged when we looked:
            where to make the group anew should it vanish.
        recovering: Whether own pending entries are still being read again.
    """

    shard: Shard
    after: bytes
    floor: bytes
    recovering: bool


@dataclass(frozen=True, slots=True)
class Recover:
    """Read a page of one shard's own pending entries.

    Attributes:
        position: The shard's position.
        count: Entries to ask for.
    """

    position: Position
    count: int


@dataclass(frozen=True, slots=True)
class Live:
    """Read what is new on all shards, waiting for it.

    Attributes:
        positions: The shards' positions.
        count: Entries to ask for, per shard.
    """

    positions: Sequence[Position]
    count: int


Read: TypeAlias = Recover | Live


class Cursor:
    """The positions of all shards that a consumer reads.

    Args:
        start: Each shard with the id after which to read it; in a group the server
            knows better, and it is the floor.
        group: Whether a group is read.
        recover: Whether own pending entries are to be read first; not where the
            server acknowledges by itself.
    """

    def __init__(
        self,
        start: Sequence[tuple[Shard, bytes]],
        *,
        group: bool,
        recover: bool | None = None,
    ) -> None:
        self._group = group
        self._recover = group if recover is None else recover
        self._positions = {
            shard.key: Position(shard, after, floor=after, recovering=False)
            for shard, after in start
        }

    @property
    def positions(self) -> Sequence[Position]:
        """All positions, for the outside to look at."""
        return tuple(self._positions.values())

    def connected(self) -> None:
        """Start over on a new connection: the old one may have lost a reply."""
        if self._recover:
            for position in self._positions.values():
                position.after = _START
                position.recovering = True

    def next(self, room: int) -> Read:
        """Choose the next read.

        Args:
            room: Entries that may be read; at least 1.
        """
        for position in self._positions.values():
            if position.recovering:
                return Recover(position, room)
        # COUNT is per stream (redis/redis#11116), so it is divided; one a shard is
        # the least, and goes over the room by less than there are shards.
        positions = self.positions
        return Live(positions, max(1, room // len(positions)))

    def recovered(self, read: Recover, entries: Sequence[RawEntry]) -> None:
        """Go on after a page of own pending entries; a short page is the last."""
        if len(entries) < read.count:
            read.position.recovering = False
        else:
            read.position.after = entries[-1][0]

    def received(self, key: bytes, entries: Sequence[RawEntry]) -> Shard:
        """Go on after new entries of a shard; gives the shard."""
        position = self._positions[key]
        if not self._group:
            position.after = entries[-1][0]
        return position.shard
