"""Connection setup: opens a socket, shakes hands, and names what went wrong."""

from __future__ import annotations

import asyncio

from penstock._connection.address import Address
from penstock._connection.connection import MALFORMED, Connection
from penstock._connection.credentials import obtain
from penstock._connection.handshake import SettingRefused, shake_hands
from penstock.errors import ConnectError, ConnectionLost, ServerError
from penstock.events import printable

__all__ = ["SettingRefused", "connect"]


async def connect(address: Address) -> Connection:
    """Connect, with TLS, credentials and database as the URL says.

    If this is cancelled, no connection stays open.

    Raises:
        ConnectError: The server cannot be reached, or is no Redis server; or the
            provider of the credentials failed.
        SettingRefused: The server refused the database, the client's name or the
            protocol.
        AccessError: The server refused the credentials, or their provider returned
            something else.
    """
    loop = asyncio.get_running_loop()
    login, name, patience = address.login, address.name, address.connect_timeout
    if address.credentials is not None:
        login = await obtain(address.credentials, login, name, patience)
    connection = Connection(address, loop)
    try:
        async with asyncio.timeout(patience):
            await address.endpoint.open(lambda: connection)
            await shake_hands(connection, login, patience)
    except BaseException as error:
        # Not a clean close: TLS would wait 30 s for the peer's close_notify.
        connection.abort("closed")
        if not isinstance(error, Exception):
            raise
        failure = _explain(address, error)
    else:
        return connection
    # Raised here, outside the `except` block, the error has no `__context__`.
    raise failure


def _explain(address: Address, error: Exception) -> ServerError:
    if isinstance(error, ServerError) and not isinstance(error, ConnectionLost):
        return error
    if isinstance(error, TimeoutError):
        reason = f"no answer within {address.connect_timeout:g} s"
    elif isinstance(error, ConnectionLost):
        lost = error.reason
        not_redis = "what answers there is not a Redis server"
        reason = not_redis if lost == MALFORMED else lost
    elif isinstance(error, OSError | ValueError):
        # A name that no host can have is a ValueError.
        reason = printable(str(error))
    else:
        raise error  # a bug of ours
    return ConnectError(address.name, reason or type(error).__name__)
