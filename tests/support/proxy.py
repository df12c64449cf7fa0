"""A proxy between clients and the server that cuts connections and loses bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

from redis.asyncio.connection import parse_url


class Proxy:
    """Forwards bytes both ways, with faults as its attributes say."""

    def __init__(self, upstream: str) -> None:
        self._options: dict[str, Any] = dict(parse_url(upstream))
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        # The number of connections that were accepted so far.
        self.accepted = 0
        # The number of XADDs that were received so far.
        self.sends = 0
        # Drop bytes from the server, as if they were still in flight, or those to it.
        # Later bytes would be out of step, so cut the connections to end this.
        self.drop_replies = False
        self.drop_requests = False
        # Drop replies of the connections for which this is true, numbered from 1.
        self.silent: Callable[[int], bool] = lambda _: False
        # Hold back bytes from the server while this is true for a connection.
        self.hold: Callable[[int], bool] = lambda _: False
        # The same for bytes to the server; and how often some were held back.
        self.hold_requests: Callable[[int], bool] = lambda _: False
        self.held_requests = 0
        # The delay in seconds of each portion, either way, give or take a half; and the
        # largest size of a portion in bytes.
        self.delay = 0.0
        self.portion = 65536
        # Corrupt a byte of the server's next reply: one of its frame, so of a type, a
        # length or a line end, since a corrupted payload can't be detected.
        self.corrupt_next_reply = False
        self.corrupted = 0
        self.chance = random.Random()
        # Cut the connection on which the server's next bytes arrive, before they pass.
        self.cut_next_reply = False
        # Cut only if the client's last request contained this.
        self.cut_on = b""
        # Cut at every n-th read of replies to XADDs, after half of it; 0: never.
        self.cut_every = 0
        self._replies_seen = 0
        # Bytes of requests since the last reply, by the number of the connection.
        self._unanswered: dict[int, int] = {}
        self.cuts = 0
        # Cut a connection that brings more bytes between two replies; 0: never.
        self.cut_requests_over = 0
        # The number of bytes of replies that were forwarded so far.
        self.passed = 0
        # Cut each connection after so many bytes of replies; 0: never.
        self.cut_after = 0

    @property
    def url(self) -> str:
        """The URL by which clients connect through the proxy."""
        user = quote(self._options.get("username") or "", safe="")
        password = quote(self._options.get("password") or "", safe="")
        login = f"{user}:{password}@" if user or password else ""
        return f"redis://{login}127.0.0.1:{self.port}/{self._options.get('db', 0)}"

    def redirect(self, upstream: str) -> None:
        """Connect new clients to another server; open connections stay."""
        self._options = dict(parse_url(upstream))

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and cut those that are open."""
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Cut all connections."""
        for writer in list(self._links):
            writer.transport.abort()

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if path := self._options.get("path"):
            return await asyncio.open_unix_connection(path)
        return await asyncio.open_connection(
            self._options.get("host", "localhost"), self._options.get("port", 6379)
        )

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        number = self.accepted
        try:
            up_reader, up_writer = await self._upstream()
        except OSError:
            # Without a server, clients see a lost connection.
            writer.transport.abort()
            return
        self._links |= {writer, up_writer}
        last = bytearray()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, up_writer, last, number))
                group.create_task(self._replies(up_reader, writer, last, number))
        finally:
            self._links -= {writer, up_writer}
            for end in (writer, up_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        last: bytearray,
        number: int,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self.held_requests += self.hold_requests(number)
                while self.hold_requests(number) and not writer.is_closing():
                    await asyncio.sleep(0.01)
                # The request that a cut waits for stays the last one, whatever follows.
                if not (self.cut_next_reply and self.cut_on and self.cut_on in last):
                    last[:] = data
                self.sends += data.count(b"XADD")
                self._unanswered[number] = self._unanswered.get(number, 0) + len(data)
                if 0 < self.cut_requests_over < self._unanswered[number]:
                    self.cuts += 1
                    break
                if not self.drop_requests:
                    await self._forward(data, writer)
        writer.transport.abort()

    async def _replies(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        last: bytearray,
        number: int,
    ) -> None:
        frames = _Frames()
        left = self.cut_after
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.cut_after:
                    data, left = data[:left], left - len(data)
                if self.cut_next_reply and self.cut_on in last:
                    self.cut_next_reply = False
                    self.cuts += 1
                    break
                if self.cut_every and b"XADD" in last:
                    self._replies_seen += 1
                    if self._replies_seen % self.cut_every == 0:
                        self.cuts += 1
                        writer.write(data[: len(data) // 2])
                        break
                frame = frames.frame_positions(data)
                if self.corrupt_next_reply and frame:
                    self.corrupt_next_reply = False
                    self.corrupted += 1
                    position = self.chance.choice(frame)
                    other = data[position] ^ self.chance.randrange(1, 256)
                    data = data[:position] + bytes([other]) + data[position + 1 :]
                while self.hold(number) and not writer.is_closing():
                    await asyncio.sleep(0.01)
                if not self.drop_replies and not self.silent(number):
                    self.passed += len(data)
                    self._unanswered[number] = 0
                    await self._forward(data, writer)
                if self.cut_after and left <= 0:
                    self.cuts += 1
                    break
        writer.transport.abort()

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(data), self.portion):
            if self.delay:
                await asyncio.sleep(self.delay * (0.5 + random.random()))
            writer.write(data[start : start + self.portion])
            await writer.drain()


class _Frames:
    """Distinguishes the frame of replies from their payloads, over all pieces."""

    def __init__(self) -> None:
        self._line = b""
        # The number of payload bytes that are still to come.
        self._inside = 0

    def frame_positions(self, data: bytes) -> list[int]:
        """Return the positions of types and lengths in the next piece of bytes."""
        found: list[int] = []
        start = 0
        while start < len(data):
            if self._inside:
                passed = min(self._inside, len(data) - start)
                self._inside -= passed
                start += passed
                continue
            end = data.find(b"\n", start) + 1 or len(data)
            self._line += data[start:end]
            if self._line[:1] in b"*$%>_":
                found += range(start, end)
            if self._line.endswith(b"\n"):
                if self._line[:1] in b"$=" and self._line[1:2] != b"-":
                    self._inside = int(self._line[1:]) + 2
                self._line = b""
            start = end
        return found


@asynccontextmanager
async def proxy(upstream: str) -> AsyncIterator[Proxy]:
    """Start a proxy to the server of a URL; stop it in the end."""
    made = Proxy(upstream)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
