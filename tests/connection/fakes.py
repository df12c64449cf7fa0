"""Servers that do what no good one does."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

import hiredis

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"

Request: TypeAlias = list[bytes]
Serve: TypeAlias = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]


class Fake:
    """A listening fake."""

    def __init__(self) -> None:
        self.port = 0
        # Connections that were accepted so far.
        self.accepted = 0
        # The fake's own part of what is open: tasks, and numbers of files.
        self.tasks: set[asyncio.Task[None]] = set()
        self.files: set[str] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@asynccontextmanager
async def fake(
    serve: Serve, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Fake]:
    """Listen, and let `serve` deal with each connection until it returns."""
    made = Fake()

    async def accept(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        made.accepted += 1
        task = cast("asyncio.Task[None]", asyncio.current_task())
        number = str(writer.get_extra_info("socket").fileno())
        made.tasks.add(task)
        made.files.add(number)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            made.tasks.discard(task)
            made.files.discard(number)
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()
        if made.tasks:
            await asyncio.wait(made.tasks)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read and never say a word."""
    while await reader.read(65536):
        pass


async def black_hole(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take nothing, not even a goodbye."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.get_running_loop().create_future()


async def closing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Close at once."""


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer like a web server."""
    await reader.read(65536)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the request."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[Request]:
    """Read requests until the client closes."""
    parser = hiredis.Reader()
    while data := await reader.read(65536):
        parser.feed(data)
        while (request := parser.gets()) is not False:
            yield cast("Request", request)


def answering(answer: Callable[[Request], bytes]) -> Serve:
    """A server that shakes hands, and then answers with the bytes given to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            writer.write(HELLO if request[0] == b"HELLO" else answer(request))
            await writer.drain()

    return serve


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
