"""What must not be left behind, and what must not be told."""

from __future__ import annotations

import asyncio
import gc
import time
import traceback
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from connection.fakes import Fake

_FILES = Path("/proc/self/fd")


def open_files() -> set[tuple[str, str]]:
    """This process's open files: number and what it leads to; Linux only."""
    found = set()
    for entry in _FILES.iterdir() if _FILES.exists() else ():
        # One of them is the listing's own.
        with suppress(OSError):
            found.add((entry.name, str(entry.readlink())))
    return found


@asynccontextmanager
async def nothing_left(
    within: float = 2.0, *, of: Fake | None = None
) -> AsyncIterator[None]:
    """Check that no file, task, warning or complaint is left by what is inside.

    The other side's part does not count, where it is this process's own fake.
    """
    loop = asyncio.get_running_loop()
    files, tasks = open_files(), asyncio.all_tasks()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    # What was before does not count, and collecting among the rest is quick.
    gc.freeze()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
            await _settled(files, tasks, of, time.monotonic() + within)
    finally:
        gc.unfreeze()
        loop.set_exception_handler(None)
    told = [str(warning.message) for warning in warned]
    if told or complaints:
        raise AssertionError(f"warnings {told}, complaints {complaints}")


async def _settled(
    files: set[tuple[str, str]],
    tasks: set[asyncio.Task[Any]],
    of: Fake | None,
    deadline: float,
) -> None:
    while True:
        gc.collect()
        left = {
            *(one for one in open_files() - files if not of or one[0] not in of.files),
            *(asyncio.all_tasks() - tasks - (of.tasks if of else set())),
        }
        if not left:
            break
        if time.monotonic() > deadline:
            raise AssertionError(f"left: {left}")
        await asyncio.sleep(0.002)
    # What is closed and referred to by nobody may still complain when it goes.
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()


def chain(error: BaseException) -> list[BaseException]:
    """An exception and all those behind it, suppressed ones included."""
    found: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        one = ahead.pop()
        if one is not None and one not in found:
            found.append(one)
            ahead += [one.__cause__, one.__context__]
    return found


def all_told(error: BaseException) -> str:
    """Everything that an exception can tell: traceback, texts, arguments, fields."""
    lines = traceback.format_exception(error)
    for one in chain(error):
        lines += [str(one), repr(one), repr(one.args), repr(vars(one))]
    return "\n".join(lines)
