"""One server, and the way back to it after an outage."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread

from penstock import embedded
from penstock._core import commands
from penstock._core.commands import Command
from penstock._core.retry import Backoff
from penstock._link import wire as wires
from penstock._link.address import EMBEDDED, Address, find_url, parse
from penstock._link.wire import Wire
from penstock.errors import AccessError, ServerError
from penstock.events import Event, OnEvent

__all__ = ["Line", "Link", "open_link"]


class Link:
    """Makes connections to one server and paces the tries.

    All users of a link share one backoff, one try at a time: however many
    connections an outage cuts, the server sees one knocking.

    Args:
        address: The server.
        on_event: Told of outages and their end.
    """

    def __init__(self, address: Address, on_event: OnEvent) -> None:
        self.address = address
        self._on_event = on_event
        self._backoff = Backoff()
        self._dialing = asyncio.Lock()
        # When the present outage began, by the monotonic clock; None without one.
        self._outage: float | None = None

    async def connect(self) -> Wire:
        """Make a connection; one try.

        Raises:
            ConnectError: There is no way to a server.
            AccessError: The server refused the credentials.
            ConnectionLost: The connection ended at once.
        """
        wire = await wires.connect(self.address)
        try:
            reply = await wire.call(commands.client_id())
        except BaseException:
            await wire.aclose()
            raise
        # Refused where an ACL forbids it; then blocked reads end by themselves.
        wire.client_id = reply if isinstance(reply, int) else None
        return wire

    async def first(self, patience: float) -> Wire:
        """Make the first connection, trying for `patience` seconds.

        Raises:
            ConnectError: No try succeeded in time.
            AccessError: The server refused the credentials; not tried again.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return await self.connect()
            except AccessError:
                raise
            except ServerError as error:
                delay = self._backoff.failed(random.random())  # noqa: S311
                if time.monotonic() + delay > deadline:
                    raise
                self._lost(str(error))
            await asyncio.sleep(delay)

    async def reconnect(self, reason: str) -> Wire:
        """Make a connection, trying for ever, first after 50 ms and ever slower.

        Credentials that are refused are tried again too: they are being rotated.

        Args:
            reason: What became of the last connection, for the event.
        """
        async with self._dialing:
            self._lost(reason)
            while True:
                await asyncio.sleep(self._backoff.failed(random.random()))  # noqa: S311
                try:
                    wire = await self.connect()
                except ServerError as error:
                    if isinstance(error, AccessError) and self._backoff.failures == 1:
                        self._tell("access_refused", logging.ERROR, reason=str(error))
                else:
                    self._found()
                    return wire

    async def pause(self) -> None:
        """Wait before the next try of what the server has just refused."""
        await asyncio.sleep(self._backoff.failed(random.random()))  # noqa: S311

    def progress(self) -> None:
        """Start the backoff over: the server did some real work."""
        self._backoff.progress()

    def _lost(self, reason: str) -> None:
        if self._outage is None:
            self._outage = time.monotonic()
            self._tell("connection_lost", logging.WARNING, reason=reason)

    def _found(self) -> None:
        if self._outage is not None:
            seconds = round(time.monotonic() - self._outage, 3)
            self._outage = None
            self._tell("reconnected", logging.INFO, seconds=seconds)

    def _tell(self, name: str, level: int, **facts: object) -> None:
        self._on_event(Event(name, level, {"server": self.address.name, **facts}))


class Line:
    """A connection for commands that do not block, shared by whoever has any.

    Args:
        link: Makes a new one after an outage.
        wire: The first one.
    """

    def __init__(self, link: Link, wire: Wire) -> None:
        self._link = link
        self._wire = wire

    @property
    def server(self) -> str:
        """Where it leads: `host:port` or the socket's path."""
        return self._link.address.name

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands in one write and give their replies, errors as values.

        Raises:
            ConnectionLost: There is no connection, or it ended before the replies.
        """
        return await self._wire.calls(batch)

    async def restore(self, reason: str) -> None:
        """Replace the connection, trying for ever.

        Args:
            reason: What became of it, for the event.
        """
        await self._wire.aclose()
        self._wire = await self._link.reconnect(reason)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._wire.aclose()


@asynccontextmanager
async def open_link(url: str | None, on_event: OnEvent) -> AsyncIterator[Link]:
    """Find the server; for `embedded://` start it, or share this process's own.

    Raises:
        ConfigurationError: The URL is wrong or missing, or there is no binary of an
            embedded server.
        ConnectError: The embedded server did not start.
    """
    found = find_url(url)
    if found.partition("://")[0] != EMBEDDED:
        yield Link(parse(found), on_event)
        return
    # Starting takes some 50 ms and stopping a few, both blocking.
    server = await anyio.to_thread.run_sync(embedded.acquire)
    try:
        yield Link(parse(server.url), on_event)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(embedded.release, server)
