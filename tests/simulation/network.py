"""Network: connections in memory, with delays, cuts and silence.

A connection has two paths, one for each direction. Bytes on a path keep their order and
arrive in chunks of any size, each after a delay. Nothing is promised between two
connections, or between the two directions of one.

What can go wrong is TCP's: a reset at any byte, a path on which nothing arrives for a
while, a server that refuses to be connected to, a peer that vanishes without a word. A
reply that is lost is a reset of the path to the client before the reply has arrived.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol

from simulation.loop import Loop
from simulation.world import Event, World

__all__ = [
    "Conditions",
    "Connection",
    "Endpoint",
    "Listener",
    "Network",
    "Path",
    "Peer",
]

# Bytes that the system accepts from a process before they are on their way.
_SOCKET_BUFFER: Final = 200_000
# What a selector loop reads at a time.
_READ: Final = 256 * 1024
_TINY: Final = 1e-9


class Endpoint(Protocol):
    """The server's side of a connection."""

    def received(self, data: bytes) -> None: ...

    def closed(self) -> None: ...


class Peer(Protocol):
    """What a server knows of a client."""

    def send(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Listener(Protocol):
    """A server that accepts connections."""

    def connected(self, peer: Peer) -> Endpoint: ...


@dataclass
class Conditions:
    """The quality of the network between a process and a server.

    Attributes:
        delay: Seconds from one end to the other, at least.
        jitter: Seconds by which a chunk may be later.
        pieces: The share of writes that arrive in several pieces.
        refused_until: Until when connections are refused.
        silent_until: Until when attempts to connect get no answer.
        slowed: How many faults make it slow.
    """

    delay: float = 0.0002
    jitter: float = 0.0002
    pieces: float = 0.05
    refused_until: float = 0.0
    silent_until: float = 0.0
    slowed: int = 0


class Path:
    """One direction of a connection.

    Args:
        world: The world.
        conditions: The quality of the network.
        deliver: Called with bytes that arrive.
        end: Called when the end of the stream arrives.
        broken: Called when the path is cut at the byte that was chosen.
    """

    def __init__(
        self,
        world: World,
        conditions: Conditions,
        deliver: Callable[[bytes], None],
        end: Callable[[], None],
        broken: Callable[[], None],
    ) -> None:
        self._world = world
        self._conditions = conditions
        self._deliver = deliver
        self._end = end
        self._broken = broken
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._last = 0.0
        self._silent_until = 0.0
        self._arrival: Event | None = None
        # The number of bytes after which the path breaks.
        self._limit: int | None = None
        # Whether the next write is to be spoilt.
        self._spoils = False
        self.queued = 0
        self.delivered = 0
        self.closed = False

    def send(self, data: bytes) -> None:
        """Send bytes, which arrive later, in one or more pieces."""
        if self.closed:
            return
        if self._spoils:
            # Its first byte: one of a payload would go unnoticed, as TCP knows too.
            self._spoils = False
            data = bytes((data[0] ^ 0x80,)) + data[1:]
        for piece in self._pieces(data):
            self._add(piece)
            self.queued += len(piece)

    def finish(self) -> None:
        """Send the end of the stream."""
        if not self.closed:
            self._add(None)

    def silence(self, seconds: float) -> None:
        """Let nothing arrive for a while; it arrives afterwards."""
        self._silent_until = max(self._silent_until, self._world.time() + seconds)

    @property
    def silent(self) -> bool:
        """Whether nothing arrives at present."""
        return self._silent_until > self._world.time()

    def break_after(self, count: int) -> None:
        """Break the path when that many further bytes have arrived."""
        self._limit = count

    def spoil(self) -> None:
        """Change the first byte of the next write."""
        self._spoils = True

    def heal(self) -> None:
        """Take back what was done to the path."""
        self._spoils = False
        self._limit = None
        self._silent_until = 0.0

    def close(self) -> None:
        """Let nothing arrive any more."""
        self.closed = True
        self._queue.clear()
        self.queued = 0
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _pieces(self, data: bytes) -> list[bytes]:
        chance = self._world.chance
        if len(data) < 2 or chance.random() >= self._conditions.pieces:
            return [data]
        cuts = sorted(
            chance.randrange(1, len(data)) for _ in range(chance.choice((1, 1, 2, 5)))
        )
        bounds = [0, *cuts, len(data)]
        return [data[a:b] for a, b in pairwise(bounds) if a < b]

    def _add(self, piece: bytes | None) -> None:
        conditions = self._conditions
        delay = conditions.delay + self._world.chance.random() * conditions.jitter
        self._last = max(self._world.time() + delay, self._last + _TINY)
        self._queue.append((self._last, piece))
        self._plan()

    def _plan(self) -> None:
        if self._arrival is None and self._queue:
            when = max(self._queue[0][0], self._silent_until)
            self._arrival = self._world.at(when, self._arrive)

    def _arrive(self) -> None:
        self._arrival = None
        if self._silent_until <= self._world.time():
            _, piece = self._queue.popleft()
            if piece is None:
                self.close()
                self._end()
                return
            self.queued -= len(piece)
            self._pass_on(piece)
        if not self.closed:
            self._plan()

    def _pass_on(self, piece: bytes) -> None:
        limit = self._limit
        if limit is not None and len(piece) > limit:
            if limit:
                self._deliver(piece[:limit])
            self._broken()
            return
        if limit is not None:
            self._limit = limit - len(piece)
        self.delivered += len(piece)
        self._deliver(piece)


class Connection(asyncio.Transport):
    """A connection: the client's transport, and the peer that the server knows.

    Args:
        network: The network.
        loop: The client's event loop.
        protocol: The client's protocol.
        number: The number of this connection, for the timeline.
    """

    def __init__(
        self, network: Network, loop: Loop, protocol: asyncio.BaseProtocol, number: int
    ) -> None:
        super().__init__()
        self.number = number
        self.loop = loop
        self._world = network.world
        self._network = network
        self._protocol = protocol
        self._endpoint: Endpoint | None = None
        conditions = network.conditions(loop.name)
        self.up = Path(
            self._world, conditions, self._reach_server, self._end_server, self.reset
        )
        self.down = Path(
            self._world, conditions, self._reach_client, self._end_client, self.reset
        )
        # What has arrived for the client and was not read yet.
        self._unread = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._paused = False
        self._closing = False
        self._lost = False

    def open(self, listener: Listener) -> None:
        """Connect the two ends."""
        self._endpoint = listener.connected(_Client(self))

    # -- the server's side -------------------------------------------------------------

    def end(self) -> None:
        """Close the connection from the server's side."""
        self._endpoint = None
        self.up.close()
        self.down.finish()

    def _reach_server(self, data: bytes) -> None:
        self._world.trace(b"%d>" % self.number, data)
        if self._endpoint is not None:
            self._endpoint.received(data)

    def _end_server(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.closed()

    # -- faults ------------------------------------------------------------------------

    def reset(self) -> None:
        """Break the connection: both ends see that, and what is under way is lost."""
        self.up.close()
        self.down.close()
        self._end_server()
        self._error = ConnectionResetError(104, "Connection reset by peer")
        self.loop.readable(self)

    def cut_off(self) -> None:
        """Break the client's end only: the server is not told, and keeps its end."""
        self.up.close()
        self.down.close()
        self._error = ConnectionResetError(104, "Connection reset by peer")
        self.loop.readable(self)

    def vanish(self) -> None:
        """Let the client's machine vanish: the server gets no end of the connection."""
        self.up.close()
        self.down.close()
        self._network.forget(self)

    def hang_up(self) -> None:
        """Close the client's end, as the system does when its process has ended."""
        self.down.close()
        self.up.finish()
        self._network.forget(self)

    # -- the client's side -------------------------------------------------------------

    def _reach_client(self, data: bytes) -> None:
        self._world.trace(b"%d<" % self.number, data)
        self._unread += data
        self.loop.readable(self)

    def _end_client(self) -> None:
        self._ended = True
        self.loop.readable(self)

    def read(self) -> None:
        """Give the protocol what has arrived, as a selector loop does."""
        if self._lost or (self._paused and self._error is None):
            return
        # What has arrived before a reset can still be read.
        if self._unread and not self._closing:
            data = bytes(self._unread[:_READ])
            del self._unread[:_READ]
            self._protocol.data_received(data)  # type: ignore[attr-defined]
            more = self._unread or self._ended or self._error is not None
            if more and not self._lost:
                self.loop.readable(self)
            return
        if self._error is not None:
            self._lose(self._error)
        elif self._ended and not self._closing:
            self._ended = False
            if not self._protocol.eof_received():  # type: ignore[attr-defined]
                self.close()

    def _lose(self, error: Exception | None) -> None:
        """Tell the protocol that the connection has ended, in a later iteration."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._network.forget(self)
        self.loop.call_soon(self._protocol.connection_lost, error)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes to the server."""
        if not self._lost and self._error is None:
            self.up.send(bytes(data))

    def close(self) -> None:
        """Close the connection when everything has been sent."""
        if self._closing:
            return
        self._closing = True
        self.down.close()
        self.up.finish()
        self._lose(None)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._lost:
            return
        self._closing = True
        self.down.close()
        # Lost packets are not sent again after a reset; not even the reset arrives.
        if self.up.silent:
            self.up.close()
        self.up.finish()
        self._lose(None)

    def is_closing(self) -> bool:
        """Return whether the connection is closing or has closed."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the system has not accepted yet."""
        return max(0, self.up.queued - _SOCKET_BUFFER)

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Do nothing: writers are not paused."""

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read again."""
        self._paused = False
        if self._unread or self._ended:
            self.loop.readable(self)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol."""
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the default: there is no socket."""
        return default


class _Client:
    """What the server knows of a connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, data: bytes) -> None:
        self._connection.down.send(data)

    def close(self) -> None:
        self._connection.end()


class Network:
    """All servers and connections.

    Args:
        world: The world.

    Attributes:
        connections: Those that are open.
        listeners: The servers, by host and port.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.connections: list[Connection] = []
        self.listeners: dict[tuple[str, int], Listener] = {}
        self._conditions: dict[str, Conditions] = {}
        self._count = 0

    def conditions(self, process: str) -> Conditions:
        """Return the quality of the network of a process, which may be changed."""
        return self._conditions.setdefault(process, Conditions())

    def set_conditions(self, process: str, conditions: Conditions) -> None:
        """Set the quality of the network of a process."""
        self._conditions[process] = conditions

    def of(self, process: str) -> list[Connection]:
        """Return the open connections of a process."""
        return [each for each in self.connections if each.loop.name == process]

    def forget(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        if connection in self.connections:
            self.connections.remove(connection)

    async def connect(
        self, loop: Loop, host: str, port: int, protocol: asyncio.BaseProtocol
    ) -> Connection:
        """Connect a process to a server.

        Raises:
            ConnectionRefusedError: No server listens there, or it refuses.
        """
        conditions = self.conditions(loop.name)
        chance = self.world.chance
        silent = conditions.silent_until - self.world.time()
        delay = 2 * conditions.delay + chance.random() * conditions.jitter
        # TCP repeats what gets no answer after a second, and then ever more rarely.
        await _sleep(loop, delay if silent <= 0 else silent + chance.random())
        listener = self.listeners.get((host, port))
        if listener is None or conditions.refused_until > self.world.time():
            raise ConnectionRefusedError(111, "Connection refused")
        self._count += 1
        connection = Connection(self, loop, protocol, self._count)
        self.connections.append(connection)
        connection.open(listener)
        protocol.connection_made(connection)
        return connection


async def _sleep(loop: Loop, seconds: float) -> None:
    future = loop.create_future()
    timer = loop.call_later(seconds, _resolve, future)
    try:
        await future
    finally:
        timer.cancel()


def _resolve(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
