"""Sentinel: finds the primary by asking the sentinels.

The sentinels are asked before each connection is made, so a failover needs only a
reconnect: the old primary dies, or it becomes a replica and the sentinels make it
disconnect its clients. Two rules follow
https://redis.io/docs/latest/develop/reference/sentinel-clients/: the order in which the
sentinels are asked, and that a server's own word on its role overrides theirs.
(redis-py's own sentinel client, with its defaults, tries a dead sentinel ten times
before the next one.)
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
# The port of a sentinel if the URL has none.
_DEFAULT_PORT: Final = 26379
# Seconds for one sentinel to answer, so that the others are asked in time, too.
_TIMEOUT: Final = 1.0
# Options for the server only, and the sentinels' options of the same purpose.
_SERVER_ONLY: Final = frozenset(("client_name", "db", "password", "username"))
_SENTINEL_ONLY: Final = frozenset(("sentinel_password", "sentinel_username"))


class Sentinels(NamedTuple):
    """The sentinels that know where a server is.

    Attributes:
        service: The name by which the sentinels watch the server.
        addresses: The sentinels' addresses, in the order in which they are asked.
    """

    service: str
    addresses: list[Address]


def names_sentinels(url: str) -> bool:
    """Return whether a URL names sentinels."""
    return url.partition("://")[0].lower().endswith(_SUFFIX)


def parse(url: str) -> tuple[Address, Sentinels]:
    """Parse `redis+sentinel://user:password@host:port,host:port/service/db?options`.

    `rediss+sentinel://` uses TLS, for the sentinels as well; `valkey` and `valkeys` in
    the scheme mean the same. The sentinels have their
    own credentials, `?sentinel_username=` and `?sentinel_password=`; other options
    apply to both.

    Returns:
        The server's address, whose host is still to be found, and its sentinels.

    Raises:
        ConfigurationError: The URL is invalid. The error message never quotes it.
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
            "the server's URL names sentinels, but not the service that they monitor; "
            "write redis+sentinel://host:26379,host:26379/service, followed by /0 for "
            "the database; percent-encode special characters in the password"
        )
    shown = f"{name}@{','.join(sentinel.name for sentinel in addresses)}"
    return replace(address, name=printable(shown)), Sentinels(name, addresses)


def _split_options(query: str) -> tuple[str, str]:
    """Split options into those for the server and those for its sentinels."""
    fields = [(field.partition("=")[0], field) for field in query.split("&")]
    ours = [field for name, field in fields if name not in _SENTINEL_ONLY]
    both = [
        field for name, field in fields if name not in _SENTINEL_ONLY | _SERVER_ONLY
    ]
    theirs = [field for name, field in fields if name in _SENTINEL_ONLY]
    theirs = [field.removeprefix("sentinel_") for field in theirs]
    return "&".join(ours), "&".join(both + theirs)


def _sentinel_address(scheme: str, host: str, options: str, server: Address) -> Address:
    # The URL of each sentinel is checked like any other URL.
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
    """Return the primary's address, asking one sentinel after the other.

    The sentinel that answers is asked first the next time.

    Args:
        address: The server's address, with any host.
        sentinels: The sentinels to ask.

    Raises:
        ConnectError: No sentinel answers, or none watches a server of that name.
        AccessError: A sentinel refuses the credentials, and no other one answers.
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
    assert failure is not None  # noqa: S101 - `parse` returns at least one
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
        reason = f"it is a sentinel, and it monitors no service named {service!a:.60}"
        raise ConnectError(sentinel.name, reason)
    host, port = reply
    return host.decode("utf-8", "surrogateescape"), port
