"""Stream checks: when a reader checks its streams, between two reads.

What a check does is in `recreated_streams.py`, `shard_health.py` and
`trimmed_check.py`. Here is how often it is worth its requests to check a stream that
may have been recreated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from penstock import _clock
from penstock._connection.reading_connection import ReadingConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.cursor import Cursor, Position
from penstock._tasks.group import Membership
from penstock._tasks.reading.recreated_streams import RecreatedStreams
from penstock._tasks.reading.shard_health import ShardHealth
from penstock._tasks.reading.trimmed_check import TrimmedCheck
from penstock._tasks.reporting import ShardReporter
from penstock._tasks.stream_info import StreamInspector
from penstock.errors import ConnectionLost, ServerError
from penstock.events import OnEvent

__all__ = ["ReadEntries", "StreamChecks"]

ReadEntries: TypeAlias = Iterable[tuple[bytes, Sequence[RawEntry]]]
"""The result of a read: keys, each with its entries."""

# The average bytes per second that the checks of quiet streams may receive.
_QUIET_BYTES: Final = 50_000
# The least seconds between two checks of a stream that is read without a group.
_CHECK: Final = 1.0
# The seconds for which no entries are compared after a comparison, unless a read
# succeeds on the same connection.
_COMPARE_PAUSE: Final = 30.0


class StreamChecks:
    """Checks the streams of one reader.

    Args:
        connection: The reader's connection.
        member: The consumer's place in the group that is read, or None for REALTIME.
        cursor: The positions at which the reader reads.
        ledger: The consumer's ledger.
        on_event: Receives what the checks find.

    Attributes:
        recreated: Compares streams with those that were read before.
        health: Repairs shards, and examines those that can't be read.
        trimmed: Finds entries that were trimmed before they were delivered.
    """

    def __init__(
        self,
        connection: ReadingConnection,
        member: Membership | None,
        cursor: Cursor,
        ledger: Ledger,
        on_event: OnEvent,
    ) -> None:
        group = None if member is None else member.group
        reporter, inspector = ShardReporter(group, on_event), StreamInspector()
        self.recreated = RecreatedStreams(
            connection,
            member,
            cursor=cursor,
            ledger=ledger,
            inspector=inspector,
            reporter=reporter,
        )
        self.health = ShardHealth(
            connection,
            member,
            ledger=ledger,
            recreated=self.recreated,
            inspector=inspector,
            reporter=reporter,
        )
        self.trimmed = TrimmedCheck(connection, group, inspector, reporter)
        self._connection = connection
        self._cursor = cursor
        self._in_group = member is not None
        # The times of the next checks of streams that are read without a group.
        self._check_at: dict[bytes, float] = {}
        # The time from which entries may be compared again after an outage. Where
        # connections end often, nothing but comparisons would ever be received. And
        # whether entries were compared on the present connection.
        self._compare_at = 0.0
        self._compared = False
        # Counts up to choose the shard to check while there is nothing to read.
        self._turn = 0

    def reconnected(self) -> None:
        """Record that there is a new connection."""
        self._compared = False

    def read_succeeded(self, *, any_entries: bool) -> None:
        """Record that a read has brought its reply."""
        if self._compared:
            self._compare_at = 0.0
        if any_entries:
            self.trimmed.idle = False

    async def before_read(self) -> ServerError | None:
        """Check whether streams were recreated; examine refused and broken shards.

        Returns:
            The refusal that leaves nothing to read, if there was one.
        """
        compare = _clock.boottime() >= self._compare_at
        for position in self._cursor.positions:
            if position.doubtful and position.broken is None:
                if position.identity.interrupted:
                    if compare:
                        # Until a read has succeeded on the same connection.
                        self._compare_at, self._compared = (
                            _clock.boottime() + _COMPARE_PAUSE,
                            True,
                        )
                    await self.recreated.check_after_outage(position, compare=compare)
                else:
                    await self.recreated.check(position)
        if refused := [each for each in self._cursor.positions if each.refused]:
            for position in refused:
                position.refused = False
            return await self.health.examine(refused)
        if (
            broken := self._cursor.broken
        ) and _clock.boottime() >= self.health.examine_at:
            return await self.health.examine(broken)
        return None

    async def check_one(self, positions: Sequence[Position]) -> None:
        """Check one shard after the other while there is nothing to read.

        A stream that was recreated with the same ids looks like a quiet stream.
        """
        self._turn += 1
        position = positions[self._turn % len(positions)]
        if self._is_doubtful(position):
            await self._check(position)

    async def without_recreated(self, came: ReadEntries) -> ReadEntries:
        """Check which of the read entries are from streams that were recreated.

        Returns:
            The entries, without those that are going to be read again.
        """
        kept: list[tuple[bytes, Sequence[RawEntry]]] = []
        for key, entries in came:
            position = self._cursor.position(key)
            if not self._is_doubtful(position, entries[0][0]):
                kept.append((key, entries))
                continue
            try:
                recreated = await self._check(position)
            except ConnectionLost:
                # The entries are recorded all the same. The next request fails, and
                # the reader reconnects.
                recreated = False
            if not recreated or self._in_group:
                kept.append((key, entries))
        return kept

    def _is_doubtful(self, position: Position, first: bytes = b"") -> bool:
        """Return whether a stream has to be checked.

        Args:
            position: The position in the stream.
            first: The id of the first entry of the read; empty if there was none.
        """
        if self._in_group:
            return position.redelivers(first) and not position.rewind_reported
        return _clock.boottime() >= self._check_at.get(position.shard.key, 0.0)

    async def _check(self, position: Position) -> bool:
        connection = self._connection.current
        begun, before = _clock.boottime(), connection.received
        recreated = await self.recreated.check(position, quiet=not self._in_group)
        # Checks take up a fiftieth of the time at most. And where scripts are refused,
        # the reply contained two whole entries, of up to 64 MiB each.
        spent = 50 * (_clock.boottime() - begun)
        took = max(spent, (connection.received - before) / _QUIET_BYTES)
        self._check_at[position.shard.key] = begun + max(_CHECK, took)
        return recreated
