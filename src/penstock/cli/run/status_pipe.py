"""The line between `penstock run` and one of its workers.

A socket of which each has an end. The worker says on it that it is ready, or why it
can't be run. The parent says nothing: that its end closes tells that it is gone,
however it went.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Final

__all__ = ["READY", "REFUSED", "URL_VARIABLE", "StatusPipe"]

# By the environment, since everybody may read a process's arguments.
URL_VARIABLE: Final = "PENSTOCK_RUN_URL"
READY: Final = b"ready\n"
REFUSED: Final = b"refused\n"

_LONGEST: Final = 32_768  # bytes of a reason; what is written here must not block


class StatusPipe:
    """The worker's end.

    Args:
        descriptor: Its file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        # What a handler starts is not to hold the line for us.
        self._socket.set_inheritable(False)

    def ready(self) -> None:
        """Say that all consumers are open."""
        self._say(READY)

    def refuse(self, reason: str) -> None:
        """Say why it can't be run."""
        self._say(REFUSED + reason.encode("utf-8", "backslashreplace")[:_LONGEST])

    def _say(self, what: bytes) -> None:
        with suppress(OSError):  # nobody is left to be told; `watch` sees to that
            self._socket.sendall(what)

    def watch(self, grace: float) -> None:
        """End this process when the parent is gone.

        In a thread: the event loop may be held up by a handler.

        Args:
            grace: Seconds to end cleanly.
        """
        threading.Thread(target=self._watch, args=[grace], daemon=True).start()

    def _watch(self, grace: float) -> None:
        with suppress(OSError):
            while self._socket.recv(1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)
