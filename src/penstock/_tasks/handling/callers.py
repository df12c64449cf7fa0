"""Callers of `next`, `take` and loops, and whether a call's result reached its caller.

A call of `next`, `take` or a loop's `__anext__` belongs to its *caller*: the task that
made it, which need not be the task that awaits it. `gather`, `create_task` and, before
Python 3.12, `wait_for` run the call in a task of its own, and its result may never
reach its caller: `gather` drops the results it has when it is cancelled.

asyncio does not show whether a result was fetched. Two facts do: the message's payload,
key or headers have been read; or something other than the task still refers to the
message when the task is freed, which happens as soon as nothing refers to the task any
more. If neither is true, the message counts as not received: it is delivered again
rather than lost.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, TypeVar

from penstock._core.ledger.entry import Entry
from penstock.message import Message

__all__ = ["CallResult", "Caller", "current_caller", "has_ended", "this_task"]

T = TypeVar("T")

Caller: TypeAlias = "asyncio.Task[Any] | threading.Thread | None"
"""A task, or a thread where no event loop runs; None for a callback of the loop."""


def current_caller() -> Caller:
    """Return the task or thread that is calling."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return threading.current_thread()


def has_ended(caller: Caller) -> bool:
    """Return whether a caller can't call again; a callback of the loop never does."""
    if isinstance(caller, threading.Thread):
        return not caller.is_alive()
    return caller is None or caller.done()


def this_task() -> asyncio.Task[Any]:
    """Return the running task."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks
    return task


class CallResult:
    """The result of a call that ran in another task than its caller's.

    Args:
        entries: The entries in the result.

    Attributes:
        entries: The entries in the result.
    """

    __slots__ = ("_outlived", "_read", "_result", "_task", "entries")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self._read = False
        # Whether the result outlived its task; None while the task exists.
        self._outlived: bool | None = None
        self._result: Any = None
        self._task: object = None

    @property
    def received(self) -> bool | None:
        """Whether the result has reached the caller; None if that is not known yet."""
        return True if self._read else self._outlived

    def tracked(self, message: Message[T]) -> Message[T]:
        """Return a copy of a message that records here when it is read."""
        settler: Any = _ReadTracker(self, message)
        # The copy has the same entry and the same fields.
        return Message(message._entry, settler, message._fields)  # noqa: SLF001

    def mark_read(self) -> None:
        """Record that a message has been read."""
        self._read = True

    def track_result(self, result: object, task: asyncio.Task[Any]) -> None:
        """Find out whether a result outlives its task, when the task is freed.

        Args:
            result: The result: a message or a list of messages.
            task: The task that returns it.
        """
        self._result = result
        self._task = weakref.ref(task, self._on_task_freed)

    def _on_task_freed(self, _: object) -> None:
        # The task still has the result at this moment. This runs wherever the task is
        # freed, in any thread, so it only takes a note.
        self._outlived = _references(self._result) > _UNSHARED or (
            isinstance(self._result, list)
            and any(
                _references(self._result[index]) > _UNSHARED_IN_LIST
                for index in range(len(self._result))
            )
        )
        self._result = None


class _ReadTracker:
    """Serves a message as its settler does, and records that it is read."""

    __slots__ = ("_call_result", "_payload", "_settler")

    def __init__(self, call_result: CallResult, message: Message[Any]) -> None:
        self._call_result = call_result
        self._settler = message._settler  # noqa: SLF001 - it is replaced
        self._payload = message._payload  # noqa: SLF001

    def payload(self, *_: object) -> object:
        """Return the payload, which has been decoded before."""
        self._call_result.mark_read()
        return self._payload

    def __getattr__(self, name: str) -> Any:
        self._call_result.mark_read()
        return getattr(self._settler, name)


def _references(result: object) -> int:
    return sys.getrefcount(result)


def _count_unshared() -> int:
    """Count the references to a result that only its `CallResult` and its task have."""
    call_result, task = [object()], list[object]()
    task.append(call_result[0])
    return _references(call_result[0])


_UNSHARED: Final = _count_unshared()
# The references to a message in such a list, which only the list has.
_UNSHARED_IN_LIST: Final = _UNSHARED - 1
