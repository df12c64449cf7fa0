"""A proxy that changes commands on their way, as some services do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias, cast
from urllib.parse import urlsplit

import hiredis

Words: TypeAlias = list[bytes]


class Rewriting:
    """Forwards requests as a function returns them, and replies unchanged.

    Attributes:
        rewrite: Returns the words that the server gets in place of a request's.
        seen: The requests so far.
    """

    def __init__(self, upstream: str, rewrite: Callable[[Words], Words]) -> None:
        self._upstream = urlsplit(upstream)
        self.rewrite = rewrite
        self.seen: list[Words] = []
        self.port = 0

    @property
    def url(self) -> str:
        """The URL by which clients connect through the proxy."""
        return f"redis://127.0.0.1:{self.port}{self._upstream.path}"

    def count(self, name: bytes) -> int:
        """Return how many commands of a name there were."""
        return sum(words[0] == name for words in self.seen)

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one client."""
        host, port = self._upstream.hostname, self._upstream.port
        up_reader, up_writer = await asyncio.open_connection(host, port)
        replies = asyncio.create_task(self._replies(up_reader, writer))
        parser = hiredis.Reader()
        with suppress(OSError):
            while data := await reader.read(65536):
                parser.feed(data)
                while (words := parser.gets()) is not False:
                    self.seen.append(cast("Words", words))
                    given = tuple(self.rewrite(cast("Words", words)))
                    up_writer.write(hiredis.pack_command(cast("tuple[str]", given)))
        up_writer.close()
        writer.close()
        await replies

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


@asynccontextmanager
async def rewriting(
    upstream: str, rewrite: Callable[[Words], Words]
) -> AsyncIterator[Rewriting]:
    """Start a proxy to the server of a URL; stop it in the end."""
    made = Rewriting(upstream, rewrite)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made.serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await asyncio.gather(*tasks)
