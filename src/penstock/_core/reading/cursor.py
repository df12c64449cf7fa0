"""Cursor: the position of each shard, and the choice of the next read.

In a group a shard is *recovered* first: the pending entries of this consumer (from
before a crash, or because a reply was lost with its connection) are read again, page by
page. After that the shard is *live* and its new entries are read. Every reconnect
starts over with the recovery; the ledger recognizes entries that are already in
progress.

Without a group the position is an id that is kept here: the last one read. It survives
reconnects, so a quiet stream beside a busy one loses no entries.

No shard starves another. COUNT is per stream (redis/redis#11116), so the read budget is
divided among all shards. If only some shards returned as many entries as were
requested, the next read is of those shards alone, and the one after it is of all live
shards again. Shards in recovery take turns with live ones. A shard that can't be read
(for example because its key now has another type) is skipped until it is found to be
readable again.
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
# Higher than any requested number.
_ANY: Final = 2**31


@dataclass(slots=True)
class Position:
    """The position at which one shard is read.

    Attributes:
        shard: The shard.
        after: The id after which to read. In a group, the last id of the recovery's
            pages; without a group, the last id of all.
        floor: In a group, an id up to which the group had acknowledged everything when
            it was last checked. The group is recreated there if it is deleted.
        recovering: Whether this consumer's pending entries are still being read again.
        until: The highest id that was pending when the recovery began. Entries above it
            were not lost by this consumer: they are read live, by this process or by
            another one with the same consumer name.
        highest: The highest id that was read live, or the stream's last id where the
            reading started at LATEST. An entry at or below it is redelivered.
        known: The highest id that was pending, for any consumer, when this consumer
            opened; None until that is known.
        rewound: Whether the last read redelivered entries, because the group or the
            position was rewound.
        rewind_reported: Whether the rewind has been reported, or was requested.
        broken: The server's error while the shard can't be read; else None.
        identity: The facts by which a recreated stream is recognized.
        trimmed: Finds entries that were trimmed before the group delivered them.
        doubtful: Whether to check that the stream has not been recreated.
        refused: Whether a command found no stream or no group, so that the shard has to
            be examined before the next read.
    """

    shard: Shard
    after: bytes
    floor: bytes
    recovering: bool = False
    until: EntryId | None = None
    highest: EntryId = EntryId.MIN
    known: EntryId | None = None
    rewound: bool = False
    rewind_reported: bool = False
    broken: str | None = None
    identity: StreamIdentity = field(default_factory=StreamIdentity)
    trimmed: TrimmedEntries = field(default_factory=TrimmedEntries)
    doubtful: bool = False
    refused: bool = False

    def redelivers(self, first: bytes) -> bool:
        """Return whether a read that begins with this id redelivers entries."""
        return EntryId.parse(first) <= self.highest

    @property
    def may_have_unknown(self) -> bool:
        """Whether pending entries may not have been read again, though they can be."""
        return self.recovering and self.broken is None

    def recreated(self) -> None:
        """Record that the stream was recreated; the new one is read from its start."""
        self.highest, self.known = EntryId.MIN, None
        self.after = self.floor = _START
        self.trimmed.reset()

    def recovery_began(self, highest: EntryId) -> None:
        """Record the highest pending id as a recovery begins."""
        self.until = highest
        if self.known is None:
            self.known = highest

    def unseen(self, id: EntryId) -> bool:  # noqa: A002
        """Return whether an own pending entry came in a reply that never arrived."""
        return self.known is not None and id > max(self.known, self.highest)

    def restart(self, after: bytes) -> None:
        """Continue after an id, to which a group's own position has been set too."""
        self.after = self.floor = after
        self.trimmed.reset()
        self.recovering = False
        self.rewind_reported = True


@dataclass(frozen=True, slots=True)
class ReadPending:
    """A read of one page of a shard's own pending entries.

    Attributes:
        position: The shard's position.
        count: The number of entries to request.
    """

    position: Position
    count: int


@dataclass(frozen=True, slots=True)
class ReadNew:
    """A read of new entries of some shards.

    Attributes:
        positions: The positions of the shards.
        count: The number of entries to request, per shard.
        wait: Whether to wait for the first entry.
    """

    positions: Sequence[Position]
    count: int
    wait: bool = True


Read: TypeAlias = ReadPending | ReadNew


class Cursor:
    """The positions of all shards that a consumer reads.

    Args:
        start: Each shard with the id after which to read it. In a group the server
            keeps the position, and the id is the floor.
        group: Whether the shards are read in a group.
        recover: Whether to read own pending entries first; not useful where the server
            acknowledges entries on delivery. None means the value of `group`.
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
        # Shards whose last read returned as many entries as were requested.
        self._full: list[Position] = []
        # Whether the live shards are next, because the last read was a recovery or was
        # of some shards only.
        self._live_next = False
        # Where not all shards may be read at once: the shards that have not had their
        # turn, and whether any shard returned entries in this round.
        self._round: list[Position] = []
        self._found_entries = True
        # The shards of the last read, if it was not of all.
        self._chosen: list[Position] = []
        # The number of the last recovery read: shards in recovery take turns too.
        self._recoveries = -1
        for shard, after in start:
            self.add(shard, after)

    @property
    def positions(self) -> Sequence[Position]:
        """The positions of all shards."""
        return tuple(self._positions.values())

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards."""
        return tuple(position.shard for position in self._positions.values())

    @property
    def broken(self) -> Sequence[Position]:
        """The positions of shards that can't be read at present."""
        return [p for p in self._positions.values() if p.broken is not None]

    def __contains__(self, shard: Shard) -> bool:
        return shard.key in self._positions

    def add(self, shard: Shard, after: bytes, *, pinned: bool = False) -> None:
        """Add a shard; in a group, its own pending entries are read first.

        Args:
            shard: The shard.
            after: The id after which to read the shard, or its floor.
            pinned: Whether `after` is the stream's last id, and not just a position.
        """
        position = Position(shard, after, floor=after)
        if pinned:
            position.highest = EntryId.parse(after)
        self._positions[shard.key] = position
        self.recover_again(position)

    def take_over(self, position: Position) -> None:
        """Continue a shard at the position where another cursor stopped."""
        self._positions[position.shard.key] = position

    def remove(self, shard: Shard) -> None:
        """Stop reading a shard."""
        del self._positions[shard.key]
        self._full = []

    def connected(self) -> None:
        """Restart the recovery on a new connection: a reply may have been lost."""
        # Otherwise the shards whose reply was lost would wait until all others have
        # been read.
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
        """Read a shard's own pending entries again from the lowest on.

        Does nothing where there are none, because the server acknowledges entries on
        delivery.
        """
        if self._recover:
            position.after = _START
            position.recovering = True
            position.until = None

    def next(
        self, budget: int, *, most: int = _ANY, lines: int = _ANY, shards: int = _ANY
    ) -> Read | None:
        """Return the next read, or None if no shard can be read.

        Args:
            budget: The number of entries that may be read; at least 1.
            most: The most new entries to request, per shard.
            lines: The most pending entries to list.
            shards: The most shards whose new entries are read at once.
        """
        full = [p for p in self._full if p.broken is None and not p.recovering]
        self._full = []
        if full:
            # After this read all live shards are next, before any recovery.
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
        # The least is one entry per shard. It exceeds the budget by less than the
        # number of shards.
        count = max(1, min(most, budget // max(1, len(some))))
        wait = not recovering and len(some) == len(live)
        return ReadNew(some, count, wait=wait) if live else None

    def _some(self, live: list[Position], shards: int) -> list[Position]:
        """Choose the shards of the next read, if it can't be of all live shards.

        The shards are read some at a time. Once all of them have had their turn and
        none returned an entry, the next read waits for all of them together: few of
        them will have entries by then.
        """
        self._chosen = []
        if len(live) <= shards:
            return live
        turn = [position for position in live if position in self._round]
        if not turn:
            turn, self._found_entries = live, not self._found_entries
            if self._found_entries:
                return live
        self._chosen, self._round = turn[:shards], turn[shards:]
        return self._chosen

    def recovered(self, read: ReadPending, entries: Sequence[RawEntry]) -> None:
        """Record a page of own pending entries."""
        position = read.position
        if len(entries) < read.count:
            position.recovering = False
            return
        position.after = entries[-1][0]
        until = position.until or EntryId.MAX
        position.recovering = EntryId.parse(position.after) < until

    def recovered_up_to(self, read: ReadPending, last: bytes) -> None:
        """Record a part of a page of own pending entries, up to an entry."""
        read.position.after = last

    def received(
        self, read: ReadNew, key: bytes, entries: Sequence[RawEntry]
    ) -> Position:
        """Record new entries of a shard and return the shard's position."""
        position = self._positions[key]
        self._found_entries = True
        last = entries[-1][0]
        if not self._group:
            position.after = last
        lowest, highest = EntryId.parse(entries[0][0]), EntryId.parse(last)
        position.rewound = lowest <= position.highest
        position.rewind_reported = position.rewind_reported and position.rewound
        position.highest = max(position.highest, highest)
        position.identity.read(lowest, highest, entries)
        position.trimmed.received += len(entries)
        if read.wait and len(read.positions) > 1 and len(entries) >= read.count:
            self._full.append(position)
        return position
