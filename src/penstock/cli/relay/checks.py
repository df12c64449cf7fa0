"""What `penstock relay` finds out before it starts: what the servers allow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from penstock import PenstockError
from penstock._connection.address import Address, parse
from penstock._connection.connection import Connection
from penstock._connection.reconnect import open_connector
from penstock._connection.sentinel import names_sentinels
from penstock._core.messages import shard_keys, shard_record
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.protocol.scripts import NOTHING, may_script
from penstock._tasks.group import refusal
from penstock.cli.relay.settings import RelaySettings
from penstock.events import OnEvent

__all__ = ["Mode", "RefusedTargetError", "find_mode", "is_same_server", "shown_url"]

_PATIENCE = 3.0  # seconds for the first connection


class RefusedTargetError(PenstockError):
    """Nothing can be pushed to the target."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How messages can be pushed.

    Attributes:
        exact: Whether they can be pushed and acknowledged in one step.
        why_not: Why not, in a few words; empty if they can.
    """

    exact: bool
    why_not: str = ""


async def find_mode(url: str, settings: RelaySettings, on_event: OnEvent) -> Mode:
    """Find out how messages can be pushed, and whether the target can take them.

    Args:
        url: The stream's server.
        settings: What is moved where.
        on_event: Called with events of the connections.

    Raises:
        ConfigurationError: A URL is wrong.
        ServerError: A server can't be reached, or refuses the user.
        RefusedTargetError: The target is of another type.
    """
    target = url if settings.to_url is None else settings.to_url
    same = settings.to_url is None or is_same_server(url, settings.to_url)
    async with open_connector(url, on_event, role="relay") as connector:
        connection = await connector.first(_PATIENCE)
        try:
            if same:
                await _check_target(connection, settings)
                return await _scripts(connection, settings)
        finally:
            await connection.aclose()
    async with open_connector(target, on_event, role="relay") as connector:
        connection = await connector.first(_PATIENCE)
        try:
            await _check_target(connection, settings)
        finally:
            await connection.aclose()
    return Mode(exact=False)


async def _check_target(connection: Connection, settings: RelaySettings) -> None:
    """Check the type of the target, if this user may ask for it."""
    name = settings.target.encode()
    [kind] = await connection.calls([(b"TYPE", name)])
    wanted = b"stream" if settings.to_stream else b"list"
    if not isinstance(kind, ErrorReply) and kind not in {b"none", wanted}:
        raise RefusedTargetError(
            f"{settings.target!a:.200} is a {kind.decode()} and not a "
            f"{wanted.decode()}; name another target, or delete that key"
        )


async def _scripts(connection: Connection, settings: RelaySettings) -> Mode:
    """Find out whether scripts may name the keys of stream and target together."""
    [reply] = await connection.calls([may_script()])
    if isinstance(reply, ErrorReply) and not reply.temporary:
        return Mode(exact=False, why_not="scripts are refused")
    keys = [*await _shards(connection, settings.stream), settings.target.encode()]
    commands: Sequence[Command] = [
        (b"EVAL", NOTHING, 2, key, keys[-1]) for key in keys[:-1]
    ]
    for answer in await connection.calls(commands):
        if not isinstance(answer, ErrorReply) or answer.temporary:
            continue
        if answer.code == "CROSSSLOT":
            why = "in cluster mode stream and target are in different slots"
            return Mode(exact=False, why_not=why)
        raise refusal(connection.address.name, "EVAL", answer)
    return Mode(exact=True)


async def _shards(connection: Connection, stream: str) -> list[bytes]:
    """Return the keys of a stream; its own if its record can't be read."""
    keys = [shard_keys.single(stream).key]
    [stored] = await connection.calls([(b"GET", shard_record.key(stream))])
    with suppress(ValueError):
        record = None if isinstance(stored, ErrorReply) else shard_record.load(stored)
        if record is not None and record.number is not None:
            keys = [s.key for s in shard_record.shards(stream, record.number)]
    return keys


def is_same_server(one: str, other: str) -> bool:
    """Return whether two URLs are those of one database, used by the same user."""
    if names_sentinels(one) or names_sentinels(other):
        return one == other
    first, second = parse(one), parse(other)
    return _place(first) == _place(second)


def _place(address: Address) -> tuple[Any, ...]:
    login = address.login
    return (address.endpoint, login.database, login.username, login.password)


def shown_url(url: str) -> str:
    """Return a URL without user, password and options, and with its database.

    Raises:
        ConfigurationError: It is invalid.
    """
    scheme, _, rest = url.partition("://")
    place = rest.partition("?")[0].rpartition("@")[2]
    if names_sentinels(url):
        return f"{scheme}://{place}"
    address = parse(url)
    database = address.login.database
    if address.endpoint.path:
        return f"{scheme}://{address.name}, database {database}"
    return f"{scheme}://{address.name}/{database}"
