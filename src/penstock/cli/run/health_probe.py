"""Minimal HTTP server for health probes: `GET /ready` and `GET /live`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

__all__ = ["Answer", "Status", "answer", "serve"]

_HEAD: Final = 8192  # bytes of a request, at most
_PATIENCE: Final = 5.0  # seconds to receive a request and send its response
_CONNECTIONS: Final = 64  # at the same time; a further one ends the oldest

Status: TypeAlias = tuple[bool, str]  # whether it is ready, and a text
Answer: TypeAlias = tuple[int, str]

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class _Probe:
    """Answers the requests of connections.

    Args:
        status: Called for each request.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        # The connections that wait, the oldest first.
        self._waiting: dict[anyio.CancelScope, None] = {}

    async def __call__(self, stream: SocketStream) -> None:
        if len(self._waiting) >= _CONNECTIONS:
            # The oldest one is silent: a probe sends its request at once.
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        scope = anyio.CancelScope()
        self._waiting[scope] = None
        try:
            with scope:
                await self._serve(stream)
        finally:
            self._waiting.pop(scope, None)

    async def _serve(self, stream: SocketStream) -> None:
        # A client that is slow, silent, gone, or sends too much gets no response.
        with suppress(
            *(TimeoutError, anyio.IncompleteRead, anyio.DelimiterNotFound),
            *(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError),
        ):
            async with stream, asyncio.timeout(_PATIENCE):
                received = BufferedByteReceiveStream(stream)
                head = await received.receive_until(b"\r\n\r\n", _HEAD)
                await stream.send(answer(head, self._status()))


async def serve(
    listener: anyio.abc.Listener[SocketStream], status: Callable[[], Status]
) -> None:
    """Answer probes until cancelled.

    Args:
        listener: Accepts the connections; closed at the end.
        status: Called for each request.
    """
    async with listener:
        await listener.serve(_Probe(status))


def answer(head: bytes, status: Status) -> bytes:
    """Return the response to a request."""
    method, code, text = _decide(head, status)
    body = f"{text}\n".encode()
    lines = [
        f"HTTP/1.1 {code} {_REASONS[code]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(["Allow: GET, HEAD"] if code == 405 else []),  # noqa: PLR2004 - its status
    ]
    top = "\r\n".join([*lines, "", ""]).encode()
    return top if method == b"HEAD" else top + body


def _decide(head: bytes, status: Status) -> tuple[bytes, int, str]:
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004
        return b"", 400, "not an HTTP/1 request"
    method, target, _ = words
    if method not in (b"GET", b"HEAD"):
        return method, 405, "only GET is answered"
    ready, reason = status
    match target.partition(b"?")[0]:
        case b"/live":
            return method, 200, "live"
        case b"/ready":
            return method, 200 if ready else 503, reason
    return method, 404, "use /ready or /live"
