"""Connections of clients as the server sees them, and the callers of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

import hiredis

from simulation.server.acl import User
from simulation.server.keyspace import Database
from simulation.server.messages import leave
from simulation.server.resp import Fault, Push, Reply, encode

if TYPE_CHECKING:
    from simulation.server.blocking import Waiter
    from simulation.server.server import Server
    from simulation.server.table import Command

__all__ = ["Caller", "Peer", "Queue", "Session"]


class Peer(Protocol):
    """The network's end of a connection."""

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""

    def close(self) -> None:
        """Close the connection."""


class Caller:
    """Who runs a command: a connection, a script, or the replication.

    Attributes:
        server: The server.
        database: The selected database.
        user: The user whose permissions apply; None: everything is allowed.
        in_script: Whether this is a script.
        in_exec: Whether this is within EXEC.
        rewritten: The current command as replicas are to run it, if that differs.
    """

    def __init__(self, server: Server, user: User | None) -> None:
        self.server = server
        self.database: Database = server.database(0)
        self.user = user
        self.in_script = False
        self.in_exec = False
        self.rewritten: list[bytes] | None = None

    @property
    def may_block(self) -> bool:
        """Whether a command may wait."""
        return not (self.in_script or self.in_exec)


class Queue:
    """The commands between MULTI and EXEC.

    Attributes:
        commands: The commands and their words.
        broken: Whether one was refused, so that EXEC is.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[Command, list[bytes]]] = []
        self.broken = False


class Session(Caller):
    """A client's connection.

    Args:
        server: The server.
        peer: The network's end.
        number: The client's id.

    Attributes:
        number: The client's id.
        resp3: Whether replies are in RESP3.
        name: The name that the client gave itself.
        library: The name and version of its library.
        queue: The transaction that it has begun, if any.
        watched: The keys that it watches, with their databases.
        watch_failed: Whether one of them has changed.
        waiter: What it waits for, if it is blocked.
        postponed: The command that waits for the end of a pause.
        channels: The channels that it has subscribed to.
        patterns: The patterns that it has subscribed to.
        since: When it connected, in milliseconds.
        active: When it sent its last command.
        last_command: The name of that command.
        writes_to: The replication offset of its last write.
        reruns: Whether its blocked command is being run again.
        running_timer: The timer of that command.
    """

    def __init__(self, server: Server, peer: Peer, number: int) -> None:
        super().__init__(server, server.users.default)
        self.authenticated = server.users.default.needs_no_password
        self.number = number
        self.resp3 = False
        self.name = b""
        self.library = [b"", b""]
        self.queue: Queue | None = None
        self.watched: dict[tuple[int, bytes], None] = {}
        self.watch_failed = False
        self.waiter: Waiter | None = None
        self.postponed: list[bytes] | None = None
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, None] = {}
        self.since = self.active = server.now
        self.last_command = "NULL"
        self.writes_to = 0
        self.reruns = False
        self.running_timer: object = None
        self.closing = False
        self._peer = peer
        self._reader = hiredis.Reader()
        # Whether pauses and states that refuse do not apply: it is an operator's.
        self.exempt = False
        self._open = True
        self._ended = False
        self._packs = False
        self._out: list[bytes] = []

    @property
    def open(self) -> bool:
        """Whether the connection is open."""
        return self._open

    @property
    def listens(self) -> bool:
        """Whether it has subscribed to anything."""
        return bool(self.channels or self.patterns)

    @property
    def address(self) -> str:
        """The client's address, for CLIENT LIST and KILL."""
        return str(getattr(self._peer, "address", f"127.0.0.1:{40000 + self.number}"))

    def received(self, data: bytes) -> None:
        """Take bytes from the client, and run what commands they complete."""
        if not self._open:
            return
        if not self._packs:
            # Later chunks may begin anywhere within a command.
            self._packs = data[:1] == b"*"
            data = data if self._packs else _pack_lines(data)
        self._reader.feed(data)
        self.server.reads += 1
        self.server.run(self)

    def closed(self) -> None:
        """Take note that the client has closed the connection.

        A frozen server notices it later, after it has run what was received before.
        """
        self._ended = True
        self.server.run(self)

    def work(self) -> None:
        """Run the commands that have been received, as far as they need not wait."""
        gets, server = self._reader.gets, self.server
        while self._open and self.waiter is None and self.postponed is None:
            try:
                words = gets()
            except hiredis.ProtocolError as error:
                self.reply(Fault(b"ERR Protocol error: %b" % str(error).encode()))
                self.closing = True
                break
            if words is False:
                break
            if words:
                server.execute(self, words)
            if self.closing:
                break
        if self._ended and (self.waiter or self.postponed or self._open):
            self.drop()

    def reply(self, reply: Reply) -> None:
        """Queue a reply; it is sent when the server has done its work."""
        if not self._open:
            return
        if not self._out:
            self.server.written[self] = None
        self._out.append(encode(reply, resp3=self.resp3))

    def push(self, *words: Reply) -> None:
        """Queue a message that is no reply."""
        self.reply(Push(words))

    def flush(self) -> None:
        """Send what is queued, and close if that is due."""
        if self._out and self._open:
            data = b"".join(self._out)
            self._out.clear()
            self._peer.send(data)
        if self.closing and self._open:
            self.drop()
            self._peer.close()

    def close_after_reply(self) -> None:
        """Close the connection when the queued replies have been sent."""
        self.closing = True
        self.server.written[self] = None

    def cut(self) -> None:
        """Close the connection at once; queued replies are lost."""
        if self._open:
            self.drop()
            self._peer.close()

    def drop(self) -> None:
        """Forget the connection and all that it waits for or has subscribed to."""
        if not self._open:
            return
        self._open = False
        self._out.clear()
        self.server.forget(self)

    def leave_channels(self) -> None:
        """End all subscriptions."""
        for channel in self.channels:
            leave(self.server.channels, channel, self)
        for pattern in self.patterns:
            leave(self.server.patterns, pattern, self)
        self.channels.clear()
        self.patterns.clear()

    def unwatch(self) -> None:
        """Watch no key any more."""
        for index, key in self.watched:
            watchers = self.server.database(index).watchers
            watchers[key].pop(self, None)
            if not watchers[key]:
                del watchers[key]
        self.watched.clear()
        self.watch_failed = False


def _pack_lines(data: bytes) -> bytes:
    """Turn inline commands, each a line of words, into those of RESP."""
    # hiredis' stubs demand a tuple of one word.
    pack = cast("Callable[[tuple[bytes, ...]], bytes]", hiredis.pack_command)
    lines = [tuple(line.split()) for line in data.splitlines()]
    return b"".join(pack(line) for line in lines if line)
