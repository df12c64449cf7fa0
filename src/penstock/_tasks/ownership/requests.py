"""Requests of owned shards: commands that are sent until they are answered."""

from __future__ import annotations

import logging
from typing import Any

import anyio

from penstock import _chance
from penstock._connection.command_connection import CommandConnection
from penstock._core.backoff import ReconnectBackoff
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["LOST", "Requests"]

LOST: Any = object()
"""The reply that was lost with its connection; there is a new connection by then."""


class Requests:
    """Sends commands one at a time for one shard, or for one stream.

    Args:
        connection: The command connection.
        what: The facts that name the shard or stream in events.
        on_event: Receives refusals.
    """

    def __init__(
        self,
        connection: CommandConnection,
        what: dict[str, object],
        on_event: OnEvent,
    ) -> None:
        self._connection = connection
        self._what = what
        self._on_event = on_event
        self._backoff = ReconnectBackoff()

    async def ask(self, command: Command) -> Any:
        """Send a command; return its reply, which is an error or `LOST` if it failed.

        It waits before it returns one of these: for a connection, or for a while if the
        server refused, so that the command can be sent again at once.

        Raises:
            ConnectionLost: The consumer is closing, and there is no connection.
        """
        try:
            [reply] = await self._connection.calls([command])
        except ConnectionLost as error:
            await self._connection.restore(error.reason)
            return LOST
        if isinstance(reply, ErrorReply) and reply.kind is not ErrorKind.REPAIR:
            facts = {**self._what, "reply": reply.text}
            self._on_event(Event("ownership_refused", logging.WARNING, facts))
            await anyio.sleep(self._backoff.failed(_chance.fraction()))
        else:
            self._backoff.progress()
        return reply
