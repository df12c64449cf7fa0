"""The two ways to push: with the acknowledgement in one step, and before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from penstock._connection.command_connection import CommandConnection
from penstock._connection.reconnect import open_connector
from penstock._core.protocol.relay_script import Push, Relayed, length, push_alone
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.handling import batch_relay
from penstock._tasks.handling.batch_relay import Body
from penstock.errors import ConnectionLost
from penstock.events import OnEvent

__all__ = ["ExactPusher", "Pusher", "RepeatingPusher", "repeating"]


class Pusher(Protocol):
    """Pushes a batch."""

    async def push(self, bodies: Sequence[Body]) -> tuple[list[Body], Relayed]:
        """Push messages; return those that were not pushed, and why."""


class ExactPusher:
    """Pushes and acknowledges each message in one step.

    Args:
        push: Returns where messages go.
    """

    def __init__(self, push: Callable[[], Push]) -> None:
        self._push = push

    async def push(self, bodies: Sequence[Body]) -> tuple[list[Body], Relayed]:
        """Push messages; those that are pushed have their outcome."""
        return await batch_relay.relay(bodies, self._push())


class RepeatingPusher:
    """Pushes and waits for the reply; the handler's return acknowledges.

    What was sent and not answered is pushed again.

    Args:
        push: Returns where messages go.
        connection: The connection to the target's server.
    """

    def __init__(self, push: Callable[[], Push], connection: CommandConnection) -> None:
        self._push = push
        self._connection = connection

    async def push(self, bodies: Sequence[Body]) -> tuple[list[Body], Relayed]:
        """Push messages, as often as it takes to get a reply."""
        while True:
            # Others have what is lost.
            bodies = [body for body in bodies if not body[0].lost]
            if not bodies:
                return [], Relayed()
            try:
                return await self._try(bodies, self._push())
            except ConnectionLost as error:
                await self._connection.restore(error.reason)

    async def _try(
        self, bodies: Sequence[Body], push: Push
    ) -> tuple[list[Body], Relayed]:
        if push.most is not None:
            [found] = await self._connection.calls([length(push)])
            if isinstance(found, ErrorReply):
                return list(bodies), Relayed(failure=found)
            if found >= push.most:
                return list(bodies), Relayed(full=True)
        commands = push_alone(push, [body for _, body in bodies])
        replies = await self._connection.calls(commands)
        if len(commands) == 1:  # for all of them
            replies *= len(bodies)
        left = [
            body
            for body, reply in zip(bodies, replies, strict=True)
            if isinstance(reply, ErrorReply)
        ]
        refused = [reply for reply in replies if isinstance(reply, ErrorReply)]
        return left, Relayed(failure=refused[0] if refused else None)


@asynccontextmanager
async def repeating(
    url: str | None, push: Callable[[], Push], on_event: OnEvent
) -> AsyncIterator[RepeatingPusher]:
    """Connect to the target's server, and push there.

    Args:
        url: The server; None for that of the environment.
        push: Returns where messages go.
        on_event: Called with events of the connection.

    Raises:
        PenstockError: The server can't be reached, or refuses the user.
    """
    async with open_connector(url, on_event, role="relay") as connector:
        connection = CommandConnection(connector, await connector.first(0))
        try:
            yield RepeatingPusher(push, connection)
        finally:
            with anyio.CancelScope(shield=True):
                await connection.aclose()
