"""The database of the tests: a private server, or one that the environment names."""

from __future__ import annotations

import os
import socket
import threading
import urllib.parse
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import anyio

from penstock import embedded
from penstock._tasks.loop_binding import LoopBinding
from penstock.admin._connection import AdminConnection
from penstock.errors import ServerError
from penstock.events import log_event

__all__ = ["Database", "DatabaseRefused", "check_named", "open_database"]

T = TypeVar("T")

# Seconds for an answer of the private server; it takes about 0.1 ms.
_TIMEOUT: Final = 10.0


class DatabaseRefused(Exception):  # noqa: N818 - named by what happened
    """The tests can't have the database that the environment names."""


class Database(Protocol):
    """A database that tests use."""

    @property
    def url(self) -> str:
        """The URL for clients."""

    def empty(self) -> None:
        """Delete all keys."""

    def close(self) -> None:
        """Release the database; nothing of the tests is left in it."""


class PrivateDatabase:
    """A server of this process alone, which ends with its last user."""

    def __init__(self) -> None:
        self._server = embedded.acquire()
        self.url = self._server.url
        # Kept open: connecting would take longer than emptying does.
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT)
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)
        self._socket.connect(path)

    def empty(self) -> None:
        """Delete all keys of all databases.

        Raises:
            ServerError: The server did not do that.
        """
        reply = b""
        with suppress(OSError):  # then there is no reply
            self._socket.sendall(b"FLUSHALL\r\n")
            reply = self._socket.recv(1024)
        if reply != b"+OK\r\n":
            raise ServerError(
                f"the private server of the tests could not be emptied (its answer: "
                f"{reply!r:.80}); it may have ended during an earlier test: run that "
                f"one with a server of its own, EmbeddedServer()"
            )

    def close(self) -> None:
        """Stop the server, if nobody else in this process uses it."""
        self._socket.close()
        embedded.release(self._server)


class NamedDatabase:
    """The database that the environment names.

    Args:
        url: Its URL.
        isolates: Whether it may be emptied.
    """

    def __init__(self, url: str, *, isolates: bool) -> None:
        self.url = url
        self._isolates = isolates

    def empty(self) -> None:
        """Delete all keys of this database; others of the server keep theirs.

        Raises:
            ServerError: The server can't be reached, or refuses it.
        """
        _call(self.url, b"FLUSHDB")

    def close(self) -> None:
        """Delete what the last test has left, so that the next run begins empty."""
        if self._isolates:
            self.empty()


def open_database(named: str | None, *, isolates: bool) -> Database:
    """Open the database of the tests.

    Args:
        named: The URL that the environment names, if it names one.
        isolates: Whether the database is emptied for each test.

    Raises:
        DatabaseRefused: The named database is not empty, or others use it.
        ConfigurationError: There is no server to start; or the URL is wrong.
        ServerError: The server did not start, or can't be reached.
    """
    if not named:
        return PrivateDatabase()
    if isolates:
        check_named(named)
    return NamedDatabase(named, isolates=isolates)


def check_named(url: str) -> None:
    """Check that tests may empty the database that the environment names.

    Raises:
        DatabaseRefused: It is not empty, or other pytest processes use it.
        ServerError: The server can't be reached.
    """
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        raise DatabaseRefused(
            "the workers of pytest-xdist would empty the database of PENSTOCK_TEST_URL "
            "under each other; run with -n 0, or unset PENSTOCK_TEST_URL, so that each "
            "worker starts a private server"
        )
    keys = _call(url, b"DBSIZE")
    if keys:
        raise DatabaseRefused(
            f"the database of PENSTOCK_TEST_URL has {keys} keys, and is emptied before "
            f"each test; name an empty database, or run FLUSHDB there if nothing in it "
            f"is needed"
        )


def _call(url: str, command: bytes) -> object:
    """Return the reply to a command, on a connection of its own."""

    async def call() -> object:
        connection = AdminConnection(log_event)
        async with connection.open(url, LoopBinding("test")):
            [reply] = await connection.call_checked([(command,)], command.decode())
        return reply

    return _run(call)


def _run(work: Callable[[], Awaitable[T]]) -> T:
    """Run async code from sync code, whatever event loop this thread has."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(anyio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]
