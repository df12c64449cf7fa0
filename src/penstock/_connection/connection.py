"""A connection: sends requests and receives replies, in batches.

`connect.py` opens it. A request is packed bytes and the number of replies that they
bring; its result is a future. This has three effects. Writes can follow each other
without waiting. A batch costs one wake-up. And cancelling a caller that waits leaves
the connection in step, because the replies of its request are still counted. (redis-py
reads reply by reply, which costs three to five times as much, and cancelling it costs
the connection.)

Replies are validated before any caller gets them. A reply that its command cannot
return ends the connection, and all replies that were received together with it count as
lost.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from math import inf
from typing import Any, Final, TypeAlias, cast

import hiredis

from penstock._connection.address import Address
from penstock._connection.fork import notify_on_fork
from penstock._connection.request_queue import Read, Request, RequestQueue
from penstock._core.protocol import commands, reply_parsing
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock.errors import ConnectionLost
from penstock.events import printable

__all__ = ["MALFORMED", "Connection", "Replies", "pack"]

Replies: TypeAlias = "asyncio.Future[list[Any]]"

MALFORMED: Final = "the server sent a malformed reply"
"""Why a connection has ended on which the server broke the protocol."""

# Bytes. Sending a longer request may take longer than the wait for its reply.
_LONG_REQUEST: Final = 65536
_numbers: Final = count(1)
# hiredis' stubs demand a tuple of one word.
_pack_one: Final = cast("Callable[[Command], bytes]", hiredis.pack_command)


def pack(batch: Iterable[Command]) -> bytes:
    """Pack commands for one write."""
    return b"".join(map(_pack_one, batch))


class Connection(asyncio.Protocol):
    """A connection: asyncio's protocol, from the first byte until it is lost.

    It reads nothing before `start_reading`, so that nothing can arrive before the first
    request.

    Args:
        address: The address of the server.
        loop: The running loop.
    """

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        # The version of RESP that the handshake chose.
        self.protocol = 2
        # The version that the server gave in the handshake; empty in RESP2, which has
        # none.
        self.server_version = ""
        # The number of this connection, which no other one of this process has had.
        self.number: Final = next(_numbers)
        # The server's id for this connection, once requested; see `Connector.connect`.
        self.client_id: int | None = None
        # Seconds of silence after which the connection is aborted while a reply is due.
        self.patience = address.reply_timeout
        # Seconds that the first replies took; see `Connector.connect`.
        self.first_reply_time = 0.0
        # The number of bytes received so far.
        self.received = 0
        # When the last bytes were received, by the loop's clock.
        self._received_at = 0.0
        self._loop = loop
        self._transport: asyncio.Transport
        self._opened = False
        self._requests = RequestQueue()
        # The number of bytes in the write buffer at the last check of the deadline.
        self._unwritten = 0
        # Runs while any request waits, and checks the oldest one's deadline.
        self._timer: asyncio.TimerHandle | None = None
        # Why the connection ended, for the next request; and when, by the loop's clock.
        self._lost: str | None = None
        self.lost_at = inf
        self._closed = loop.create_future()

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, or asyncio is about to report its end."""
        return self._lost is not None or self._transport.is_closing()

    def check(self) -> None:
        """Check that the connection has not ended.

        Raises:
            ConnectionLost: The connection has ended.
        """
        if self.lost:
            reason = self._lost or "it broke during a write"
            raise ConnectionLost(self.address.name, reason)

    async def subscribe(
        self, channels: Sequence[bytes], on_message: Callable[[], None]
    ) -> bool:
        """Subscribe to channels, whose messages call a function.

        Returns:
            False if it is not possible: in RESP2, where a connection that has
                subscribed can do nothing else, or if an ACL forbids it.

        Raises:
            ConnectionLost: The connection ended before the reply.
        """
        if self.protocol == 2:  # noqa: PLR2004
            return False
        data = pack([commands.subscribe([channel]) for channel in channels])
        future = self.request(data, len(channels))
        self._requests.on_message = on_message
        self._requests.waiting[-1].pushes = True
        return not any(isinstance(reply, ErrorReply) for reply in await future)

    def ask(self, batch: Sequence[Command], wait: float = 0.0) -> Replies:
        """Write commands and return a future of the parsed replies.

        Args:
            batch: The commands.
            wait: Seconds for which the server may block before it replies.

        Raises:
            ConnectionLost: As for `request`, and for a malformed reply.
        """
        read = partial(reply_parsing.parse, batch)
        return self.request(pack(batch), len(batch), wait, read)

    def request(
        self, data: bytes, count: int, wait: float = 0.0, read: Read | None = None
    ) -> Replies:
        """Write packed commands and return a future of their replies, errors as values.

        Args:
            data: The commands, packed.
            count: The number of replies that they bring.
            wait: Seconds for which the server may block before it replies.
            read: Turns the replies into values, or raises `ProtocolError`.

        Raises:
            ConnectionLost: The connection has ended and nothing was written. The future
                raises it if the connection ends later; then the server may have
                executed all of the commands.
        """
        self.check()
        future: Replies = self._loop.create_future()
        # A long request is still being sent for a while after the system has accepted
        # its bytes.
        long = len(data) > _LONG_REQUEST
        patience = self.address.reply_timeout if long else self.patience
        deadline = self._loop.time() + patience + wait
        if self._timer is not None and self._timer.when() > deadline:
            # The timer was set for a request with a later deadline.
            self._timer.cancel()
            self._timer = None
        self._requests.waiting.append(Request(count, deadline, future, read))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_deadline)
        self._transport.write(data)
        return future

    async def call(self, command: Command) -> Any:
        """Send one command and return its parsed reply, an `ErrorReply` as a value.

        Raises:
            ConnectionLost: The connection ended before the reply.
        """
        return (await self.ask([command]))[0]

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their parsed replies, errors as values.

        Raises:
            ConnectionLost: The connection ended before the last reply.
        """
        return await self.ask(batch) if batch else []

    @property
    def quiet_for(self) -> float:
        """Seconds since data arrived here; without end on a lost connection."""
        return inf if self.lost else self._loop.time() - self._received_at

    @property
    def lost_for(self) -> float:
        """Seconds since the connection was lost; 0 if it was not."""
        return max(0.0, self._loop.time() - self.lost_at)

    def abort(self, reason: str) -> None:
        """Abort the connection; callers that wait get `ConnectionLost`."""
        self._fail(reason)
        if self._opened:
            self._transport.abort()

    async def aclose(self) -> None:
        """Close the connection; callers that still wait get `ConnectionLost`.

        If this is cancelled, the connection is closed at once.
        """
        self._fail("closed")
        # Closed twice, a TLS transport of Python 3.11.2 can't be aborted any more.
        if not self._transport.is_closing():
            self._transport.close()
        try:
            # TLS sends close_notify first, and a black-holed peer never answers it.
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.shield(self._closed)
        finally:
            self._transport.abort()

    def forked(self) -> None:
        """Detach from the connection: it is the parent's, and this is a forked child.

        The socket's file descriptor is replaced by one of /dev/null. Closing it would
        free its number for another file. Unregistering it from asyncio would change
        what the parent waits for, since the two processes share the selector.
        """
        socket = self._transport.get_extra_info("socket")
        # A transport may have none, for example in a test's event loop.
        number = -1 if socket is None else socket.fileno()
        if number >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            os.close(nothing)
        self._fail("it belongs to the parent of this forked process")
        if not self._closed.done():
            self._closed.set_result(None)

    def start_reading(self) -> None:
        """Begin to read, once the first request is written."""
        self._transport.resume_reading()

    def hide(self, secret: str | None) -> None:
        """Remove a secret from error replies, as long as these may quote it.

        Args:
            secret: The secret; None to take error replies as they are.
        """
        self._requests.secrets[:] = [secret] if secret else []

    # -- called by asyncio -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._opened = True
        self._transport.pause_reading()
        notify_on_fork(self)

    def data_received(self, data: bytes) -> None:
        """Match received replies with the requests that wait for them."""
        self.received += len(data)
        self._received_at = self._loop.time()
        try:
            self._requests.received(data)
        except Exception as error:
            self.abort(MALFORMED)
            if not isinstance(error, ProtocolError):
                raise  # a bug of ours: asyncio reports it, and no caller waits forever
        if self._requests.demotion is not None:
            # The server's address may lead to its successor.
            self.abort(self._requests.demotion)

    def eof_received(self) -> None:
        """Leave the closing to asyncio, which calls `connection_lost`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the waiting requests."""
        self._fail(printable(str(exc)) if exc else "closed by the server")
        if not self._closed.done():
            self._closed.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._lost is None:
            self._lost, self.lost_at = reason, self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._requests.fail(self.address.name, self._lost)

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._requests.waiting:
            return
        oldest = self._requests.waiting[0]
        # While bytes arrive, the server is working: a long reply takes its time on a
        # slow network, and to abort the connection would mean to request the same
        # again. The same holds for a long request while its bytes are being sent.
        now = self._loop.time()
        if self._write_progresses():
            oldest.deadline = now + self.address.reply_timeout
        alive = self._received_at + self.patience
        deadline = max(oldest.deadline, alive)
        if now >= deadline:
            self.abort("no reply in time")
        else:
            self._timer = self._loop.call_at(deadline, self._check_deadline)

    def _write_progresses(self) -> bool:
        """Return whether the write buffer has shrunk since the last check."""
        before, self._unwritten = (
            self._unwritten,
            self._transport.get_write_buffer_size(),
        )
        # The first check has nothing to compare with.
        return self._unwritten < before or (not before and self._unwritten > 0)
