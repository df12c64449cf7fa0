"""Binding of an open object to its event loop and thread, and of callers to it."""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop as running_loop
from contextvars import ContextVar
from threading import get_ident
from typing import Final

from penstock.errors import UsageError

__all__ = ["LoopBinding", "enter", "is_inside", "running_loop"]


_INSIDE: Final[ContextVar[frozenset[object]]] = ContextVar(
    "penstock_inside", default=frozenset()
)


def enter(token: object) -> None:
    """Mark the current context, and all that is started from it, by a token."""
    _INSIDE.set(_INSIDE.get() | {token})


def is_inside(token: object) -> bool:
    """Return whether the caller, or a task that started it, has entered this token.

    Tasks and threads inherit the context of the task that started them. So this also
    finds a handler that waits for a child task.
    """
    return token in _INSIDE.get()


class LoopBinding:
    """The event loop and the thread in which an object was opened.

    Args:
        what: The kind of object that was opened, for the error.
    """

    __slots__ = ("_process", "_what", "loop", "thread")

    def __init__(self, what: str) -> None:
        self._what = what
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self._process = os.getpid()

    def check(self) -> None:
        """Refuse a call from another event loop or thread.

        Raises:
            UsageError: The call is from another event loop or thread.
        """
        # A thread runs one loop at a time. (To find out which one costs a system call
        # before Python 3.12.) If no loop is running, a plain call between two runs of
        # this loop is fine.
        free = self.loop.is_running() or running_loop() is None
        if free and get_ident() == self.thread:
            return
        if os.getpid() != self._process:
            raise UsageError(
                f"this {self._what} was opened by the parent of this forked process, "
                f"which still uses it; open a separate one in the child"
            )
        raise UsageError(
            f"this {self._what} was opened in another event loop or thread, and this "
            f"call did nothing; call it there, with "
            f"asyncio.run_coroutine_threadsafe(..., loop) or "
            f"loop.call_soon_threadsafe(...), or open a separate one for this loop"
        )
