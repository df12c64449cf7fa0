"""Fake servers, with faults that real servers do not have on demand."""

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
    """A fake server that listens."""

    def __init__(self) -> None:
        self.port = 0
        # The number of connections that were accepted so far.
        self.accepted = 0
        # The tasks and the numbers of files of the fake itself, which are open
        # meanwhile.
        self.tasks: set[asyncio.Task[None]] = set()
        self.files: set[str] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@asynccontextmanager
async def fake(
    serve: Serve, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Fake]:
    """Listen, and let `serve` handle each connection until it returns."""
    listening = Fake()

    async def accept(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        listening.accepted += 1
        task = cast("asyncio.Task[None]", asyncio.current_task())
        number = str(writer.get_extra_info("socket").fileno())
        listening.tasks.add(task)
        listening.files.add(number)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            listening.tasks.discard(task)
            listening.files.discard(number)
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    listening.port = server.sockets[0].getsockname()[1]
    try:
        yield listening
    finally:
        server.close()
        for task in listening.tasks:
            task.cancel()
        if listening.tasks:
            await asyncio.wait(listening.tasks)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read, and never answer."""
    while await reader.read(65536):
        pass


async def black_hole(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Receive nothing, not even the end of the connection."""
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


def greet(request: Request) -> bytes | None:
    """Return the answer to what each connection says first; None for other requests."""
    return HELLO if request[0] == b"HELLO" else None


async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what a connection says first, and read no more."""
    await reader.read(65536)
    writer.write(HELLO)
    await writer.drain()


def answering(answer: Callable[[Request], bytes]) -> Serve:
    """Return a server that greets, and answers other requests as a function says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            writer.write(greet(request) or answer(request))
            await writer.drain()

    return serve


def answering_all(answer: Callable[[Request], bytes]) -> Serve:
    """Return a server that answers all requests as a function says, HELLO too."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            writer.write(answer(request))

    return serve


def free_port() -> int:
    """Return a port on which no server listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
