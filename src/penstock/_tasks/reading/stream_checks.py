"""Stream checks: when a reader checks its streams, between two reads.

What a check does is in `shard_health.py`. Here is how often one is worth its requests:
for streams that may have been recreated, for broken shards, and for entries that were
trimmed before they were delivered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from penstock import _clock
from penstock._connection.connection import Connection
from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.cursor import Cursor, Position, ReadNew
from penstock._tasks.reading.shard_health import ShardHealth
from penstock.errors import ConnectionLost, ServerError

__all__ = ["EXAMINE_EVERY", "ReadEntries", "StreamChecks"]

ReadEntries: TypeAlias = Iterable[tuple[bytes, Sequence[RawEntry]]]
"""The result of a read: keys, each with its entries."""

# The seconds between two examinations of a broken shard.
EXAMINE_EVERY: Final = 1.0
# The average bytes per second that the checks of quiet streams may receive.
_QUIET_BYTES: Final = 50_000
# The least seconds between two checks of a stream that is read without a group, and
# between two checks for entries that were trimmed unread.
_CHECK: Final = 1.0
# The seconds for which no entries are compared after a comparison, unless a read
# succeeds on the same connection.
_COMPARE_PAUSE: Final = 30.0


class StreamChecks:
    """Checks the streams of one reader.

    Args:
        health: Makes the checks.
        cursor: The positions at which the reader reads.
        in_group: Whether the streams are read for a group.
    """

    def __init__(self, health: ShardHealth, cursor: Cursor, *, in_group: bool) -> None:
        self._health = health
        self._cursor = cursor
        self._in_group = in_group
        # The time of the next examination of broken shards.
        self._examine_at = 0.0
        # The time of the next check for entries that were trimmed unread.
        self._trim_check_at = 0.0
        # Whether reads have returned no new entry since that check.
        self._idle = False
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
            self._idle = False

    async def before_read(self, connection: Connection) -> ServerError | None:
        """Check doubtful streams for being recreated, and examine broken shards.

        Returns:
            The refusal that leaves nothing to read, if there was one.
        """
        compare = _clock.boottime() >= self._compare_at
        for position in self._cursor.positions:
            if position.doubtful and position.broken is None:
                if position.identity.interrupted:
                    if compare:
                        # Until a read has succeeded on the same connection.
                        self._compare_at = _clock.boottime() + _COMPARE_PAUSE
                        self._compared = True
                    await self._health.check_after_outage(
                        connection, position, compare=compare
                    )
                else:
                    await self._health.check(connection, position)
        if self._cursor.broken and _clock.boottime() >= self._examine_at:
            return await self.examine(connection, self._cursor.broken)
        return None

    async def examine(
        self, connection: Connection, positions: Sequence[Position]
    ) -> ServerError | None:
        """Examine shards that can't be read.

        Returns:
            The refusal that leaves nothing to read, if there was one.
        """
        self._examine_at = _clock.boottime() + EXAMINE_EVERY
        return await self._health.examine(connection, positions)

    async def check_one(
        self, connection: Connection, positions: Sequence[Position]
    ) -> None:
        """Check one shard after the other while there is nothing to read.

        A stream that was recreated with the same ids looks like a quiet stream.
        """
        self._turn += 1
        position = positions[self._turn % len(positions)]
        if self._is_doubtful(position):
            await self._check(connection, position)

    async def without_recreated(
        self, connection: Connection, came: ReadEntries
    ) -> ReadEntries:
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
                recreated = await self._check(connection, position)
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

    async def _check(self, connection: Connection, position: Position) -> bool:
        begun, before = _clock.boottime(), connection.received
        recreated = await self._health.check(
            connection, position, quiet=not self._in_group
        )
        # Checks take up a fiftieth of the time at most. And where scripts are refused,
        # the reply contained two whole entries, of up to 64 MiB each.
        spent = 50 * (_clock.boottime() - begun)
        took = max(spent, (connection.received - before) / _QUIET_BYTES)
        self._check_at[position.shard.key] = begun + max(_CHECK, took)
        return recreated

    async def check_trimmed(self, connection: Connection, read: ReadNew) -> bool:
        """Check for trimmed entries before a read that may skip some.

        Returns:
            Whether the check was made; then another one is due after the read.
        """
        # A consumer that waits for the next entry receives it before it can be trimmed,
        # so an idle one needs no check.
        begun = _clock.boottime()
        if not self._in_group or self._idle or begun < self._trim_check_at:
            return False
        await self._health.check_trimmed(connection, read.positions)
        self._idle = True
        took = _clock.boottime() - begun
        self._trim_check_at = begun + max(_CHECK, 50 * took)
        return True
