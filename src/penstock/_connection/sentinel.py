"""Where the primary is, by what the sentinels say.

Asked before each connection is made, so a failover needs nothing but a reconnect: the
old primary dies, or is made a replica, and then the sentinels have it cut its clients
off. The order of asking, and that a server's word on its own role counts more than
theirs, follow https://redis.io/docs/latest/develop/reference/sentinel-clients/.
(redis-py's own client of sentinels tries a dead one ten times before the next.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from penstock._connection.address import Address
from penstock._connection.address import parse as parse_address
from penstock._connection.connect import connect
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply
from penstock.errors import (
    AccessError,
    ConfigurationError,
    ConnectError,
    ServerError,
)
from penstock.events import printable

__all__ = ["Sentinels", "locate", "names_sentinels", "parse"]

_SUFFIX: Final = "+sentinel"
# Where they listen, if the URL says no port.
_DEFAULT_PORT: Final = 26379
# Seconds for one to answer: the others have to be asked, too.
_TIMEOUT: Final = 1.0
# Options that are the server's alone, and those of its sentinels for the same.
_SERVER_ONLY: Final = frozenset(("client_name", "db", "password", "username"))
_SENTINEL_ONLY: Final = frozenset(("sentinel_password", "sentinel_username"))


class Sentinels(NamedTuple):
    """Who knows where a server is.

    Attributes:
        service: By what name they watch it.
        places: Where they are, the first to ask first.
    """

    service: str
    addresses: list[Address]


def names_sentinels(url: str) -> bool:
    """Tell whether it is sentinels that a URL names."""
    return url.partition("://")[0].lower().endswith(_SUFFIX)


def parse(url: str) -> tuple[Address, Sentinels]:
    """Read `redis+sentinel://user:password@host:port,host:port/service/db?options`.

    `rediss+sentinel://` is TLS, to sentinels as well. They have a login of their own,
    `?sentinel_username=` and `?sentinel_password=`; other options hold for both.

    Returns:
        How to get in, wherever the server is; and whom to ask where that is.

    Raises:
        ConfigurationError: It can't be one; the sentence never quotes it.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower().removesuffix(_SUFFIX)
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    service, _, database = path.partition("/")
    ours, theirs = _split_options(query)
    address = parse_address(f"{scheme}://{login}{at}sentinels/{database}?{ours}")
    addresses = [
        _sentinel_address(scheme, host, theirs, address) for host in hosts.split(",")
    ]
    name = unquote(service)
    if not name or not name.isprintable():
        raise ConfigurationError(
            "the server's URL names sentinels, but not what they watch; write "
            "redis+sentinel://host:26379,host:26379/service, and /0 behind it for the "
            "database; percent-encode special characters in the password"
        )
    shown = f"{name}@{','.join(sentinel.name for sentinel in addresses)}"
    return replace(address, name=printable(shown)), Sentinels(name, addresses)


def _split_options(query: str) -> tuple[str, str]:
    """Part options into those for the server and those for its sentinels."""
    fields = [(field.partition("=")[0], field) for field in query.split("&")]
    ours = [field for name, field in fields if name not in _SENTINEL_ONLY]
    both = [
        field for name, field in fields if name not in _SENTINEL_ONLY | _SERVER_ONLY
    ]
    theirs = [field for name, field in fields if name in _SENTINEL_ONLY]
    theirs = [field.removeprefix("sentinel_") for field in theirs]
    return "&".join(ours), "&".join(both + theirs)


def _sentinel_address(scheme: str, host: str, options: str, server: Address) -> Address:
    # Checked as any other URL is.
    sentinel = parse_address(f"{scheme}://{host}?{options}")
    parts = urlsplit(f"//{host}")
    if parts.port is None:
        sentinel = sentinel.at(parts.hostname or "", _DEFAULT_PORT)
    return replace(
        sentinel,
        connect_timeout=min(server.connect_timeout, _TIMEOUT),
        reply_timeout=min(server.reply_timeout, _TIMEOUT),
    )


async def locate(address: Address, sentinels: Sentinels) -> Address:
    """Ask one sentinel after the other; who answers is asked first the next time.

    Args:
        address: How to get in.
        sentinels: Whom to ask.

    Raises:
        ConnectError: None of them answers, or none watches anything of that name.
        AccessError: One refuses the login, and no other one answers.
    """
    failure: ServerError | None = None
    for sentinel in list(sentinels.addresses):
        try:
            found = await _ask(sentinel, sentinels.service)
        except ServerError as error:
            if not isinstance(failure, AccessError):
                failure = error
            continue
        sentinels.addresses.remove(sentinel)
        sentinels.addresses.insert(0, sentinel)
        return address.at(*found)
    assert failure is not None  # noqa: S101 - there is one at least, says `parse`
    raise failure


async def _ask(sentinel: Address, service: str) -> tuple[str, int]:
    connection = await connect(sentinel)
    try:
        reply = await connection.call(commands.sentinel_primary(service))
    finally:
        await connection.aclose()
    if isinstance(reply, ErrorReply):
        denied = reply.code in {"NOAUTH", "NOPERM"}
        raise (AccessError if denied else ConnectError)(sentinel.name, reply.text)
    if reply is None:
        reason = f"it is a sentinel and watches nothing of the name {service!a:.60}"
        raise ConnectError(sentinel.name, reason)
    host, port = reply
    return host.decode("utf-8", "surrogateescape"), port
