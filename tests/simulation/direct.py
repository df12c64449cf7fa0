"""Direct: a client inside the server, whose commands are executed at once.

The operator, the foreign clients and the observer of a run use it. It costs no virtual
time and can't be cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from simulation.server.server import Server

__all__ = ["Direct"]


# hiredis' stubs demand a tuple of one word.
_pack: Final = cast(
    "Callable[[tuple[bytes | str | int, ...]], bytes]", hiredis.pack_command
)


class Direct:
    """A connection without a network.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connect()

    def _connect(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=False)
        self._session = self._server.connected(self)
        self._session.exempt = True
        # All permissions, whatever those of other users are at the moment.
        self._session.user = None

    def send(self, data: bytes) -> None:
        """Take replies from the server."""
        self._reader.feed(data)

    def close(self) -> None:
        """Be closed by the server."""

    def call(self, *words: bytes | str | int) -> Any:
        """Execute a command and return its reply; an error is a value."""
        if not self._session.open:
            self._connect()  # the server was restarted
        self._session.received(_pack(words))
        if self._server.frozen:
            self._session.work()
            self._session.flush()
        reply = self._reader.gets()
        assert reply is not False, f"{words[0]!r} was not answered"
        return reply
