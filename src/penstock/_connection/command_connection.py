"""Command connection: a consumer's connection for all that is not reading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final

from penstock import _clock
from penstock._connection.connection import Connection, Replies
from penstock._connection.reconnect import Connector
from penstock._core.protocol.commands import Command
from penstock._core.reading.silence import Silence
from penstock.errors import (
    ConnectionLost,
)

__all__ = ["CommandConnection"]


# The silence that is allowed, as a multiple of the slowest reply so far.
_SLOWEST_FACTOR: Final = 4


class CommandConnection:
    """A shared connection for commands that do not block.

    Args:
        connector: Makes a new connection after an outage.
        connection: The first connection.
        patience: Seconds of silence after which the connection is replaced while a
            reply is due; longer where replies are slow. The default and maximum is
            `?socket_timeout=`.
    """

    def __init__(
        self, connector: Connector, connection: Connection, patience: float = inf
    ) -> None:
        self._connector = connector
        self._connection = connection
        self._patience = patience
        self._silence = Silence()
        self._adopt(connection)
        self._restoring = asyncio.Lock()
        # Called when the connection has been restored.
        self.on_restored: Callable[[], None] | None = None

    @property
    def server(self) -> str:
        """The server's name: `host:port` or the socket's path."""
        return self._connector.address.name

    @property
    def lost(self) -> bool:
        """Whether there is no connection at present."""
        return self._connection.lost

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies, errors as values.

        Raises:
            ConnectionLost: There is no connection, or it ended before the replies.
        """
        silence, asked = self._silence, _clock.monotonic()
        silence.asked(asked)
        try:
            answers = await self._connection.calls(batch)
        except ConnectionLost:
            silence.lost()
            raise
        except BaseException:
            silence.given_up()
            raise
        now = _clock.monotonic()
        silence.answered(now)
        if now - asked > self._slowest:
            self._set_patience(now - asked)
        return answers

    @property
    def silent_since(self) -> float | None:
        """When the oldest unanswered request was sent, by the monotonic clock.

        None if there is a connection and no request is waiting.
        """
        return self._silence.since if self._silence.asking or self.lost else None

    def silent_for(self, now: float) -> float:
        """Return the seconds for which the server has owed an answer; 0 if it does not.

        Args:
            now: The time, by the monotonic clock.
        """
        since = self._silence.since
        return self._connection.lost_for if since is None else now - since

    def lift_patience(self) -> None:
        """Allow as much silence from now on as any connection may have."""
        self._patience = inf
        self._set_patience(self._slowest)

    def _adopt(self, connection: Connection) -> None:
        self._connection = connection
        self._set_patience(connection.first_reply_time)

    def _set_patience(self, slowest: float) -> None:
        """Set the allowed silence, so that a server as slow as before is kept."""
        self._slowest = slowest
        patience = max(self._patience, _SLOWEST_FACTOR * slowest)
        self._connection.patience = min(patience, self._connector.address.reply_timeout)

    def check(self) -> None:
        """Check that there is a connection.

        Raises:
            ConnectionLost: There is none.
        """
        self._connection.check()

    def send(self, batch: Sequence[Command]) -> Replies:
        """Send commands in one write and return a future of their replies.

        The future need not be awaited: if the connection ends, its error is not
        reported.

        Raises:
            ConnectionLost: There is no connection; nothing was sent.
        """
        return self._connection.ask(batch)

    async def restore(self, reason: str) -> None:
        """Replace the connection if it is lost, retrying forever.

        Args:
            reason: Why the connection ended, for the event.
        """
        async with self._restoring:
            if self._connection.lost:
                await self._connection.aclose()
                lost_at = self._connection.lost_at
                self._adopt(await self._connector.reconnect(reason, lost_at))
                if self.on_restored is not None:
                    self.on_restored()

    async def listen(
        self, channels: Sequence[bytes], on_message: Callable[[], None]
    ) -> bool:
        """Subscribe to channels on this connection; its successors do not subscribe.

        Args:
            channels: The channels.
            on_message: Called for each message.

        Returns:
            False if the server or its ACL does not allow it.

        Raises:
            ConnectionLost: The connection ended before the reply.
        """
        return await self._connection.subscribe(channels, on_message)

    @property
    def number(self) -> int:
        """The number of the current connection; each connection has another one."""
        return self._connection.number

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()
