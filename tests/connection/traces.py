"""Checks for what must not be left behind, and for what errors must not reveal."""

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
    """Return this process's open files, by number and target; only on Linux."""
    found = set()
    for entry in _FILES.iterdir() if _FILES.exists() else ():
        # One of them belongs to the listing itself.
        with suppress(OSError):
            found.add((entry.name, str(entry.readlink())))
    return found


@asynccontextmanager
async def nothing_left(
    within: float = 2.0, *, of: Fake | None = None
) -> AsyncIterator[None]:
    """Check that the block leaves no file, task, warning or complaint behind.

    Args:
        within: The seconds after which files and tasks have to be gone.
        of: The fake at the other side, whose own files and tasks do not count.
    """
    loop = asyncio.get_running_loop()
    files, tasks = open_files(), asyncio.all_tasks()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    # Older objects do not count, and collecting the others is quick.
    gc.freeze()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
            await _settled(files, tasks, of, time.monotonic() + within)
    finally:
        gc.unfreeze()
        loop.set_exception_handler(None)
    messages = [str(warning.message) for warning in warned]
    if messages or complaints:
        raise AssertionError(f"warnings {messages}, complaints {complaints}")


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
    # Closed objects without references may still complain when they are collected.
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()


def chain(error: BaseException) -> list[BaseException]:
    """Return an exception and all its causes, suppressed ones included."""
    found: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        one = ahead.pop()
        if one is not None and one not in found:
            found.append(one)
            ahead += [one.__cause__, one.__context__]
    return found


def full_text(error: BaseException) -> str:
    """Return all text in an exception: traceback, texts, arguments, fields."""
    lines = traceback.format_exception(error)
    for one in chain(error):
        lines += [str(one), repr(one), repr(one.args), repr(vars(one))]
    return "\n".join(lines)
