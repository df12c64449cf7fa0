"""Connection setup: redis-py connects, and its errors become Penstock's."""

from __future__ import annotations

import asyncio
from typing import Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from penstock._connection.address import Address
from penstock._connection.connection import Connection
from penstock._core.protocol.replies import without_arguments
from penstock.errors import AccessError, ConnectError, ServerError
from penstock.events import printable

__all__ = ["SettingRefused", "connect"]

# What servers reply to a database, a client name or a protocol that they don't take.
_OF_A_SETTING: Final = ("DB index", "SELECT", "Client names", "NOPROTO")


class SettingRefused(ConnectError):  # noqa: N818 - a refusal, not a failure
    """The server answered, and refused a setting of the URL; a retry changes nothing.

    Args:
        address: `host:port` or the socket's path.
        reason: The server's reply.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            address,
            reason,
            "a server answers there; check the database number, client_name and "
            "protocol of the URL",
        )


async def connect(address: Address) -> Connection:
    """Connect, with TLS, credentials and database as the URL says.

    If this is cancelled, no connection stays open.

    Raises:
        ConnectError: The server cannot be reached, or is no Redis server.
        SettingRefused: The server refused the database, the client's name or the
            protocol.
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
    errors = (error, error.__cause__)
    if any(isinstance(e, AuthenticationError | NoPermissionError) for e in errors):
        return AccessError(address.name, reason)
    refused = any(isinstance(e, ResponseError) for e in errors)
    if refused and any(words in reason for words in _OF_A_SETTING):
        return SettingRefused(address.name, reason)
    if isinstance(error, TimeoutError):
        reason = f"no answer within {address.connect_timeout:g} s"
    elif not isinstance(error, RedisError | OSError):
        # For example an AttributeError, if the reply to HELLO is not a map.
        reason = "the program that answers there is not a Redis server"
    return ConnectError(address.name, reason or type(error).__name__)
