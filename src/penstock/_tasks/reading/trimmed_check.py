"""Trimmed check: finds entries that were trimmed before their delivery to a group.

How they are recognized is in `_core/reading/trimmed_entries.py`. It compares numbers
from before and after a read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from penstock import _clock
from penstock._connection.reading_connection import ReadingConnection
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply
from penstock._core.reading.cursor import Position
from penstock._tasks.reporting import ShardReporter
from penstock._tasks.stream_info import StreamInspector

__all__ = ["TrimmedCheck"]

# The least seconds between two checks.
_CHECK: Final = 1.0


class TrimmedCheck:
    """Reports the entries that a group has lost by trimming.

    Args:
        connection: The reader's connection.
        group: The group; None for REALTIME, where nothing is checked.
        inspector: Requests descriptions of streams.
        reporter: Reports the entries.

    Attributes:
        idle: Whether reads have returned no new entry since the last check.
    """

    def __init__(
        self,
        connection: ReadingConnection,
        group: str | None,
        inspector: StreamInspector,
        reporter: ShardReporter,
    ) -> None:
        self._connection = connection
        self._group = None if group is None else group.encode()
        self._inspector = inspector
        self._report = reporter.report
        # The time of the next check.
        self._check_at = 0.0
        self.idle = False

    async def before_read(self, positions: Sequence[Position]) -> bool:
        """Check for trimmed entries before a read that may skip some.

        Returns:
            Whether the check was made; then another one is due after the read.
        """
        # A consumer that waits for the next entry receives it before it can be trimmed,
        # so an idle one needs no check.
        begun = _clock.boottime()
        if self._group is None or self.idle or begun < self._check_at:
            return False
        await self.check(positions)
        self.idle = True
        took = _clock.boottime() - begun
        self._check_at = begun + max(_CHECK, 50 * took)
        return True

    async def check(self, positions: Sequence[Position]) -> None:
        """Report entries that were trimmed before they were delivered to the group.

        This is called between two reads.

        Args:
            positions: The positions in the shards.

        Raises:
            ConnectionLost: The connection ended.
        """
        ask = [commands.xinfo_groups(position.shard.key) for position in positions]
        answers, at = await self._connection.current.calls(ask), _clock.boottime()
        for position, groups in zip(positions, answers, strict=True):
            if isinstance(groups, ErrorReply):
                continue
            for group in groups:
                if group.name == self._group and (
                    count := position.trimmed.look(group, at)
                ):
                    await self._report_trimmed(position, count)

    async def _report_trimmed(self, position: Position, count: int) -> None:
        calls, shard = self._connection.current.calls, position.shard
        [info] = await self._inspector.streams(calls, [shard.key])
        if isinstance(info, ErrorReply):
            return
        # Trimming removes the first entries of a stream. If the stream still begins at
        # or before the group's earlier position, another consumer has the entries.
        if info.first is None or info.first > position.trimmed.since:
            self._report("trimmed_unread", shard, logging.ERROR, messages=count)
