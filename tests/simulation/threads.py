"""Threads: functions that run in one, to their end in the turn in which they begin.

Their results arrive later, after as much virtual time as they have asked for. Nothing
else happens in the process while a function runs, so a run stays determined. What a
thread asks of the event loop is done at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any
from unittest.mock import patch

import anyio
from anyio import from_thread, to_thread

from simulation.loop import Loop

__all__ = ["at_end", "simulated", "sleep"]


class _Thread:
    """A function that runs.

    Attributes:
        seconds: How long it takes.
        ends: What is called when that time is over.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.ends: list[Callable[[], None]] = []


# The function that runs now.
_running: list[_Thread] = []


def sleep(seconds: float) -> None:
    """Let the running function take some time."""
    _running[-1].seconds += seconds


def at_end(callback: Callable[[], None]) -> None:
    """Have something called when the time of the running function is over."""
    _running[-1].ends.append(callback)


async def _run_sync(
    function: Callable[..., Any],
    *args: Any,
    abandon_on_cancel: bool = False,
    limiter: anyio.CapacityLimiter,
) -> Any:
    """Run a function as `anyio.to_thread.run_sync` does; cancelling waits for it."""
    async with limiter:
        with anyio.CancelScope(shield=not abandon_on_cancel):
            return await _started(partial(copy_context().run, function, *args))


def _started(function: Callable[[], Any]) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    future, thread = loop.create_future(), _Thread()
    _running.append(thread)
    try:
        result, error = function(), None
    except BaseException as caught:  # noqa: BLE001 - it belongs to who awaits it
        result, error = None, caught
    finally:
        _running.pop()

    def arrive() -> None:
        for each in thread.ends:
            each()
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    delay = thread.seconds + loop.world.chance.uniform(1e-5, 1e-3)
    loop.world.after(delay, loop.deliver, arrive)
    return future


def _check_cancelled() -> None:
    if not _running:
        raise RuntimeError("this is no thread of anyio's")


def _call_loop(function: Callable[..., Any], *args: Any) -> Any:
    _check_cancelled()
    thread = _running.pop()
    try:
        return function(*args)
    finally:
        _running.append(thread)


@contextmanager
def simulated() -> Iterator[None]:
    """Let the functions that anyio runs in threads be simulated."""
    with ExitStack() as patches:
        for module, name, function in (
            (to_thread, "run_sync", _run_sync),
            (from_thread, "run_sync", _call_loop),
            (from_thread, "check_cancelled", _check_cancelled),
        ):
            patches.enter_context(patch.object(module, name, function))
        yield
