"""Lifetimes: an open object belongs to a task of its own, from opening to closing.

anyio's task groups and cancel scopes must be left by the task that entered them. Users
open in one task and close in another: fixtures, start and stop hooks, exit stacks,
generators that the event loop finalizes. So neither of those tasks holds anything. One
task, the owner, opens, waits, and closes; all other tasks only request it.
"""

from __future__ import annotations

import asyncio
import os
import tracemalloc  # noqa: F401 - see `Openable.__del__`
import warnings
from abc import ABC, abstractmethod
from asyncio import _get_running_loop as running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup

from penstock._connection.fork import notify_on_fork
from penstock.errors import ClosedError, UsageError

__all__ = [
    "Lifetime",
    "Live",
    "LoopBinding",
    "Openable",
    "StoppableTask",
    "enter",
    "is_inside",
    "quietly",
    "running_loop",
    "shielded_until_done",
    "task_group",
]

S = TypeVar("S")

# The turns of the event loop within which code that has cancelled all tasks, and waited
# for them, may still close the object. asyncio.run() runs more turns than that at its
# end.
_TURNS: Final = 2

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
                f"this {self._what} was opened by the process that this one was forked "
                f"from, which goes on to use it; open one of its own in the child"
            )
        raise UsageError(
            f"this {self._what} was opened in another event loop or thread, and "
            f"nothing was done; call it there, with "
            f"asyncio.run_coroutine_threadsafe(..., loop) or "
            f"loop.call_soon_threadsafe(...), or open one of its own for this loop"
        )


class Lifetime(Generic[S]):
    """One opening of an object, from the first connection to the last.

    Args:
        live: Opens and closes the object, in the owner task.
        what: The kind of object, for errors.
    """

    _error: BaseException | None = None

    def __init__(self, live: Live[S], what: str) -> None:
        self.binding = LoopBinding(what)
        # The opened object, until it has closed.
        self.resource: S | None = None
        # The task that requested a clean close, and the type of the exception that
        # ended the block.
        self.closing_task: asyncio.Task[Any] | None = None
        self.raised: type[BaseException] | None = None
        # The object's name in warnings.
        self.label = what
        # Whether it has closed completely; and whether closing has been requested.
        self.closed = False
        self.close_requested = False
        self._live = live
        self._what = what
        self._close_event = asyncio.Event()
        self._opened = asyncio.Event()
        self._ended = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        notify_on_fork(self)

    def forked(self) -> None:
        """Count as closed in a forked child: the parent goes on using the object."""
        self.resource = None
        self.closed = True

    async def open(self) -> None:
        """Open the object; if cancelled, close it again first.

        Raises:
            BaseException: The error of opening.
        """
        self._owner = self.binding.loop.create_task(
            self._run_owner(), name=f"penstock {self._what}"
        )
        self._owner.add_done_callback(self._on_owner_done)
        try:
            await self._opened.wait()
        except asyncio.CancelledError:
            self.request_close(None)
            try:
                await shielded_until_done(self._ended.wait)
            finally:
                self.take_error()
            raise
        if self.closed:
            self.raise_error()
            raise ClosedError(self._what)

    async def _run_owner(self) -> None:
        with quietly():
            try:
                async with self._live(self) as self.resource:
                    self._opened.set()
                    await self._close_event.wait()
            except asyncio.CancelledError:
                pass
            except BaseException as error:  # noqa: BLE001 - raised on closing
                self._error = error
            owner = asyncio.current_task()
            if owner is not None and owner.cancelling() and not self.close_requested:
                # asyncio.run() does that at its end: it cancels all tasks.
                self.binding.loop.call_soon(self._warn, _TURNS)

    def _warn(self, turns: int) -> None:
        """Warn, unless closing is requested within some turns of the event loop."""
        if turns and not self.close_requested:
            self.binding.loop.call_soon(self._warn, turns - 1)
        elif not self.close_requested:
            text = f"{self.label} was not closed before its event loop was shut down"
            warnings.warn(f"{text}; await its aclose()", ResourceWarning, stacklevel=1)

    def _on_owner_done(self, _: asyncio.Task[None]) -> None:
        self._owner = None
        self.resource = None
        self.closed = True
        self._opened.set()
        self._ended.set()

    def request_close(
        self,
        by: asyncio.Task[Any] | None,
        raised: type[BaseException] | None = None,
    ) -> None:
        """Request the owner to close, unless that was requested before.

        Args:
            by: The task that closes cleanly; None if it is not a clean close.
            raised: The type of the exception that ended the block.
        """
        if self.close_requested:
            return
        self.close_requested = True
        self.closing_task, self.raised = by, raised
        if self._owner is not None and not self._opened.is_set():
            self._owner.cancel()
        self._close_event.set()

    @property
    def drains(self) -> bool:
        """Whether work in progress is to be finished: the end was no cancellation."""
        by_error = self.raised is not None and issubclass(self.raised, Exception)
        return self.closing_task is not None or by_error

    @property
    def gone(self) -> bool:
        """Whether it has closed, or the event loop that it needs is closed."""
        return self.closed or self.binding.loop.is_closed()

    async def wait(self) -> None:
        """Wait until it has closed."""
        await self._ended.wait()

    def raise_error(self) -> None:
        """Raise the error that ended it, once.

        Raises:
            BaseException: The error of opening, of closing, or of a background task.
        """
        error = self.take_error()
        if error is not None:
            try:
                raise error
            finally:
                # The error refers to this frame.
                del error

    def take_error(self) -> BaseException | None:
        """Return the error that ended it, once."""
        error, self._error = self._error, None
        return error

    def drop(self) -> bool:
        """Close it because it is not referenced any more; return whether it was open.

        This is called by the garbage collector, and so in any thread.
        """
        if self.closed or self.close_requested:
            return False
        if not self.binding.loop.is_closed():
            self.binding.loop.call_soon_threadsafe(self.request_close, None)
        return True

    def __del__(self) -> None:
        if self._error is not None and not self.binding.loop.is_closed():
            # As asyncio does for a task whose exception was never retrieved.
            text = f"{self.label} failed, and nobody left it"
            context = {"message": text, "exception": self._error}
            self.binding.loop.call_exception_handler(context)


Live: TypeAlias = Callable[[Lifetime[S]], AbstractAsyncContextManager[S]]
"""Opens an object and closes it again; the lifetime says whether cleanly."""


class Openable(ABC, Generic[S]):
    """An object that can be opened and closed any number of times, from any task.

    It is open once at a time: by `async with`, or by `start` and `aclose`.
    """

    # The last opening.
    _lifetime: Lifetime[S] | None = None
    # Whether it was opened by `async with`; then the end of the block raises errors.
    _by_block = False

    @abstractmethod
    def _opener(self) -> Live[S]:
        """Return the function that opens and closes this.

        The function must not refer to this object. Otherwise the owner would keep the
        object alive, and nothing could notice that the user has dropped it.
        """

    def _shut(self) -> None:
        """Refuse new work from now on: closing begins."""

    def _closes_later(self) -> bool:
        """Return whether closing waits for the caller; then arrange to close later."""
        return False

    @property
    def _what(self) -> str:
        return type(self).__name__.lower()

    async def start(self) -> None:
        """Open it, as entering `async with` does; `aclose` closes it.

        The two need not be called by the same task. Cancelling this undoes the opening;
        the cancellation is raised when nothing is open any more.

        Raises:
            UsageError: It is open already.
            PenstockError: The error that entering `async with` raises.

        Example:
            ```python
            await consumer.start()
            try:
                message = await consumer.next()
            finally:
                await consumer.aclose()
            ```
        """
        await self._start(by_block=False)

    async def _start(self, *, by_block: bool) -> None:
        last = self._lifetime
        if last is not None and not last.gone:
            state = (
                "closing; await aclose() first"
                if last.close_requested
                else "open already"
            )
            raise UsageError(f"this {self._what} is {state}, or make another one")
        self._lifetime = lifetime = Lifetime(self._opener(), self._what)
        self._by_block = by_block
        await lifetime.open()
        lifetime.label = repr(self)

    async def aclose(self) -> None:
        """Close it cleanly; from any task. When it is closed, do nothing.

        Cancelling this ends the wait, but not the closing.

        Raises:
            UsageError: This was called in another event loop or thread; nothing was
                done.
            PenstockError: An error in the background that was not raised before, if it
                was opened by `start`.
        """
        lifetime = self._lifetime
        if lifetime is None:
            return
        if lifetime.gone:
            lifetime.close_requested = True
        else:
            lifetime.binding.check()
            self._shut()
            if self._closes_later():
                return
            lifetime.request_close(asyncio.current_task())
            await lifetime.wait()
        if not self._by_block:
            lifetime.raise_error()

    async def __aenter__(self) -> Self:
        await self._start(by_block=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        lifetime = await self._close_block(kind)
        if error is None:
            lifetime.raise_error()
        elif (failure := lifetime.take_error()) is not None:
            error.add_note(f"besides, the {self._what} failed: {failure!r:.200}")
        return None

    async def _close_block(self, kind: type[BaseException] | None) -> Lifetime[S]:
        """Close it because its block ends."""
        lifetime = self._lifetime
        assert lifetime is not None  # noqa: S101 - `async with` pairs them
        if lifetime.gone:
            lifetime.close_requested = True
        else:
            lifetime.binding.check()
            self._shut()
            lifetime.request_close(None if kind else asyncio.current_task(), kind)
            await shielded_until_done(lifetime.wait)
        return lifetime

    def __del__(self) -> None:
        if self._lifetime is not None and self._lifetime.drop():
            text = f"{self!r} was dropped while it was open; await its aclose()"
            # The warning shows where the object was allocated, by `tracemalloc`. That
            # must be imported already: its import may run the garbage collector, which
            # may call this.
            warnings.warn(text, ResourceWarning, stacklevel=1, source=self)


class quietly:  # noqa: N801 - reads as a statement
    """Silences the current task, in case its loop is closed before the task has ended.

    There is no loop any more then that could run what the task would wait for; a
    `ResourceWarning` reports it instead.
    """

    def __enter__(self) -> None:
        task: Any = asyncio.current_task()
        # As asyncio's own gather() does for the tasks whose errors it reports.
        task._log_destroy_pending = False  # noqa: SLF001

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        # Python destroys the coroutine, and would print an exception that is raised
        # here.
        return running_loop() is None


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """Open a task group that raises one plain exception, never an exception group.

    Background tasks are an implementation detail, and `except ValueError` around a
    consumer must keep working (trio does the same for its own APIs,
    `raise_single_exception_from_group`).
    """
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as errors:
        first, *others = _leaves(errors)
        for other in others:
            first.add_note(f"at the same time, another task raised {other!r:.200}")
        # The group adds nothing, and as context it would only repeat the traceback.
        raise first from first.__cause__


def _leaves(errors: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class StoppableTask:
    """A background task that ends in order, or when it is cut.

    The task is shielded: what cancels the task that holds the consumer must not keep
    the consumer from being closed in order, and closing ends the task.
    """

    def __init__(self) -> None:
        self._stopping = False
        self.revive()

    def revive(self) -> None:
        """Prepare the task to run, also after it has ended."""
        self._scope = anyio.CancelScope(shield=True)
        self._ended = asyncio.Event()

    @contextmanager
    def _until_cut(self) -> Iterator[None]:
        """Run a block until it is cut, then record that the task has ended."""
        try:
            with self._scope:
                yield
        finally:
            self._ended.set()

    def cut(self) -> None:
        """End the task now."""
        self._scope.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether the task has ended."""
        return self._ended.is_set()

    async def ended(self) -> None:
        """Wait until the task has ended. It records nothing after that."""
        await self._ended.wait()


async def shielded_until_done(
    end: Callable[[], Awaitable[object]], patience: float | None = None
) -> None:
    """Wait for an end, however often this task is cancelled meanwhile.

    An object that is half closed would never be closed: its tasks do not end by
    themselves. The cancellation is raised when the wait is over.

    Args:
        end: Waits for the end; called again after each cancellation.
        patience: The most seconds; default: no limit.
    """
    loop = asyncio.get_running_loop()
    deadline = None if patience is None else loop.time() + patience
    cancelled: asyncio.CancelledError | None = None
    # The shield is against anyio's cancellations, which are repeated at every await;
    # one of asyncio's arrives once for each call of `cancel`.
    with anyio.CancelScope(shield=True):
        while deadline is None or loop.time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    await end()
            except TimeoutError:
                break
            except asyncio.CancelledError as error:
                cancelled = error
            else:
                break
    if cancelled is not None:
        raise cancelled
