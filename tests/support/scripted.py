"""A connection with scripted replies, for moments that no server hits on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from penstock._connection.connection import Connection
from penstock._connection.reconnect import CommandConnection, Connector
from penstock._core.protocol.commands import Command
from penstock.errors import ConnectionLost

Script = Callable[[Sequence[Command]], list[Any]]
"""Returns the replies to one request."""


class ScriptedConnection:
    """Answers each request as a script says; stands for a connection of either kind.

    Args:
        script: Returns the replies.
        requests: Requests that it answers before it ends; None for any number.

    Attributes:
        asked: The requests that came.
    """

    def __init__(self, script: Script, *, requests: int | None = None) -> None:
        self._script = script
        self._left = requests
        self.number = 1
        self.asked: list[Sequence[Command]] = []

    @property
    def plain(self) -> Connection:
        """The same, for who needs a connection."""
        return cast("Connection", self)

    @property
    def for_commands(self) -> CommandConnection:
        """The same, for who needs the command connection."""
        return cast("CommandConnection", self)

    def check(self) -> None:
        """Raise if it has ended."""
        if self._left == 0:
            raise ConnectionLost("here", "it ended")

    def ask(
        self, batch: Sequence[Command], _: float = 0.0
    ) -> asyncio.Future[list[Any]]:
        """Return the replies, which are there at once."""
        self.check()
        if self._left is not None:
            self._left -= 1
        self.asked.append(batch)
        replies = asyncio.get_running_loop().create_future()
        replies.set_result(self._script(batch))
        return replies

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Return the replies."""
        return await self.ask(batch)

    async def aclose(self) -> None:
        """End it."""
        self._left = 0


class NoServer:
    """A connector that finds no server any more."""

    @property
    def plain(self) -> Connector:
        """The same, for who needs a connector."""
        return cast("Connector", self)

    def progress(self) -> None:
        """Record that a reply came."""

    async def reconnect(self, _: str) -> Connection:
        """Wait for a server, for ever."""
        await asyncio.Event().wait()
        raise AssertionError
