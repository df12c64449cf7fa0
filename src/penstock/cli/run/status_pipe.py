"""StatusPipe: the socket pair between `penstock run` and one of its workers.

The worker sends that it is ready, and from then on every two seconds for how long the
server has owed it an answer; or why it can't be run. The parent sends nothing.
When the parent ends, however that happens, its end of the socket is closed, and the
worker sees that.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Final

__all__ = [
    "BEAT",
    "READY",
    "REFUSED",
    "SILENT",
    "URL_VARIABLE",
    "WORKERS_VARIABLE",
    "WORKER_VARIABLE",
    "StatusPipe",
]

# Passed in the environment, because every user can read a process's arguments.
URL_VARIABLE: Final = "PENSTOCK_RUN_URL"
# The number of a worker, from 1 on, and how many there are; user code may read them.
WORKER_VARIABLE: Final = "PENSTOCK_WORKER"
WORKERS_VARIABLE: Final = "PENSTOCK_WORKERS"
READY: Final = b"ready\n"
REFUSED: Final = b"refused\n"
SILENT: Final = b"silent "
# Seconds between two beats.
BEAT: Final = 2.0

_LONGEST: Final = 32_768  # bytes of a reason; writing must not block


class StatusPipe:
    """The worker's end of the socket pair.

    Args:
        descriptor: The file descriptor of the worker's end.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        # A process that a handler starts must not keep the socket open.
        self._socket.set_inheritable(False)

    def ready(self) -> None:
        """Send that all consumers are open."""
        self._send(READY)

    def beat(self, silent: float) -> None:
        """Send that the event loop turns, and the seconds of the server's silence."""
        # If the parent does not read, this must not block the event loop.
        with suppress(OSError):
            message = b"%b%d\n" % (SILENT, silent)
            self._socket.send(message, socket.MSG_DONTWAIT)

    def refuse(self, reason: str) -> None:
        """Send why the worker can't be run."""
        self._send(REFUSED + reason.encode("utf-8", "backslashreplace")[:_LONGEST])

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # the parent is gone; `watch` handles that
            self._socket.sendall(message)

    def watch(self, grace: float) -> None:
        """Start a thread that ends this process when the parent is gone.

        It is a thread because a handler may block the event loop.

        Args:
            grace: Seconds to drain, after which the process exits.
        """
        threading.Thread(target=self._watch, args=[grace], daemon=True).start()

    def _watch(self, grace: float) -> None:
        with suppress(OSError):
            while self._socket.recv(1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)
