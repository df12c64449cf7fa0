"""Retries on opening: waits for transient errors to pass, for a limited time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from penstock import _chance, _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.backoff import ReconnectBackoff
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock.errors import AccessError, CommandError, ConnectionLost, ServerError

__all__ = ["retrying"]

T = TypeVar("T")


async def retrying(
    connection: CommandConnection, deadline: float, step: Callable[[], Awaitable[T]]
) -> T:
    """Run a step of opening, and repeat it if it fails with a transient error.

    Args:
        connection: The command connection; restored if it is lost meanwhile.
        deadline: When to stop retrying, by the monotonic clock; there is at least one
            attempt.
        step: The step; each attempt runs all of it.

    Raises:
        PenstockError: The error of the last attempt.
    """
    backoff = ReconnectBackoff()
    while True:
        try:
            return await step()
        except ServerError as error:
            delay = backoff.failed(_chance.fraction())
            if not _is_transient(error) or _clock.monotonic() + delay > deadline:
                raise
            await anyio.sleep(delay)
            if isinstance(error, ConnectionLost) and connection.lost:
                with anyio.move_on_after(max(0.0, deadline - _clock.monotonic())):
                    await connection.restore(error.reason)


def _is_transient(error: ServerError) -> bool:
    """Return whether an error is transient.

    It is if the server is loading, full or demoted, or if the connection failed.
    """
    if isinstance(error, CommandError):
        return ErrorReply(error.reason).kind is ErrorKind.TRANSIENT
    return not isinstance(error, AccessError)
