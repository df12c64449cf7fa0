"""Endpoints: where a server listens, and how its socket is opened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from penstock._connection.tls import Tls

__all__ = ["Endpoint", "Login"]

P = TypeVar("P", bound=asyncio.BaseProtocol)

# A peer that vanished without a word is noticed after some 45 seconds, where nobody
# waits for a reply. Systems lack some of these options: macOS calls the first one
# TCP_KEEPALIVE.
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPALIVE": 30,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The place where a server listens: a host and port, or a socket's path.

    Attributes:
        host: The host; empty for a socket.
        port: The port.
        path: The socket's path; empty for a host.
        keepalive: Whether the system sends TCP keepalives.
        tls: The TLS settings; None for plain text.
    """

    host: str = ""
    port: int = 6379
    path: str = ""
    keepalive: bool = True
    tls: Tls | None = None

    @property
    def place(self) -> tuple[str, int] | None:
        """The host and port, or the socket's path and 0; None with sentinels."""
        if self.path:
            return self.path, 0
        return (self.host, self.port) if self.host else None

    async def open(self, make: Callable[[], P]) -> None:
        """Connect a protocol.

        Raises:
            OSError: The server can't be reached, or its certificate is wrong.
        """
        loop = asyncio.get_running_loop()
        if self.path:
            await loop.create_unix_connection(make, self.path)
            return
        options: dict[str, Any] = {}
        if self.tls is not None:
            options["ssl"] = self.tls.context()
        transport, _ = await loop.create_connection(
            make, self.host, self.port, **options
        )
        if self.keepalive:
            _keep_alive(transport)


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    # A transport may have none, for example in a test's event loop.
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


@dataclass(frozen=True, slots=True)
class Login:
    """What a connection says first.

    Attributes:
        username: The user; None for the default one.
        password: The user's password, if any.
        database: The number of the database.
        client_name: The name in `CLIENT LIST`, if any.
        protocol: 2 or 3; None for 3 unless the server can't.
    """

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    database: int = 0
    client_name: str | None = None
    protocol: int | None = None
