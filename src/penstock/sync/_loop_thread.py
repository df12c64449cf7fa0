"""Loop thread: the event loop on which the producers of synchronous code run.

There is one thread in a process, which begins with the first producer that is used. It
is a daemon thread: a program that ends without closing its producers must end all the
same.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future

import anyio
from anyio.from_thread import BlockingPortal

__all__ = ["loop_thread"]

_lock = threading.Lock()
# The process that has started the thread, and the portal to its loop.
_started: tuple[int, BlockingPortal] | None = None


def loop_thread() -> BlockingPortal:
    """Return the portal to this process's loop, whose thread is started if necessary.

    A forked process has none of its parent's threads, so it gets a thread of its own.
    """
    global _started  # noqa: PLW0603 - there is one in a process
    with _lock:
        if _started is None or _started[0] != os.getpid():
            _started = os.getpid(), _start()
        return _started[1]


def _start() -> BlockingPortal:
    begun: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            begun.set_result(portal)
            await portal.sleep_until_stopped()

    def run() -> None:
        anyio.run(serve)

    threading.Thread(target=run, name="penstock.sync", daemon=True).start()
    return begun.result()


def _renew_lock() -> None:
    """Give a forked process a lock: its parent may have held the one that there was."""
    global _lock  # noqa: PLW0603 - as above
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
