"""Patience on opening: what may pass is waited for, as long as was asked for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import anyio

from penstock._connection.reconnect import CommandConnection
from penstock._core.backoff import ReconnectBackoff
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock.errors import AccessError, CommandError, ConnectionLost, ServerError

__all__ = ["retrying"]

T = TypeVar("T")


async def retrying(
    connection: CommandConnection, deadline: float, step: Callable[[], Awaitable[T]]
) -> T:
    """Do a step of opening, again and again if it fails for what may pass.

    Args:
        connection: The command connection; made anew if it is lost meanwhile.
        deadline: Until when, by the monotonic clock; there is one try at least.
        step: What to do; from its start each time.

    Raises:
        PenstockError: What the last try raised.
    """
    backoff = ReconnectBackoff()
    while True:
        try:
            return await step()
        except ServerError as error:
            delay = backoff.failed(random.random())  # noqa: S311 - only jitter
            if not _is_transient(error) or monotonic() + delay > deadline:
                raise
            await anyio.sleep(delay)
            if isinstance(error, ConnectionLost) and connection.lost:
                with anyio.move_on_after(max(0.0, deadline - monotonic())):
                    await connection.restore(error.reason)


def _is_transient(error: ServerError) -> bool:
    """Tell what a server says while it loads, is full or is demoted from the rest."""
    if isinstance(error, CommandError):
        return ErrorReply(error.reason).trouble is ErrorKind.TRANSIENT
    return not isinstance(error, AccessError)
