"""A way to the server that takes time: a proxy, in a process of its own.

Each direction holds what it gets for half of the round trip and passes it on in order,
however much is on its way. It is made of asyncio's protocols, one timer a direction,
so that it is not what is measured; `measure` tells what it lets through.

`python -m benchmarks.delay` is told `port` and `round_trip`, tells its own `port`, and
ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import hiredis

from benchmarks.filling import pack_command
from benchmarks.job import COUNT, STREAM
from benchmarks.processes import Child
from benchmarks.server import connect


class Pipe(asyncio.Protocol):
    """One side of a connection: what comes in goes to the other side, later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._on_its_way: deque[tuple[float, bytes]] = deque()
        self._early: list[bytes] = []
        self._own: asyncio.Transport | None = None
        self.other: Pipe | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is TCP
        self._own = transport

    def meet(self, other: Pipe) -> None:
        """The other side is there."""
        self.other = other
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
            return
        due = self._loop.time() + self._delay
        if not self._on_its_way:
            self._loop.call_at(due, self._promote)
        self._on_its_way.append((due, data))

    def _promote(self) -> None:
        held = self._on_its_way
        now = self._loop.time()
        ripe = []
        while held and held[0][0] <= now:
            ripe.append(held.popleft()[1])
        if ripe and self.other and self.other._own:  # noqa: SLF001 - same class
            self.other._own.writelines(ripe)  # noqa: SLF001 - same class
        if held:
            self._loop.call_at(held[0][0], self._promote)

    def pause_writing(self) -> None:
        if self.other and self.other._own:  # noqa: SLF001 - same class
            self.other._own.pause_reading()  # noqa: SLF001 - same class

    def resume_writing(self) -> None:
        if self.other and self.other._own:  # noqa: SLF001 - same class
            self.other._own.resume_reading()  # noqa: SLF001 - same class

    def connection_lost(self, error: Exception | None) -> None:
        """What is on its way is lost with it: benchmarks cut nothing that matters."""
        self._on_its_way.clear()
        if self.other and self.other._own:  # noqa: SLF001 - same class
            self.other._own.close()  # noqa: SLF001 - same class


async def serve(port: int, delay: float) -> None:
    """Be the proxy until the input ends."""
    loop = asyncio.get_running_loop()
    connecting = set()

    async def join(near: Pipe) -> None:
        _, far = await loop.create_connection(lambda: Pipe(delay), "127.0.0.1", port)
        near.meet(far)
        far.meet(near)

    def accept() -> Pipe:
        near = Pipe(delay)
        task = loop.create_task(join(near))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    server.close()


def main() -> None:
    told = json.loads(sys.stdin.readline())
    # epoll and poll count in milliseconds, select in microseconds.
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(told["port"], told["round_trip"] / 2))


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are good to a tenth of a millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


@contextmanager
def behind(url: str, round_trip: float) -> Iterator[str]:
    """A URL that leads to the same server, so many seconds a round trip away."""
    if not round_trip:
        yield url
        return
    with Child("benchmarks.delay") as proxy:
        proxy.tell(port=urlsplit(url).port, round_trip=round_trip)
        yield f"redis://127.0.0.1:{proxy.hear()['port']}"


@dataclass(frozen=True)
class Passage:
    """What a way to the server lets through.

    Attributes:
        round_trip_ms: A PING's median.
        reads: Entries a second, read by several requests at once.
        adds: Entries a second, written without waiting for replies in between.
    """

    round_trip_ms: float
    reads: int
    adds: int


def measure(url: str, direct: str, entries: int = 100_000) -> Passage:
    """Measure what the way lets through; leaves nothing behind."""
    ping = pack_command((b"PING",))
    add = pack_command((b"XADD", STREAM, b"*", b"msg", b"x" * 200))
    read = pack_command((b"XRANGE", STREAM, b"-", b"+", b"COUNT", COUNT))
    trips = [flood(url, ping, 1) for _ in range(200)]
    adding = flood(url, add, entries)
    reading = flood(url, read, entries // COUNT)
    with connect(direct) as redis:
        redis.delete(STREAM)
    return Passage(
        round_trip_ms=round(statistics.median(trips) * 1000, 3),
        reads=round(entries / reading),
        adds=round(entries / adding),
    )


def flood(url: str, command: bytes, times: int) -> float:
    """Have a command executed so often, at once; gives the seconds it took."""
    parts = urlsplit(url)
    replies = hiredis.Reader()
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        start = time.perf_counter()
        # It writes in the background, so that neither side waits for the other.
        writer = threading.Thread(target=connection.sendall, args=(command * times,))
        writer.start()
        while times:
            replies.feed(connection.recv(1 << 16))
            while replies.gets() is not False:
                times -= 1
        writer.join()
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
