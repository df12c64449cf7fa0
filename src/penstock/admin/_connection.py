"""AdminConnection: a connection that reconnects on the first call after a loss."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from penstock._connection.address import Address
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector, open_connector
from penstock._core.protocol import commands, replies
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, StreamInfo
from penstock._tasks.group import refusal
from penstock._tasks.loop_binding import LoopBinding
from penstock._tasks.stream_info import StreamInspector
from penstock.credentials import Credentials
from penstock.errors import ClosedError, ServerError
from penstock.events import OnEvent
from penstock.message import EntryId

__all__ = ["AdminConnection", "count_above"]


class AdminConnection:
    """A connection on which every call is one attempt.

    Args:
        on_event: Called with what happens in the background.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self.on_event = on_event
        # Both are None while this is closed.
        self._connector: Connector | None = None
        self._connection: Connection | None = None
        self._binding: LoopBinding | None = None
        self._connecting = anyio.Lock()
        self._inspector = StreamInspector()

    @property
    def closed(self) -> bool:
        """Whether the connection is not open."""
        return self._connector is None

    @asynccontextmanager
    async def open(
        self,
        url: str | None,
        binding: LoopBinding,
        credentials: Credentials | None = None,
    ) -> AsyncIterator[AdminConnection]:
        """Connect, and close the connection at the end.

        Args:
            url: The server.
            binding: The event loop and thread from which this may be used.
            credentials: Returns user and password, for each connection.

        Raises:
            ConfigurationError: The URL is invalid.
            ConnectError: The server could not be reached.
            AccessError: The server refuses this user.
        """
        async with open_connector(
            url, self.on_event, credentials, client="admin"
        ) as connector:
            self._connection = await connector.connect()
            self._connector, self._binding = connector, binding
            try:
                yield self
            finally:
                connection, self._connector, self._connection = (
                    self._connection,
                    None,
                    None,
                )
                with anyio.CancelScope(shield=True):
                    await connection.aclose()

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies, errors as values.

        Raises:
            ClosedError: The connection is not open.
            UsageError: It was opened in another event loop or thread.
            ConnectError: The connection was lost, and reconnecting failed.
            AccessError: The same, because the server now refuses this user.
            ConnectionLost: The connection ended before the replies.
        """
        if self._binding is not None and self._connector is not None:
            self._binding.check()
        async with self._connecting:
            if self._connector is None or self._connection is None:
                raise ClosedError("admin")
            if self._connection.lost:
                await self._connection.aclose()
                self._connection = await self._connector.connect()
            connection = self._connection
        return await connection.calls(batch)

    async def describe(self, key: bytes, more: Sequence[Command]) -> list[Any]:
        """Return the description of a stream, with more replies of the same moment.

        Args:
            key: The stream's key.
            more: Further commands about the stream, sent in one transaction with
                XINFO STREAM.

        Returns:
            The description, and the replies to the other commands; or only the error
            if the transaction was refused as a whole.

        Raises:
            ServerError: See `calls`.
        """
        [facts] = await self._inspector.with_more(
            self.calls, [key], lambda _: more, bulk=None
        )
        return [facts] if isinstance(facts, ErrorReply) else facts

    async def call_checked(self, batch: Sequence[Command], what: str) -> list[Any]:
        """Send commands in one write and return their replies, none of them an error.

        Args:
            batch: The commands.
            what: A description of the commands, for the exception.

        Raises:
            ServerError: See `calls`; or a reply is an error, see `refusal`.
        """
        answers = await self.calls(batch)
        for reply in answers:
            if isinstance(reply, ErrorReply):
                raise self.refusal(what, reply)
        return answers

    @property
    def server(self) -> str:
        """The server's name: `host:port` or the socket's path; empty while closed."""
        return self._connector.address.name if self._connector else ""

    @property
    def address(self) -> Address | None:
        """The server's address, with the login; None while closed."""
        return self._connector.address if self._connector else None

    @property
    def protocol(self) -> int | None:
        """The version of RESP that the connection speaks; None while closed."""
        return self._connection.protocol if self._connection else None

    def refusal(self, command: str, reply: ErrorReply) -> ServerError:
        """Return the exception for an error reply."""
        return refusal(self.server, command, reply)


async def count_above(
    connection: AdminConnection,
    stream: StreamInfo,
    after: EntryId,
    reported: int | None,
) -> int | None:
    """Count the entries of a stream above an id; see `StreamInfo.count_above`.

    Args:
        connection: The connection.
        stream: The stream's description.
        after: The id.
        reported: The server's own count, if it has one.

    Raises:
        ServerError: See `AdminConnection.calls`.
    """
    found = stream.count_above(after, reported)
    if found != (trusting := stream.count_above(after, reported, trusted=True)):
        [counts] = await connection.calls([commands.counts_lag()])
        return trusting if replies.counts_lag(counts) else found
    return found
