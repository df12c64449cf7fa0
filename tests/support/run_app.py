"""A module with routers that `penstock run` runs in the tests.

Handlers write their payloads to a journal, one line for each message, and do what some
of the payloads say.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

from penstock import Claim, Message, Router

_journal = os.open(os.environ["TEST_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_gate = os.environ.get("TEST_GATE")
_hooks = "TEST_HOOKS" in os.environ
_delay = float(os.environ.get("TEST_DELAY", "0"))

while _gate and not Path(_gate).exists():  # a slow import
    time.sleep(0.005)

_lease = float(os.environ.get("TEST_LEASE", "60"))

router = Router(close_timeout=60, claim=Claim(idle=_lease))
deep = SimpleNamespace(er=router)
empty = Router()
ordered = Router()
number = 5


@router.handler(os.environ["TEST_STREAM"], group="g", concurrency=4)
async def note(message: Message[bytes]) -> None:
    """Do what the payload says, and write it to the journal."""
    match message.payload:
        case b"hang":
            write(b"hangs")
            await asyncio.Event().wait()
        case b"block once" if message.attempt > 1:
            write(b"unblocked")
        case b"block" | b"block once":
            write(b"blocks")
            time.sleep(60)  # noqa: ASYNC251 - as a bad handler does
        case b"doze":
            write(b"dozes")
            while not Path(os.environ["TEST_GATE"]).exists():
                time.sleep(0.01)  # noqa: ASYNC251 - as a slow query does
        case b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"exit 2" if message.attempt == 1:
            raise SystemExit(2)
        case b"fail" if message.attempt == 1:
            raise ValueError("canary")
        case b"stop":
            router.stop()
        case b"wait" if message.attempt == 1:
            raise ValueError("to be retried")
        case b"loop":
            write(type(asyncio.get_running_loop()).__module__.encode())
    await asyncio.sleep(_delay)
    write(message.payload)


def write(line: bytes) -> None:
    """Append a line by one write, so that several processes can share the file."""
    os.write(_journal, line + b"\n")


def make() -> Router:
    """Return the router, as a factory does."""
    return router


@router.on_start
async def start() -> None:
    """Write down that it starts, if that is to be seen."""
    if _hooks:
        write(b"starts")


@router.on_stop
async def stop() -> None:
    """Write down that it stops."""
    if _hooks:
        write(b"stops")


@ordered.handler(os.environ["TEST_STREAM"], group="g", ordering="key")
async def keep_order(message: Message[bytes]) -> None:
    """Write the payload, in the order of its key."""
    write(message.payload)
