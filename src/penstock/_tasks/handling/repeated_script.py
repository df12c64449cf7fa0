"""Scripts that are sent again until there is a reply.

Only a script may be repeated that does nothing the second time, for example because it
acknowledges its message, and does nothing unless that message is pending.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock.errors import ClosedError, ConnectionLost

__all__ = ["RepeatedScript", "finds_no_group"]


class RepeatedScript:
    """Sends one script, however often its reply is lost.

    Args:
        connection: The command connection.
        ledger: The consumer's ledger, which closes with the consumer.
    """

    def __init__(self, connection: CommandConnection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        # Whether the script has been sent to the server.
        self._loaded = False

    async def call(
        self,
        command: Callable[[bool], Command],
        *,
        is_void: Callable[[], bool],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[Any, bool]:
        """Send the script until there is a reply.

        Args:
            command: Returns the command, with the script itself or with its hash.
            is_void: Returns whether the script must not be sent any more, because the
                stream was recreated: then an entry of the same id is another message.
            prepare: Awaited before each attempt.

        Returns:
            The reply, or None if it is void; and whether the script was sent
            repeatedly.

        Raises:
            ClosedError: The consumer has closed.
        """
        repeated = False
        while True:
            if self._ledger.closed:  # the consumer does not reconnect any more
                raise ClosedError("consumer")
            if is_void():
                return None, repeated
            try:
                self._connection.check()
            except ConnectionLost as error:
                # `restore` reconnects until the consumer closes, which closes the
                # connector.
                with suppress(ConnectionLost):
                    await self._connection.restore(error.reason)
                continue
            if prepare is not None:
                try:
                    await prepare()
                except ConnectionLost:
                    continue  # nothing was sent yet
            try:
                reply = await self._send(command)
            except ConnectionLost:
                repeated = True
                continue
            if reply is not None:
                return reply, repeated

    async def _send(self, command: Callable[[bool], Command]) -> Any:
        """Send the script; return the reply, or None if the server lacks the script."""
        sent = command(not self._loaded)
        self._loaded, was_loaded = True, self._loaded
        [reply] = await self._connection.calls([sent])
        if was_loaded and isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT":
            self._loaded = False
            return None
        return reply


def finds_no_group(failure: ErrorReply | None) -> bool:
    """Return whether a script was refused because its stream or group does not exist.

    The reader has to be told: while it waits until handlers have ended, it would find
    that out only when leases are renewed.
    """
    return failure is not None and failure.kind is ErrorKind.REPAIR
