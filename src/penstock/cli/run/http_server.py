"""A small HTTP server: some pages by GET, for probes and scrapers.

h11 reads the requests. What a client can use up is bounded: the size of its request,
its time, and the number of connections. One request is answered on each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias

import anyio
import h11
from anyio.abc import SocketStream

__all__ = ["JSON", "TEXT", "MakePage", "Page", "Pages", "listen", "serve"]

_HEAD: Final = 8192  # bytes of a request, at most
_PATIENCE: Final = 5.0  # seconds to receive a request and send its response
_CONNECTIONS: Final = 64  # at the same time; a further one ends the oldest
TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Page:
    """What a path shows.

    Attributes:
        status: The HTTP status.
        body: The content.
        kind: Its media type.
        headers: More headers.
    """

    status: HTTPStatus
    body: bytes
    kind: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


MakePage: TypeAlias = Callable[[], Awaitable[Page]]
"""A function that makes a page for each request."""
Pages: TypeAlias = Mapping[str, MakePage]
"""By path, the function that makes its page."""


class _Server:
    """Answers the requests of connections.

    Args:
        pages: The pages.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        # The connections that are being served, the oldest first.
        self._served: dict[anyio.CancelScope, None] = {}

    async def __call__(self, stream: SocketStream) -> None:
        if len(self._served) >= _CONNECTIONS:
            # The oldest one is silent: a probe sends its request at once.
            oldest = next(iter(self._served))
            del self._served[oldest]
            oldest.cancel()
        scope = anyio.CancelScope()
        self._served[scope] = None
        try:
            with scope:
                await self._serve(stream)
        finally:
            self._served.pop(scope, None)

    async def _serve(self, stream: SocketStream) -> None:
        # A client that is slow, silent or gone gets no response.
        with suppress(
            *(TimeoutError, anyio.EndOfStream, OSError),
            *(anyio.BrokenResourceError, anyio.ClosedResourceError),
        ):
            async with stream, asyncio.timeout(_PATIENCE):
                connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)
                await self._respond(connection, stream)

    async def _respond(self, connection: h11.Connection, stream: SocketStream) -> None:
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await stream.receive())
        except h11.RemoteProtocolError as error:
            # The rest of a request that is too large is not received, so its client
            # might not see a response.
            if error.error_status_hint != HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                page = Page(HTTPStatus.BAD_REQUEST, b"not an HTTP/1.1 request\n")
                await stream.send(_response(connection, page, with_body=True))
            return
        if isinstance(event, h11.Request):
            page = await self._page(event)
            with_body = event.method != b"HEAD"
            await stream.send(_response(connection, page, with_body=with_body))

    async def _page(self, request: h11.Request) -> Page:
        if request.method not in (b"GET", b"HEAD"):
            allowed = (("Allow", "GET, HEAD"),)
            return Page(
                HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is answered\n", TEXT, allowed
            )
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        make = self._pages.get(path)
        if make is None:
            paths = ", ".join(self._pages)
            return Page(HTTPStatus.NOT_FOUND, f"there are {paths}\n".encode())
        return await make()


def _response(connection: h11.Connection, page: Page, *, with_body: bool) -> bytes:
    head = h11.Response(
        status_code=page.status,
        reason=page.status.phrase,
        headers=[
            ("Content-Type", page.kind),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            *page.headers,
        ],
    )
    response = connection.send(head) or b""
    return response + page.body if with_body else response


async def listen(host: str, port: int) -> anyio.abc.Listener[SocketStream]:
    """Return a listener at an address; port 0 is any free one.

    Raises:
        OSError: The address is not one of this machine, or is in use.
    """
    try:
        return await anyio.create_tcp_listener(local_host=host, local_port=port)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"can't listen on {host}:{port}: {reason}") from None


async def serve(listener: anyio.abc.Listener[SocketStream], pages: Pages) -> None:
    """Answer requests until cancelled.

    Args:
        listener: Accepts the connections; closed at the end.
        pages: The pages.
    """
    async with listener:
        await listener.serve(_Server(pages))
