"""Read request: one read of new entries, with BLOCK where the server supports it."""

from __future__ import annotations

from typing import Any

from penstock._connection.reading_connection import ReadingConnection
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.reading.blocking import POLL, Blocking
from penstock._core.reading.cursor import ReadNew
from penstock._tasks.group import Membership
from penstock._tasks.reading.read_fence import ReadFence, Ticket
from penstock.events import Event, OnEvent

__all__ = ["ReadRequest"]


class ReadRequest:
    """Sends the reads of one reader.

    Args:
        connection: The reader's connection.
        member: The group that is read, and the name in it; None for REALTIME.
        fence: Decides what may be recorded, where shards are owned.
        on_event: Receives `polling`.

    Attributes:
        blocking: How the server treats BLOCK.
    """

    def __init__(
        self,
        connection: ReadingConnection,
        member: Membership | None,
        fence: ReadFence | None,
        on_event: OnEvent,
    ) -> None:
        self._connection = connection
        self._member = member
        self._fence = fence
        self._on_event = on_event
        self.blocking = Blocking()
        # That of the last read.
        self._ticket: Ticket | None = None
        # Whether it was reported that the server does not let this reader wait.
        self._poll_reported = False

    @property
    def is_valid(self) -> bool:
        """Whether what the last read has brought may still be recorded."""
        return self._fence is None or self._fence.is_valid(self._ticket)

    async def send(self, read: ReadNew, wait: float) -> Any:
        """Read, without BLOCK if the server refuses only that.

        Args:
            read: The read.
            wait: Seconds for which the server may block.

        Returns:
            The entries, an `ErrorReply`, or None if the entries must not be recorded.

        Raises:
            ConnectionLost: The connection ended before the reply.
        """
        came = await self._send(read, wait)
        refused = wait and isinstance(came, ErrorReply)
        if not refused or not self.blocking.may_refuse(came):
            return came
        polled = await self._send(read, 0.0)
        if isinstance(polled, ErrorReply):
            return polled
        self.blocking.refused = True
        self.report_poll(reply=came.text)
        return polled

    async def _send(self, read: ReadNew, wait: float) -> Any:
        fence, command = self._fence, self._command(read, wait)
        if fence is None:
            [came] = await self._connection.ask([command], wait)
            return came
        self._ticket = ticket = fence.read_sent()
        try:
            came, *behind = await self._connection.ask([command, *fence.behind], wait)
        except BaseException:  # a read that was cancelled may be executed later as well
            fence.read_lost(ticket)
            raise
        is_ours = fence.read_answered(ticket, behind)
        return came if is_ours or isinstance(came, ErrorReply) else None

    def _command(self, read: ReadNew, wait: float) -> Command:
        keys = [position.shard.key for position in read.positions]
        block = int(wait * 1000) if wait else None
        if self._member is None:
            after = [position.after for position in read.positions]
            return commands.xread(keys, after, read.count, block)
        group = self._member.group
        name = self._member.name_in(read.positions[0].shard)
        noack = self._member.noack
        return commands.xreadgroup(group, name, keys, read.count, block, noack=noack)

    def report_poll(self, **facts: object) -> None:
        """Report, once, that the server does not let this reader wait."""
        if not self._poll_reported:
            self._poll_reported = True
            self._on_event(Event("polling", facts={"interval": POLL, **facts}))
