"""Reconnecting: connections to one server, made again after each outage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from math import inf
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import anyio.to_thread

from penstock import _chance, _clock, embedded
from penstock._connection.address import EMBEDDED, Address, find_url, parse
from penstock._connection.connect import SettingRefused, connect
from penstock._connection.connection import Connection
from penstock._connection.connection_events import ConnectionEvents
from penstock._connection.credentials import follow
from penstock._connection.endpoint import Login
from penstock._connection.fork import notify_on_fork
from penstock._connection.handshake import log_in_again
from penstock._connection.sentinel import Sentinels, locate, names_sentinels
from penstock._connection.sentinel import parse as parse_sentinels
from penstock._core.backoff import ReconnectBackoff
from penstock._core.protocol import commands, replies
from penstock._core.protocol.replies import ErrorReply
from penstock.credentials import Credentials
from penstock.embedded import EmbeddedServer
from penstock.errors import (
    AccessError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    ServerError,
    UsageError,
)
from penstock.events import OnEvent, printable

__all__ = ["Connector", "open_connector"]

Check: TypeAlias = Callable[[Connection], Awaitable[None]]


class Connector:
    """Makes connections to one server and paces the attempts.

    All users of a connector share one backoff and make one attempt at a time: however
    many connections an outage cuts, the server sees one client that tries to connect.

    Args:
        address: The server.
        on_event: Called when an outage begins and when it ends.
        sentinels: The sentinels that know the server's host, if its address does not.
        owner: Whose connections these are: facts for all events.
    """

    def __init__(
        self,
        address: Address,
        on_event: OnEvent,
        sentinels: Sentinels | None = None,
        owner: Mapping[str, object] | None = None,
    ) -> None:
        self.address = address
        self._sentinels = sentinels
        # The name of the last connection's server, if sentinels choose the server.
        self._primary: str | None = None
        self._backoff = ReconnectBackoff()
        self._connecting = asyncio.Lock()
        # The number of connections made so far, and when the last one was made, by the
        # loop's clock.
        self._connections_made = 0
        self._connected_at = -inf
        self._events = ConnectionEvents(address.name, owner or {}, on_event)
        # The version of the last connection's server; empty if it is not known.
        self.server_version = ""
        # Whether this object is the copy in a forked child.
        self._forked = False
        # Connections that may be open, and reconnects in progress.
        # Dictionaries, because they keep the order: a set of objects has a different
        # one in each process.
        self._connections: WeakKeyDictionary[Connection, None] = WeakKeyDictionary()
        self._reconnects: dict[asyncio.Timeout, None] = {}
        self._closed = False
        # The last login of a provider that renews it, and how often it did.
        self._login = address.login
        self._renewals = 0
        follow(address.credentials, self)
        notify_on_fork(self)

    async def connect(self, *, first: bool = False) -> Connection:
        """Make a connection, with a single attempt.

        Args:
            first: Whether this is the first connection of a consumer, producer or admin
                client. If so, the server's memory policy is requested in the same
                write, for a warning.

        Raises:
            ConnectError: The server cannot be reached.
            AccessError: The server refused the credentials.
            ConnectionLost: The connection ended at once.
            UsageError: This is a forked child, and the connector is its parent's.
        """
        if self._forked:
            raise UsageError(
                "this was opened by the parent of this forked process, which still "
                "uses it; open a separate one in the child"
            )
        before = self._renewals
        connection = await connect(await self._locate())
        self._connections[connection] = None
        self.server_version = connection.server_version
        if self._renewals != before:
            log_in_again(connection, self._login, self._events.refused)
        try:
            await self._identify(connection, first=first)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _locate(self) -> Address:
        if self._sentinels is None:
            return self.address
        return await locate(self.address, self._sentinels)

    async def _identify(self, connection: Connection, *, first: bool) -> None:
        """Find out which server a connection has led to."""
        questions = [commands.client_id()]
        questions += [commands.role()] if self._sentinels else []
        questions += [commands.info(b"memory")] if first else []
        asked = _clock.monotonic()
        number, *facts = await connection.calls(questions)
        connection.first_reply_time = _clock.monotonic() - asked
        # RESP2 has no handshake, so this is the first reply that shows whether the
        # server requires credentials.
        if isinstance(number, ErrorReply) and number.code == "NOAUTH":
            raise AccessError(connection.address.name, number.text)
        # An ACL may refuse CLIENT ID; then blocked reads are not unblocked and end at
        # their timeout.
        connection.client_id = number if isinstance(number, int) else None
        if self._sentinels:
            self._check_role(connection.address.name, facts.pop(0))
        for memory in facts:
            self._warn_of_eviction(memory)

    def _check_role(self, name: str, role: bytes | ErrorReply) -> None:
        """Refuse a replica, whatever the sentinels say.

        If an ACL forbids ROLE, the connection is kept.
        """
        if isinstance(role, bytes) and role != b"master":
            reason = (
                "the sentinels still name it as the primary, but it is a replica now"
            )
            raise ConnectError(name, reason)
        if self._primary not in {None, name}:
            facts = {"from": self._primary, "to": name}
            self._events.report("primary_moved", logging.WARNING, **facts)
        self._primary = name

    def forked(self) -> None:
        """Make no more connections: this is a forked child."""
        self._forked = True

    async def first(self, patience: float, check: Check | None = None) -> Connection:
        """Make the first connection, with attempts for `patience` seconds.

        Args:
            patience: How long to repeat attempts.
            check: Checks the connection; part of each attempt.

        Raises:
            PenstockError: The check raised it; a `ServerError` is retried.
            ConnectError: No attempt succeeded in time; or the server refused a setting
                of the URL, which is not retried.
            AccessError: The server refused the credentials; this is not retried.
        """
        deadline = _clock.monotonic() + patience
        while True:
            try:
                connection = await self._checked(check)
            except (AccessError, SettingRefused):
                raise
            except ServerError as error:
                delay = self._backoff.failed(_chance.fraction())
                if _clock.monotonic() + delay > deadline:
                    raise
                self._events.lost(str(error))
            else:
                self._on_connected()
                return connection
            await asyncio.sleep(delay)

    async def _checked(self, check: Check | None) -> Connection:
        connection = await self.connect(first=True)
        if check is not None:
            try:
                await check(connection)
            except BaseException:
                await connection.aclose()
                raise
        return connection

    async def reconnect(self, reason: str, lost_at: float = inf) -> Connection:
        """Make a connection, retrying forever, first after 50 ms and then ever slower.

        Refused credentials are retried, too: they may be in the middle of a rotation.

        Args:
            reason: Why the last connection ended, for the event.
            lost_at: When it ended, by the loop's clock; default: just now. A caller may
                notice the end only after other callers have reconnected.

        Raises:
            ConnectionLost: The connector was closed meanwhile.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                if not self._closed:
                    self._reconnects[scope] = None
                    return await self._reconnect(reason, lost_at)
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            self._reconnects.pop(scope, None)
        raise ConnectionLost(self.address.name, "closed")

    async def _reconnect(self, reason: str, lost_at: float) -> Connection:
        # Before the lock, so that connections cut by the same outage are reported once.
        found: int | None = None
        if lost_at > self._connected_at:
            self._events.lost(reason)
            found = self._connections_made
        async with self._connecting:
            while True:
                if found == self._connections_made:
                    await asyncio.sleep(self._backoff.failed(_chance.fraction()))
                # Otherwise another connection has just been made, so this attempt will
                # succeed, too.
                found = self._connections_made
                try:
                    connection = await self.connect()
                except ServerError as error:
                    self._events.lost(str(error))
                    if isinstance(error, AccessError):
                        self._events.refused(str(error))
                else:
                    self._on_connected()
                    return connection

    def renew(self, change: Callable[[Login], Login | None]) -> None:
        """Log in again on all connections: a provider has a new token.

        Args:
            change: Returns the new login; None if the token is of no use.
        """
        login = None if self._forked or self._closed else change(self._login)
        if login is not None:
            self._login = login
            self._renewals += 1
            for connection in list(self._connections):
                log_in_again(connection, login, self._events.refused)

    def renewal_failed(self, error: BaseException) -> None:
        """Report that a provider could not renew its token."""
        if not self._closed:
            facts = {"error": type(error).__name__}
            self._events.report("credentials_failed", logging.ERROR, **facts)

    def abort(self, reason: str) -> None:
        """Abort all connections without a clean close; waiting callers get errors."""
        for connection in list(self._connections):
            connection.abort(reason)

    def close(self) -> None:
        """Abort all connections and all reconnects; from now on none are made.

        A user's task may be in the middle of a reconnect, and the connection that it
        made would never be closed.
        """
        self._closed = True
        self.abort("closed")
        now = asyncio.get_running_loop().time()
        for scope in list(self._reconnects):
            scope.reschedule(now)

    async def pause(self) -> None:
        """Wait before the next attempt at what the server has just refused."""
        await asyncio.sleep(self._backoff.failed(_chance.fraction()))

    def progress(self) -> None:
        """Reset the backoff: the server has done some real work."""
        self._backoff.progress()
        self._events.progress()

    def _on_connected(self) -> None:
        self._connections_made += 1
        self._connected_at = asyncio.get_running_loop().time()
        self._events.connected()

    def _warn_of_eviction(self, memory: Any) -> None:
        """Report it if the server deletes streams when its memory is full.

        This is reported only if the user may ask the server; for other users opening
        succeeds without it.
        """
        policy = replies.may_evict(memory)
        if policy is not None:
            hint = "set maxmemory-policy to noeviction, or to a volatile-* policy"
            facts = {"policy": printable(policy), "hint": hint}
            self._events.report("streams_may_be_evicted", logging.WARNING, **facts)


@asynccontextmanager
async def open_connector(
    url: str | None,
    on_event: OnEvent,
    credentials: Credentials | None = None,
    **owner: object,
) -> AsyncIterator[Connector]:
    """Find the server; for `embedded://` start it, or share this process's server.

    Args:
        url: The server; None for that of the environment.
        on_event: Called with events of the connections.
        credentials: Returns user and password, for each connection.
        **owner: Whose connections these are: facts for these events.

    Raises:
        ConfigurationError: The URL is wrong or missing, or there is no binary for an
            embedded server.
        ConnectError: The embedded server did not start.
    """
    found = find_url(url)
    if names_sentinels(found):
        address, sentinels = parse_sentinels(found)
        address = address.with_credentials(credentials)
        with closing(Connector(address, on_event, sentinels, owner)) as connector:
            yield connector
        return
    if found.partition("://")[0] != EMBEDDED:
        address = parse(found).with_credentials(credentials)
        with closing(Connector(address, on_event, owner=owner)) as connector:
            yield connector
        return
    if credentials is not None:
        raise ConfigurationError(
            "the embedded server has no users; leave credentials= out, or pass the "
            "url= of another server"
        )
    # Starting takes some 50 ms and stopping a few, and both block.
    server = await _acquire()
    try:
        with closing(Connector(parse(server.url), on_event, owner=owner)) as connector:
            yield connector
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(embedded.release, server)


async def _acquire() -> EmbeddedServer:
    starting = asyncio.ensure_future(asyncio.to_thread(embedded.acquire))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be stopped, so the server that it acquires is released.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([starting])
            if starting.exception() is None:
                await asyncio.to_thread(embedded.release, starting.result())
        raise
