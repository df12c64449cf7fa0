"""The model on a TCP port, for tests that need a socket: `python -m ... --port N`."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable

from simulation.server import VERSIONS, Server, Session

__all__ = ["WallClock", "serve"]


class WallClock:
    """The real clock, and the timers of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wall(self) -> float:
        """Return the seconds of Unix time."""
        return time.time()

    def after(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back after a delay in seconds."""
        return self._loop.call_later(delay, callback)


class _Connection(asyncio.Protocol):
    """A socket, as the model's peer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session: Session | None = None
        self._transport: asyncio.Transport | None = None
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        host, port = transport.get_extra_info("peername")[:2]
        self.address = f"{host}:{port}"
        self._session = self._server.connected(self)

    def data_received(self, data: bytes) -> None:
        assert self._session is not None
        self._session.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._session is not None
        self._session.closed()

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection."""
        assert self._transport is not None
        self._transport.close()


async def serve(port: int, version: str) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    model = Server(WallClock(loop), random.Random(), VERSIONS[version])
    listener = await loop.create_server(lambda: _Connection(model), "127.0.0.1", port)
    async with listener:
        await listener.serve_forever()


def main() -> None:
    """Serve on the port that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--version", choices=sorted(VERSIONS), default="valkey_9")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.version))


if __name__ == "__main__":
    main()
