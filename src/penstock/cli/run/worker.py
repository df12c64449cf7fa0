"""A worker of `penstock run`: a process that runs a router.

It drains on SIGTERM, and when its parent is gone. Its exit status is 2 if it can't be
run as it was asked for; the line to its parent has the reason.
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
from penstock.cli.run.status_pipe import URL_VARIABLE, StatusPipe
from penstock.cli.run.target import Refused, load

__all__ = ["LOG_FORMAT", "main"]

LOG_FORMAT: Final = "%(asctime)s %(levelname)s [{who}] %(name)s: %(message)s"
_WRONG_USE: Final = 2

Loop = Callable[[], asyncio.AbstractEventLoop]


async def serve(router: Router, url: str | None, line: StatusPipe) -> None:
    """Handle messages until told to end."""
    loop = asyncio.get_running_loop()
    # The terminal's Ctrl-C is not for us, who are in a session of our own; what comes
    # all the same was sent to this very process.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, router.stop)
    await router.run(url, on_ready=line.ready)


def main() -> None:
    """Run a router as the arguments say."""
    descriptor, target, number, grace, level, uvloop = sys.argv[1:]
    # Before the import, so that it comes after all that the user's modules register.
    atexit.register(_end_quickly)
    # Until there is an event loop nothing is at work, and can be left at once.
    signal.signal(signal.SIGTERM, _leave)
    line = StatusPipe(int(descriptor))
    line.watch(float(grace))
    url = os.environ.pop(URL_VARIABLE, None)
    try:
        factory = _uvloop() if uvloop == "uvloop" else None
        router = load(target)
        # After the import: a module that sets logging up has the say.
        form = LOG_FORMAT.format(who=f"worker {number}")
        logging.basicConfig(level=level.upper(), format=form)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(router, url, line))
    except (Refused, UsageError) as error:
        line.refuse(str(error))
        sys.exit(_WRONG_USE)
    except PenstockError as error:
        logging.getLogger("penstock").critical("%s", error)
        sys.exit(1)


def _end_quickly() -> None:
    """Keep the interpreter's end from looking through all objects again and again.

    That takes longer than draining does. What is garbage by now is finalized first, as
    it would be. A signal that comes now has nothing to end any more.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _uvloop() -> Loop:
    # By name: whoever does not ask for it need not have it.
    factory: Loop = importlib.import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    main()
