"""Handshake: the first commands of a connection, which choose user and database.

They are sent at once: `HELLO 3` with the credentials, and behind it the database and
the client's name. If the server has no HELLO, the same is said in RESP2. Not every
server knows `CLIENT SETNAME`, and not every user may use it, so its refusal is ignored.

`CLIENT SETINFO` is left out: for users who may not use it there would be a line in
`ACL LOG` for each connection, and Redis up to 7.0 has no permission of that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from penstock._connection.connection import Connection, Replies
from penstock._connection.endpoint import Login
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock.errors import AccessError, ConnectError, ConnectionLost

__all__ = ["SettingRefused", "log_in_again", "shake_hands"]

_REFUSED: Final = frozenset(("NOAUTH", "NOPERM", "WRONGPASS"))
# Seconds for which a read that is under way may hold up what is sent behind it.
_LONGEST_BLOCK: Final = 2.0
_RESP2: Final = 2
_RESP3: Final = 3
# The codes with which HELLO is refused by a server that does not know it, or RESP3.
_NO_RESP3: Final = frozenset(("ERR", "NOPROTO"))
# What servers reply to a database that they don't have; in cluster mode there is one.
_OF_A_DATABASE: Final = ("DB index", "SELECT")
# Whatever a server answers to this, it goes on: what it said to HELLO was not a reason
# for hanging up.
_PROBE: Final = commands.client_id()

_Asked: TypeAlias = "tuple[list[Command], Replies | None]"


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


async def shake_hands(connection: Connection, login: Login, patience: float) -> None:
    """Log in, and choose protocol, database and name.

    Args:
        connection: A connection that has written nothing.
        login: The user, the database and so on.
        patience: Seconds for which the replies may take; the caller bounds the whole.

    Raises:
        ConnectError: The server refused something, or is not a Redis server.
        SettingRefused: The server refused the database or the protocol.
        AccessError: The server refused the credentials, or requires some.
        ConnectionLost: The connection ended before the replies.
    """
    connection.hide(login.password)
    if login.protocol == _RESP2:
        asked = _log_in(connection, login, patience)
        connection.start_reading()
        await _finish(connection, *asked)
    else:
        hello = commands.hello(login.username, login.password)
        # If the server says why it hangs up, that is the answer to HELLO. So this is a
        # request of its own.
        greeting = connection.ask([hello], patience)
        asked = _ask(connection, _choices(login), patience)
        connection.start_reading()
        [reply] = await greeting
        if isinstance(reply, ErrorReply):
            await _fall_back(connection, login, patience, reply)
        else:
            connection.protocol = _RESP3
            connection.server_version = reply
            await _finish(connection, *asked)
    connection.hide(None)


def log_in_again(
    connection: Connection, login: Login, on_refused: Callable[[str], None]
) -> None:
    """Log in with new credentials, behind the requests that are under way.

    Args:
        connection: An open connection.
        login: The new credentials.
        on_refused: Called with the server's reply if it refuses them.
    """
    if login.password is None or connection.lost:
        return
    connection.hide(login.password)

    def answered(future: Replies) -> None:
        connection.hide(None)
        # A connection that was lost is made again, with a login of its own.
        if not future.cancelled() and future.exception() is None:
            [reply] = future.result()
            if isinstance(reply, ErrorReply):
                on_refused(f"AUTH: {reply.text}")

    command = commands.auth(login.username, login.password)
    connection.ask([command], _LONGEST_BLOCK).add_done_callback(answered)


async def _fall_back(
    connection: Connection, login: Login, patience: float, refusal: ErrorReply
) -> None:
    """Log in with RESP2, if the server has no RESP3."""
    # With credentials, NOAUTH is what some servers say to any command that they don't
    # know.
    unknown = refusal.code == "NOAUTH" and login.password is not None
    if login.protocol == _RESP3 or not (unknown or refusal.code in _NO_RESP3):
        raise _error(connection, "HELLO", refusal)
    try:
        await _finish(connection, *_log_in(connection, login, patience, _PROBE))
    except ConnectionLost:
        raise _error(connection, "HELLO", refusal) from None


def _log_in(
    connection: Connection, login: Login, patience: float, *more: Command
) -> _Asked:
    batch = [*_choices(login), *more]
    if login.password is not None:
        batch.insert(0, commands.auth(login.username, login.password))
    return _ask(connection, batch, patience)


def _ask(connection: Connection, batch: list[Command], patience: float) -> _Asked:
    return batch, connection.ask(batch, patience) if batch else None


async def _finish(
    connection: Connection, batch: list[Command], asked: Replies | None
) -> None:
    """Check the replies to the commands behind HELLO; a refused name is ignored."""
    replies = [] if asked is None else await asked
    for command, reply in zip(batch, replies, strict=True):
        if not isinstance(reply, ErrorReply):
            continue
        if command[0] != b"CLIENT" or reply.code == "NOAUTH":
            raise _error(connection, _name(command), reply)


def _choices(login: Login) -> list[Command]:
    batch: list[Command] = []
    if login.database:
        batch.append(commands.select(login.database))
    if login.client_name:
        batch.append(commands.client_setname(login.client_name))
    return batch


def _name(command: Command) -> str:
    head = command[0]
    return head.decode() if isinstance(head, bytes) else str(head)


def _error(
    connection: Connection, command: str, reply: ErrorReply
) -> ConnectError | AccessError:
    name, reason = connection.address.name, f"{command}: {reply.text}"
    if reply.code in _REFUSED:
        return AccessError(name, reason)
    # Not what a server says while it can't answer yet.
    if command == "SELECT":
        setting = any(words in reply.text for words in _OF_A_DATABASE)
    else:
        setting = command == "HELLO" and connection.address.login.protocol == _RESP3
    if setting and reply.code in _NO_RESP3:
        return SettingRefused(name, reason)
    return ConnectError(name, reason)
