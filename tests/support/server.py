"""A server of a test, which may be killed and restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from penstock import embedded


class Server:
    """A server process on a TCP port of loopback, with an append-only file.

    Args:
        folder: The folder of its file and log.
        *settings: Further arguments of the command line.
        binary: The program; by default the embedded one.
        environment: Further environment variables.
    """

    def __init__(
        self,
        folder: Path,
        *settings: str,
        binary: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._binary = binary
        self.port = free_port()
        self._settings = settings
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """Return a client of redis-py, to inspect and change the server."""
        return Redis.from_url(self.url, socket_timeout=10)

    async def start(self, *settings: str, ready: bytes = b"+PONG") -> None:
        """Start, and wait until it accepts connections.

        Args:
            *settings: Further arguments of the command line for this start.
            ready: The reply to PING to wait for; `-LOADING`: it is loading its data.
        """
        binary = str(self._binary or embedded.find_server())
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", "--hz", "100"]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        command += [*self._settings, *settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        async with asyncio.timeout(10):
            while not await self._answers(ready):
                await asyncio.sleep(0.005)

    async def _answers(self, ready: bytes) -> bool:
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
        return answer.startswith(ready)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP pauses the server, SIGCONT resumes it."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the server by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def with_login(url: str, user: str, password: str) -> str:
    """Return a URL with the login of a user."""
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        joint = "&" if "?" in rest else "?"
        return f"{scheme}://{rest}{joint}username={user}&password={password}"
    return f"{scheme}://{user}:{password}@{rest.rpartition('@')[2]}"


@asynccontextmanager
async def server(
    folder: Path, *settings: str, binary: str | Path | None = None
) -> AsyncIterator[Server]:
    """Start a server; kill it in the end."""
    made = Server(folder, *settings, binary=binary)
    await made.start()
    try:
        yield made
    finally:
        made.kill()


@asynccontextmanager
async def stuck(own: Server) -> AsyncIterator[None]:
    """Run an endless script, so that other commands are refused with BUSY."""
    async with own.client() as client, own.client() as spinner:
        await client.config_set("lua-time-limit", 20)
        spin = asyncio.create_task(
            spinner.execute_command("EVAL", "while true do end", 0)
        )

        async def is_busy() -> bool:
            try:
                await client.ping()
            except RedisError as error:
                return "BUSY" in str(error)
            return False

        async with asyncio.timeout(20):
            while not await is_busy():
                await asyncio.sleep(0.01)
        try:
            yield
        finally:
            await client.execute_command("SCRIPT", "KILL")
            await asyncio.wait([spin])
            spin.exception()
