"""A connection with scripted replies, for races that a server can't be made to hit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from penstock._connection.command_connection import CommandConnection
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock._core.protocol.commands import Command
from penstock.errors import ConnectionLost

Script = Callable[[Sequence[Command]], list[Any]]
"""Returns the replies to one request."""


class ScriptedConnection:
    """A connection of either kind that answers each request by a script.

    Args:
        script: Returns the replies.
        requests: The number of requests that it answers before it ends; None for any.

    Attributes:
        requests: The requests that it received.
    """

    def __init__(self, script: Script, *, requests: int | None = None) -> None:
        self._script = script
        self._left = requests
        self.address = SimpleNamespace(name="scripted")
        self.number = 1
        self.requests: list[Sequence[Command]] = []

    @property
    def plain(self) -> Connection:
        """This connection, typed as a `Connection`."""
        return cast("Connection", self)

    @property
    def for_commands(self) -> CommandConnection:
        """This connection, typed as a `CommandConnection`."""
        return cast("CommandConnection", self)

    def check(self) -> None:
        """Raise if the connection has ended."""
        if self._left == 0:
            raise ConnectionLost("here", "it ended")

    def ask(
        self, batch: Sequence[Command], _: float = 0.0
    ) -> asyncio.Future[list[Any]]:
        """Return a future that has the replies already."""
        self.check()
        if self._left is not None:
            self._left -= 1
        self.requests.append(batch)
        replies = asyncio.get_running_loop().create_future()
        replies.set_result(self._script(batch))
        return replies

    def send(self, batch: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Return a future that has the replies already."""
        return self.ask(batch)

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Return the replies."""
        return await self.ask(batch)

    async def aclose(self) -> None:
        """End the connection."""
        self._left = 0


class NoServer:
    """A connector that never reconnects."""

    @property
    def plain(self) -> Connector:
        """This connector, typed as a `Connector`."""
        return cast("Connector", self)

    def progress(self) -> None:
        """Record that a reply came."""

    async def reconnect(self, _: str) -> Connection:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError
