"""A server of the test's own, to be killed and started again."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from penstock import embedded


class Server:
    """A server process on a TCP port of loopback, with an append-only file.

    Args:
        folder: Where its file and log go.
        *settings: More of the command line.
        binary: The program; default: the one that is embedded.
    """

    def __init__(
        self, folder: Path, *settings: str, binary: str | Path | None = None
    ) -> None:
        self.folder = folder
        self._binary = binary
        self.port = free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """redis-py's client, to look at it and to change it from outside."""
        return Redis.from_url(self.url, socket_timeout=10)

    async def start(self) -> None:
        """Start, and wait until it accepts connections."""
        binary = str(self._binary or embedded.find_server())
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", "--hz", "100"]
        command += ["--appendonly", "yes", "--appendfsync", "always", *self._settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        async with asyncio.timeout(10):
            while not await self._accepts():
                await asyncio.sleep(0.005)

    async def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.write(b"PING\r\n")
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return answer.startswith(b"+PONG")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP freezes it, SIGCONT wakes it up."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def with_login(url: str, user: str, password: str) -> str:
    """The URL as that user."""
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        joint = "&" if "?" in rest else "?"
        return f"{scheme}://{rest}{joint}username={user}&password={password}"
    return f"{scheme}://{user}:{password}@{rest.rpartition('@')[2]}"


@asynccontextmanager
async def server(
    folder: Path, *settings: str, binary: str | Path | None = None
) -> AsyncIterator[Server]:
    """A server that runs; it is killed in the end."""
    made = Server(folder, *settings, binary=binary)
    await made.start()
    try:
        yield made
    finally:
        made.kill()
