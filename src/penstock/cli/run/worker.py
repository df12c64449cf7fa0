"""Worker of `penstock run`: a process that runs a router.

The worker drains on SIGTERM, and when its parent is gone. Its exit status is 2 if the
router can't be run as the arguments say; it sends the reason to its parent.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

from penstock import PenstockError, Router, UsageError
from penstock.cli.run.status_pipe import (
    BEAT,
    URL_VARIABLE,
    WORKERS_VARIABLE,
    StatusPipe,
)
from penstock.cli.run.target import Refused, load

__all__ = ["LOG_FORMAT", "main"]

LOG_FORMAT: Final = "%(asctime)s %(levelname)s [{who}] %(name)s: %(message)s"
_WRONG_USE: Final = 2

Loop = Callable[[], asyncio.AbstractEventLoop]


class _Beat:
    """Sends the parent every two seconds that the event loop turns.

    Args:
        router: The router, whose consumers' connections are reported.
        pipe: Leads to the parent.
        loop: The event loop.
    """

    def __init__(
        self, router: Router, pipe: StatusPipe, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._router = router
        self._pipe = pipe
        self._loop = loop
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Send that all consumers are open, and go on with beats."""
        self._pipe.ready()
        self._beat()

    def _beat(self) -> None:
        consumers = self._router.consumers
        self._pipe.beat(max((one.silent_for for one in consumers), default=0.0))
        self._next = self._loop.call_later(BEAT, self._beat)

    def stop(self) -> None:
        """Send no more beats."""
        if self._next is not None:
            self._next.cancel()


async def serve(router: Router, url: str | None, pipe: StatusPipe) -> None:
    """Run the router until a signal stops it."""
    loop = asyncio.get_running_loop()
    # Ctrl-C in the terminal does not reach this process, which has its own session. A
    # SIGINT that arrives nevertheless was sent to this very process.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, router.stop)
    beat = _Beat(router, pipe, loop)
    try:
        await router.run(url, on_ready=beat.start)
    finally:
        beat.stop()


def main() -> None:
    """Run a router as the arguments of the process say."""
    descriptor, target, number, grace, level, uvloop = sys.argv[1:]
    # Registered before the import, so that it runs after all functions that the user's
    # modules register.
    atexit.register(_end_quickly)
    # Until the event loop runs nothing is in progress, so SIGTERM may exit at once.
    signal.signal(signal.SIGTERM, _leave)
    pipe = StatusPipe(int(descriptor))
    pipe.watch(float(grace))
    url = os.environ.pop(URL_VARIABLE, None)
    try:
        factory = _uvloop() if uvloop == "uvloop" else None
        router = load(target)
        router.check_workers(int(os.environ.get(WORKERS_VARIABLE, "1")))
        # After the import, so that a module's own logging configuration has precedence.
        form = LOG_FORMAT.format(who=f"worker {number}")
        logging.basicConfig(level=level.upper(), format=form)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(router, url, pipe))
    except (Refused, UsageError) as error:
        pipe.refuse(str(error))
        sys.exit(_WRONG_USE)
    except PenstockError as error:
        logging.getLogger("penstock").critical("%s", error)
        sys.exit(1)


def _end_quickly() -> None:
    """Keep the exiting interpreter from collecting garbage again and again.

    These collections, each over all objects, take longer than draining does. Objects
    that are garbage by now are finalized first, as they would be otherwise. A signal is
    ignored from here on, since the process is ending anyway.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _uvloop() -> Loop:
    # Imported by name, because uvloop need not be installed.
    factory: Loop = importlib.import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    main()
