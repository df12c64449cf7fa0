"""Reading connection: a reader's connection, on which reads block.

The reader has a connection of its own, since a blocking read holds up every command
behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from penstock import _clock
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.reading.silence import Silence
from penstock.errors import ConnectionLost

__all__ = ["ReadingConnection"]


class ReadingConnection:
    """A connection that is replaced after an outage, and whose reads can be ended.

    Args:
        connection: The first connection.
        connector: Makes new connections.
        unblock: Sends CLIENT UNBLOCK for a connection's id.

    Attributes:
        current: The present connection.
        unrecorded: Whether a read is under way, or its entries are not recorded yet. A
            cancellation could strand them: they would be pending and unknown.
        reply_bytes: The bytes of the last reply.
    """

    def __init__(
        self,
        connection: Connection,
        connector: Connector,
        unblock: Callable[[int], Awaitable[None]],
    ) -> None:
        self.current = connection
        self.unrecorded = False
        self.reply_bytes = 0
        self._connector = connector
        self._unblock = unblock
        self._silence = Silence()
        # The ids of lost connections on which the server may still hold a read.
        self._unended: list[int] = []

    async def ask(self, batch: Sequence[Command], wait: float = 0.0) -> list[Any]:
        """Send commands that bring entries, and return the replies, errors as values.

        Args:
            batch: The commands.
            wait: Seconds for which the server may block before it replies.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        self.unrecorded = True
        before = self.current.received
        silence = self._silence
        silence.asked(_clock.monotonic())
        try:
            answers = await self.current.ask(batch, wait)
        except ConnectionLost:
            silence.lost()
            raise
        except BaseException:
            silence.given_up()
            raise
        silence.answered(_clock.monotonic())
        self.reply_bytes = self.current.received - before
        self.unrecorded = False
        return answers

    def silent_for(self, now: float) -> float:
        """Return the seconds for which the server has owed an answer; 0 if it does not.

        Args:
            now: The time, by the monotonic clock.
        """
        since = self._silence.since
        silent = 0.0 if since is None else now - since
        # While a long reply arrives, the server is not silent.
        return min(silent, self.current.quiet_for) if silent else self.current.lost_for

    async def reconnect(self, reason: str) -> None:
        """Replace the connection, which is lost.

        The lost reply may have contained entries. They are pending for this consumer,
        and have to be recovered.
        """
        if self.unrecorded and self.current.client_id is not None:
            self._unended.append(self.current.client_id)
        await self.current.aclose()
        self.current = await self._connector.reconnect(reason)
        self.unrecorded = False
        if self._unended:
            await self._end_lost_reads()

    async def _end_lost_reads(self) -> None:
        """End the reads that the server may hold for connections that were lost.

        If the network failed, the server does not know that these connections are lost.
        It would deliver the next entries to them, after the pending entries have been
        listed here. Those would be handled after later ones, when their lease is over.
        """
        # Ids rise as long as the server runs. After a restart a higher one may belong
        # to another client, and lost reads have ended with the process.
        newest = self.current.client_id or 0
        ask = [commands.client_unblock(id_) for id_ in self._unended if id_ < newest]
        # If this connection is lost, too, the next read finds that out.
        with suppress(ConnectionLost):
            await self.current.calls(ask)
            self._unended.clear()

    @property
    def can_unblock(self) -> bool:
        """Whether a read is under way that the server can be asked to end."""
        return (
            self.unrecorded
            and self.current.client_id is not None
            and not self.current.lost
        )

    async def unblock_until(self, until: asyncio.Event) -> None:
        """Make the server end blocked reads until an event is set."""
        # The reader may be about to set the event already, without a read.
        await asyncio.sleep(0)
        while not until.is_set():
            if self.current.client_id is None:
                await until.wait()  # the read ends by itself
                return
            # Repeated, because CLIENT UNBLOCK has no effect on a read that the server
            # has not received yet: the two connections race.
            if self.can_unblock:
                await self._unblock(self.current.client_id)
            # Not anyio.move_on_after: this runs in the caller's task, and anyio's
            # cancellation escaped when the event was set in the same turn of the event
            # loop as the deadline.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await until.wait()
