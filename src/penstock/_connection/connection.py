"""One connection: requests out, replies in, in batches.

redis-py connects and shakes hands (`connect.py`); then `Connection` takes over its
transport. A request is packed bytes and the number of replies that they will bring; its
result is a future. So writes can follow each other without waiting, a batch costs one
wake-up, and to cancel whoever waits leaves the connection as it was: its replies still
are counted off. (redis-py's own `read_response` costs three to five times as much per
reply, and a cancelled one costs the connection.)

What comes is looked at before anybody gets it: a reply that is not what its command
brings ends the connection, and all that came with it counts as lost.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from typing import Any, Final, TypeAlias, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

from penstock._connection.address import Address
from penstock._connection.fork import notify_on_fork
from penstock._core.protocol import commands, reply_parsing
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock.errors import ConnectionLost
from penstock.events import printable

__all__ = ["DEMOTED", "Connection", "Replies", "pack"]

Replies: TypeAlias = "asyncio.Future[list[Any]]"
Read: TypeAlias = Callable[[list[Any]], list[Any]]

DEMOTED: Final = "READONLY"
"""How the reason begins for which a server is left that is a replica now."""

# Bytes of a request that may take longer than its reply.
_LONG_REQUEST: Final = 65536
_INCOMPLETE: Final = object()
_numbers: Final = count(1)
# hiredis' stubs ask for a tuple of one word.
_pack_one: Final = cast("Callable[[Command], bytes]", hiredis.pack_command)


def pack(batch: Iterable[Command]) -> bytes:
    """Pack commands for one write."""
    return b"".join(map(_pack_one, batch))


def _error_factory(demotions: list[str]) -> Callable[[str], Exception]:
    """Make values of error replies, and note those that a replica gives.

    Not a method of `Connection`: hiredis' reader would keep the wire that keeps it.
    """

    def error_reply(text: str) -> ErrorReply:
        reply = ErrorReply(text)
        if reply.code == DEMOTED:
            demotions.append(reply.text)
        return reply

    # hiredis' stubs ask for an exception; any value will do.
    return cast("Callable[[str], Exception]", error_reply)


@dataclass(slots=True)
class _Waiter:
    """A request that waits for its replies."""

    count: int
    deadline: float
    future: Replies
    # Makes values of the replies, or raises `ProtocolError`.
    read: Read | None
    # Answered by RESP3 pushes, as SUBSCRIBE is, unless it is refused.
    pushes: bool = False


class Connection(asyncio.Protocol):
    """A connection that is open, until it is lost.

    Args:
        address: Where it leads.
        connection: redis-py's connection, connected and with nothing unread.
        loop: The running loop.
    """

    def __init__(
        self,
        address: Address,
        connection: AbstractConnection,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.address = address
        self._number = next(_numbers)
        # The server's id for this connection, once asked for; see `Connector.connect`.
        self.client_id: int | None = None
        # Seconds of silence after which it is given up while a reply is due.
        self.patience = address.reply_timeout
        # Seconds that the first replies took; see `Connector.connect`.
        self.first_reply_time = 0.0
        # Told of messages on channels that were subscribed to.
        self.on_message: Callable[[], None] | None = None
        # Bytes that have come so far.
        self.received = 0
        # When the last of them came, by the loop's clock.
        self._received_at = 0.0
        self._loop = loop
        self._connection = connection
        # The one place that reaches into redis-py: it offers no way to its transport.
        writer = connection._writer  # noqa: SLF001
        assert writer is not None  # noqa: S101 - connected, says our caller
        self._transport: asyncio.WriteTransport = writer.transport
        self._streams = self._transport.get_protocol()
        # What it said if it is a replica now; and how many requests were under way then
        # that have no reply yet.
        self._demotions: list[str] = []
        self._replies_due: int | None = None
        self._reader = hiredis.Reader(
            protocolError=ValueError,
            replyError=_error_factory(self._demotions),
            notEnoughData=_INCOMPLETE,
        )
        self._waiters: deque[_Waiter] = deque()
        # Replies of the oldest waiter that have come.
        self._replies: list[Any] = []
        # Bytes that waited to be written when the oldest waiter was last looked at.
        self._unwritten = 0
        # Runs while anybody waits; looks at the oldest waiter's deadline.
        self._timer: asyncio.TimerHandle | None = None
        # Why the connection ended, for the next request; and when, by the loop's clock.
        self._lost: str | None = None
        self.lost_at = inf
        self._closed = loop.create_future()
        self._transport.set_protocol(self)
        notify_on_fork(self)

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, or is about to be told so by asyncio."""
        return self._lost is not None or self._transport.is_closing()

    @property
    def number(self) -> int:
        """No other connection of this process has had it."""
        return self._number

    def check(self) -> None:
        """Make sure that the connection has not ended.

        Raises:
            ConnectionLost: It has.
        """
        if self.lost:
            reason = self._lost or "it broke while something was written"
            raise ConnectionLost(self.address.name, reason)

    async def subscribe(self, channels: Sequence[bytes]) -> bool:
        """Have messages on channels told to `on_message`; False if that can't be.

        It can't be in RESP2, where a connection that has subscribed does nothing
        else, and where an ACL forbids it.

        Raises:
            ConnectionLost: The connection ended before the reply.
        """
        if str(self._connection.protocol) != "3":
            return False
        data = pack([commands.subscribe([channel]) for channel in channels])
        future = self.request(data, len(channels))
        self._waiters[-1].pushes = True
        return not any(isinstance(reply, ErrorReply) for reply in await future)

    def ask(self, batch: Sequence[Command], wait: float = 0.0) -> Replies:
        """Write commands; the future brings what their replies say.

        Args:
            batch: The commands.
            wait: Seconds for which the server may block before it replies.

        Raises:
            ConnectionLost: As `request` does, and for a reply that makes no sense.
        """
        read = partial(reply_parsing.read, batch)
        return self.request(pack(batch), len(batch), wait, read)

    def request(
        self, data: bytes, count: int, wait: float = 0.0, read: Read | None = None
    ) -> Replies:
        """Write packed commands; the future brings their replies, errors as values.

        Args:
            data: The commands, packed.
            count: How many replies they bring.
            wait: Seconds for which the server may block before it replies.
            read: Makes values of the replies, or raises `ProtocolError`.

        Raises:
            ConnectionLost: The connection has ended: nothing was written. The future
                raises it when it ends later: then the server may have done it all.
        """
        self.check()
        future: Replies = self._loop.create_future()
        # A long request is on its way for a while after the system has taken it.
        long = len(data) > _LONG_REQUEST
        patience = self.address.reply_timeout if long else self.patience
        deadline = self._loop.time() + patience + wait
        if self._timer is not None and self._timer.when() > deadline:
            # It was set for a request that could wait longer.
            self._timer.cancel()
            self._timer = None
        self._waiters.append(_Waiter(count, deadline, future, read))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_deadline)
        self._transport.write(data)
        return future

    async def call(self, command: Command) -> Any:
        """Send one command and give what its reply says, an `ErrorReply` as a value.

        Raises:
            ConnectionLost: The connection ended before the reply.
        """
        return (await self.ask([command]))[0]

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands in one write and give what the replies say, errors as values.

        Raises:
            ConnectionLost: The connection ended before the last reply.
        """
        return await self.ask(batch) if batch else []

    def abort(self, reason: str) -> None:
        """Give the connection up; whoever waits gets `ConnectionLost`."""
        self._fail(reason)
        self._transport.abort()

    async def aclose(self) -> None:
        """Close; whoever still waits gets `ConnectionLost`.

        Cancelling it closes at once.
        """
        self._fail("closed")
        self._transport.close()
        try:
            # TLS says goodbye first, and a black-holed peer never answers.
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.shield(self._closed)
        finally:
            self._transport.abort()
            # Waits for nothing.
            await self._connection.disconnect(nowait=True)

    def forked(self) -> None:
        """Let go of the connection: it is the parent's, and this is its child.

        The socket is replaced by one that nobody is behind. To close it would leave its
        number to another file, and to tell asyncio would change what the parent waits
        for: the two share its selector.
        """
        number = self._transport.get_extra_info("socket").fileno()
        if number >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            os.close(nothing)
        self._fail("it belongs to the process that this one was forked from")
        if not self._closed.done():
            self._closed.set_result(None)

    # -- asyncio's side ------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Count replies off to those who wait."""
        self.received += len(data)
        self._received_at = self._loop.time()
        answered: list[tuple[_Waiter, list[Any]]] = []
        try:
            self._parse(data, answered)
            values = [
                replies if waiter.read is None else waiter.read(replies)
                for waiter, replies in answered
            ]
        except Exception as error:
            # Nothing on this connection can be attributed to anybody any more, nor what
            # came just before.
            self._waiters.extendleft(waiter for waiter, _ in reversed(answered))
            self.abort("the server's reply makes no sense")
            if not isinstance(error, ProtocolError):
                raise  # our own mistake: asyncio reports it, and nobody waits for ever
            return
        for (waiter, _), value in zip(answered, values, strict=True):
            if not waiter.future.done():
                waiter.future.set_result(value)
        if self._demotions:
            self._leave_demoted(len(answered))

    def _leave_demoted(self, answered: int) -> None:
        """Give up a server that was demoted: its address may lead to its successor.

        It keeps its connections, and nothing can be written on them any more. What was
        asked before it said so is waited for.
        """
        replies_due = (
            len(self._waiters)
            if self._replies_due is None
            else self._replies_due - answered
        )
        self._replies_due = replies_due
        if replies_due <= 0:
            self.abort(self._demotions[0])

    def _parse(self, data: bytes, answered: list[tuple[_Waiter, list[Any]]]) -> None:
        """Find out who is answered by what has come.

        Raises:
            Senseless: It is not RESP, or a reply that nobody asked for.
        """
        gets, replies, waiters = self._reader.gets, self._replies, self._waiters
        try:
            self._reader.feed(data)
            while (reply := gets(False)) is not _INCOMPLETE:  # noqa: FBT003 - hiredis' way
                if type(reply) is hiredis.PushNotification and not self._handle_push(
                    reply
                ):
                    continue
                replies.append(reply)
                if len(replies) == waiters[0].count:
                    answered.append((waiters.popleft(), replies))
                    self._replies = replies = []
        except (ValueError, IndexError, TypeError, MemoryError):
            # The last two are hiredis' too: of a map with lists for names, and of a
            # list that is longer than memory.
            raise ProtocolError from None

    def _handle_push(self, push: list[Any]) -> bool:
        """Tell whether a push answers the oldest waiter; if not, see to it."""
        kind = push[0]
        if kind == b"subscribe":
            return bool(self._waiters) and self._waiters[0].pushes
        if type(kind) is not bytes:
            raise ValueError("a push without a name")
        if kind == b"message" and self.on_message is not None:
            self.on_message()
        return False

    def eof_received(self) -> None:
        """Leave the closing to asyncio, which calls `connection_lost`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who wait, and asyncio's streams, which closing waits for."""
        self._fail(printable(str(exc)) if exc else "closed by the server")
        if not self._closed.done():
            self._closed.set_result(None)
        self._streams.connection_lost(exc)

    def _fail(self, reason: str) -> None:
        if self._lost is None:
            self._lost, self.lost_at = reason, self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            future = self._waiters.popleft().future
            if not future.done():
                future.set_exception(ConnectionLost(self.address.name, self._lost))
                # Whoever gave up waiting meanwhile must not be reproached for it.
                future.exception()

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._waiters:
            return
        # While bytes come, the server is at it: a long reply takes its time on a slow
        # way, and to give it up means to ask for the same again. So it is with a long
        # request while bytes go.
        now = self._loop.time()
        if self._write_progresses():
            self._waiters[0].deadline = now + self.address.reply_timeout
        alive = self._received_at + self.patience
        deadline = max(self._waiters[0].deadline, alive)
        if now >= deadline:
            self.abort("no reply in time")
        else:
            self._timer = self._loop.call_at(deadline, self._check_deadline)

    def _write_progresses(self) -> bool:
        """Check whether less waits to be written than at the last look."""
        before, self._unwritten = (
            self._unwritten,
            self._transport.get_write_buffer_size(),
        )
        # At the first look, that is not known yet.
        return self._unwritten < before or (not before and self._unwritten > 0)
