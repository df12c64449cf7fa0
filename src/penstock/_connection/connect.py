"""Connection setup: redis-py connects, and its errors become Penstock's."""

from __future__ import annotations

import asyncio

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from penstock._connection.address import Address
from penstock._connection.connection import Connection
from penstock._core.protocol.replies import without_arguments
from penstock.errors import AccessError, ConnectError, ServerError
from penstock.events import printable

__all__ = ["connect"]


async def connect(address: Address) -> Connection:
    """Connect, with TLS, credentials and database as the URL says.

    If this is cancelled, no connection stays open.

    Raises:
        ConnectError: The server cannot be reached, or is no Redis server.
        AccessError: The server refused the credentials.
    """
    connection = address.connection()
    transports: list[asyncio.WriteTransport] = []

    async def shake_hands(connection: AbstractConnection) -> None:
        # redis-py drops its reference to the transport when it fails, and TLS would
        # then wait 30 s for the peer's close_notify.
        writer = connection._writer  # noqa: SLF001
        assert writer is not None  # noqa: S101 - redis-py says that it is open
        transports.append(writer.transport)
        await connection.on_connect()

    connection.redis_connect_func = shake_hands
    try:
        async with asyncio.timeout(address.connect_timeout):
            await connection.connect()  # type: ignore[no-untyped-call]
            if await connection.can_read():
                raise RedisError("the server sent data before any request")  # noqa: TRY301
    except BaseException as error:
        await connection.disconnect(nowait=True)
        for transport in transports:
            transport.abort()
        if not isinstance(error, Exception):
            raise
        failure = _explain(address, error)
    else:
        return Connection(address, connection, asyncio.get_running_loop())
    # Raised here, outside the `except` block, the error has no `__context__`:
    # redis-py's errors may quote what was sent.
    raise failure


def _explain(address: Address, error: Exception) -> ServerError:
    reason = printable(address.redact(without_arguments(str(error))))
    # On a Unix socket redis-py does its handshake while it connects, and wraps errors.
    refusals = AuthenticationError | NoPermissionError
    if isinstance(error, refusals) or isinstance(error.__cause__, refusals):
        return AccessError(address.name, reason)
    if isinstance(error, TimeoutError):
        reason = f"no answer within {address.connect_timeout:g} s"
    elif not isinstance(error, RedisError | OSError):
        # For example an AttributeError, if the reply to HELLO is not a map.
        reason = "the program that answers there is not a Redis server"
    return ConnectError(address.name, reason or type(error).__name__)
