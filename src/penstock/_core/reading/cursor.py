"""Where each shard is read.

In a group a shard is first *recovered*: what this consumer was given and has not
acknowledged (from before a crash, or because a reply got lost with its connection)
is read again, page by page. Then it is *live* and gets what is new. Every reconnect
starts over with recovery; what is in flight already is told apart by the ledger.

Without a group the position is an id that lives here: the last one seen. It is kept
over reconnects, so a quiet stream beside a busy one loses nothing.

No shard starves another. COUNT is per stream (redis/redis#11116), so the room is
divided among all; where only some came back full, the next read is theirs alone, and
the one after it everybody's again. Shards that recover take turns with those that are
live. A shard that can't be read (its key became something else, say) is left out until
it is found healed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.stream_identity import StreamIdentity
from penstock._core.reading.trimmed_entries import TrimmedEntries
from penstock.message import EntryId, Shard

__all__ = ["Cursor", "Position", "Read", "ReadNew", "ReadPending"]

_START: Final = b"0-0"
# More than anybody asks for.
_ANY: Final = 2**31


@dataclass(slots=True)
class Position:
    """Where one shard is read.

    Attributes:
        shard: The shard.
        after: The last id seen: of the recovery's pages in a group, else of all.
        floor: In a group, an id below which all was acknowledged when we looked:
            where to make the group anew should it vanish.
        recovering: Whether own pending entries are still being read again.
        until: The last of them when that began. Those above it were not lost to us:
            they are read live, by us or by somebody who goes by our name.
        highest: The highest id read live, or that LATEST was made; what does not lie
            above it comes again.
        known: The highest id that was pending when we opened, for whomever; None
            before that was asked.
        again: Whether it does, because the group or the position was set back.
        rewind_reported: Whether that has been told of, or was asked for.
        broken: What the server says, while the shard can't be read.
        identity: What is remembered of the stream.
        trimmed: Finds what was trimmed before the group was given it.
        doubtful: Whether it has to be checked that it is still the same stream.
    """

    shard: Shard
    after: bytes
    floor: bytes
    recovering: bool = False
    until: EntryId | None = None
    highest: EntryId = EntryId.MIN
    known: EntryId | None = None
    again: bool = False
    rewind_reported: bool = False
    broken: str | None = None
    identity: StreamIdentity = field(default_factory=StreamIdentity)
    trimmed: TrimmedEntries = field(default_factory=TrimmedEntries)
    doubtful: bool = False

    def goes_back(self, first: bytes) -> bool:
        """Return whether a read that begins with an id brings what was read before."""
        return EntryId.parse(first) <= self.highest

    def recreated(self) -> None:
        """Record that the stream is another one: it is read from its beginning."""
        self.highest, self.known = EntryId.MIN, None
        self.after = self.floor = _START
        self.trimmed.reset()

    def summed_up(self, highest: EntryId) -> None:
        """Take note of the highest id that is pending as a recovery begins."""
        self.until = highest
        if self.known is None:
            self.known = highest

    def unseen(self, id: EntryId) -> bool:  # noqa: A002 - what it is
        """Tell whether what is pending for us came in a reply that we never got."""
        return self.known is not None and id > max(self.known, self.highest)

    def restart(self, after: bytes) -> None:
        """Read on after an id; in a group the server was told so."""
        self.after = self.floor = after
        self.trimmed.reset()
        self.recovering = False
        self.rewind_reported = True


@dataclass(frozen=True, slots=True)
class ReadPending:
    """Read a page of one shard's own pending entries.

    Attributes:
        position: The shard's position.
        count: Entries to ask for.
    """

    position: Position
    count: int


@dataclass(frozen=True, slots=True)
class ReadNew:
    """Read what is new on some shards.

    Attributes:
        positions: The shards' positions.
        count: Entries to ask for, per shard.
        wait: Whether to wait for the first one.
    """

    positions: Sequence[Position]
    count: int
    wait: bool = True


Read: TypeAlias = ReadPending | ReadNew


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
        start: Iterable[tuple[Shard, bytes]],
        *,
        group: bool,
        recover: bool | None = None,
    ) -> None:
        self._group = group
        self._recover = group if recover is None else recover
        self._positions: dict[bytes, Position] = {}
        # Shards of which the last read brought as much as it asked for.
        self._full: list[Position] = []
        # The last read was a recovery, or of a few; now it is the live ones' turn.
        self._live_next = False
        # Where not all may be read at once: those that have not had their turn, and
        # whether any of the others brought something in this round.
        self._round: list[Position] = []
        self._brought = True
        # Those that the last read was of, if it was not of all.
        self._chosen: list[Position] = []
        # Recoveries take turns too.
        self._recoveries = -1
        for shard, after in start:
            self.add(shard, after)

    @property
    def positions(self) -> Sequence[Position]:
        """All positions."""
        return tuple(self._positions.values())

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards."""
        return tuple(position.shard for position in self._positions.values())

    @property
    def broken(self) -> Sequence[Position]:
        """The positions of shards that can't be read now."""
        return [p for p in self._positions.values() if p.broken is not None]

    def __contains__(self, shard: Shard) -> bool:
        return shard.key in self._positions

    def add(self, shard: Shard, after: bytes, *, pinned: bool = False) -> None:
        """Read one more shard; in a group, what is pending for us there first.

        Args:
            shard: The shard.
            after: The id after which to read it, or the floor.
            pinned: Whether that is an id that there has been, and not just a place.
        """
        position = Position(shard, after, floor=after)
        if pinned:
            position.highest = EntryId.parse(after)
        self._positions[shard.key] = position
        self.recover_again(position)

    def take_over(self, position: Position) -> None:
        """Go on with a shard where another cursor was with it."""
        self._positions[position.shard.key] = position

    def remove(self, shard: Shard) -> None:
        """Read a shard no more."""
        del self._positions[shard.key]
        self._full = []

    def connected(self) -> None:
        """Start over on a new connection: the old one may have lost a reply."""
        # Else shards whose reply was lost would wait until all others have been read.
        self._round = [*self._chosen, *self._round]
        self._chosen = []
        for position in self._positions.values():
            self.recover_again(position)
            position.trimmed.reset()
            position.doubtful = (
                position.identity.interrupted
            ) = not position.identity.empty

    def position(self, key: bytes) -> Position:
        """Return the position of the shard with a key."""
        return self._positions[key]

    def recover_again(self, position: Position) -> None:
        """Read a shard's own pending entries from the lowest on, if any are kept."""
        if self._recover:
            position.after = _START
            position.recovering = True
            position.until = None

    def next(
        self, budget: int, *, most: int = _ANY, lines: int = _ANY, shards: int = _ANY
    ) -> Read | None:
        """Choose the next read; None if there is nothing to read.

        Args:
            budget: Entries that may be read; at least 1.
            most: New entries to ask for at most, per shard.
            lines: Pending entries to list at most.
            shards: Shards to read new entries of at once, at most.
        """
        full = [p for p in self._full if p.broken is None and not p.recovering]
        self._full = []
        if full:
            # Then it is everybody's turn that is live, before any recovery.
            self._live_next = True
            return ReadNew(full, max(1, min(most, budget // len(full))), wait=False)
        usable = [p for p in self._positions.values() if p.broken is None]
        live = [p for p in usable if not p.recovering]
        recovering = [p for p in usable if p.recovering]
        if recovering and not (live and self._live_next):
            self._live_next = True
            self._recoveries += 1
            position = recovering[self._recoveries % len(recovering)]
            return ReadPending(position, min(lines, budget))
        self._live_next = False
        some = self._some(live, shards)
        # One a shard is the least, and goes over the room by less than there are.
        count = max(1, min(most, budget // max(1, len(some))))
        wait = not recovering and len(some) == len(live)
        return ReadNew(some, count, wait=wait) if live else None

    def _some(self, live: list[Position], shards: int) -> list[Position]:
        """Choose the shards of the next read, if it can't be all of them.

        They are read some at a time. Once all have had their turn and nothing came, all
        are waited for together: few will have something by then.
        """
        self._chosen = []
        if len(live) <= shards:
            return live
        turn = [position for position in live if position in self._round]
        if not turn:
            turn, self._brought = live, not self._brought
            if self._brought:
                return live
        self._chosen, self._round = turn[:shards], turn[shards:]
        return self._chosen

    def recovered(self, read: ReadPending, entries: Sequence[RawEntry]) -> None:
        """Go on after a page of own pending entries."""
        position = read.position
        if len(entries) < read.count:
            position.recovering = False
            return
        position.after = entries[-1][0]
        until = position.until or EntryId.MAX
        position.recovering = EntryId.parse(position.after) < until

    def recovered_up_to(self, read: ReadPending, last: bytes) -> None:
        """Go on after an entry in the middle of a page of own pending entries."""
        read.position.after = last

    def received(
        self, read: ReadNew, key: bytes, entries: Sequence[RawEntry]
    ) -> Position:
        """Go on after new entries of a shard; gives its position."""
        position = self._positions[key]
        self._brought = True
        last = entries[-1][0]
        if not self._group:
            position.after = last
        lowest, highest = EntryId.parse(entries[0][0]), EntryId.parse(last)
        position.again = lowest <= position.highest
        position.rewind_reported = position.rewind_reported and position.again
        position.highest = max(position.highest, highest)
        position.identity.read(lowest, highest, entries)
        position.trimmed.received += len(entries)
        if read.wait and len(read.positions) > 1 and len(entries) >= read.count:
            self._full.append(position)
        return position
