"""Lifetimes: what is open belongs to a task of its own, from opening to closed.

anyio's task groups and cancel scopes have to be left by the task that entered them.
Users open in one task and close in another: fixtures, start and stop hooks, exit
stacks, generators that the event loop finalizes. So neither of those tasks holds
anything. One task, the owner, opens, waits, and closes; all others only ask it to.
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

from penstock._connection.fork import hold
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

# Turns of the event loop until whoever has cancelled all tasks, and waited for them,
# can say that this was to be closed. asyncio.run() has more of them at its end.
_TURNS: Final = 2

_INSIDE: Final[ContextVar[frozenset[object]]] = ContextVar(
    "penstock_inside", default=frozenset()
)


def enter(token: object) -> None:
    """Mark the current context, and all that is started from it, as inside of it."""
    _INSIDE.set(_INSIDE.get() | {token})


def is_inside(token: object) -> bool:
    """Return whether the caller, or what started it, has entered this token.

    Tasks and threads inherit the context of whoever started them. So this also finds
    a handler that waits for a child task.
    """
    return token in _INSIDE.get()


class LoopBinding:
    """The event loop and the thread in which something was opened.

    Args:
        what: What was opened, for the error.
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
            UsageError: It is one.
        """
        # A thread runs one loop at a time. (To ask which one costs a system call before
        # Python 3.12.) Where none runs, a plain call between two runs of ours is fine.
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
    """One opening of something, from the first connection to the last.

    Args:
        live: Opens and closes it, in the owner task.
        what: What it is, for errors.
    """

    _error: BaseException | None = None

    def __init__(self, live: Live[S], what: str) -> None:
        self.home = LoopBinding(what)
        # What was opened, until it has closed.
        self.thing: S | None = None
        # Who asked to leave it in good order, and what the block that is left raised.
        self.leaving: asyncio.Task[Any] | None = None
        self.raised: type[BaseException] | None = None
        # How it is named in warnings.
        self.label = what
        # Whether nothing of it is left; and whether somebody has asked to leave.
        self.over = False
        self.left = False
        self._live = live
        self._what = what
        self._order = asyncio.Event()
        self._opened = asyncio.Event()
        self._ended = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        hold(self)

    def forked(self) -> None:
        """Count as over in a forked child: the parent goes on with it."""
        self.thing = None
        self.over = True

    async def open(self) -> None:
        """Open it; cancelling this closes it again before the cancellation is raised.

        Raises:
            BaseException: What opening raised.
        """
        self._owner = self.home.loop.create_task(
            self._own(), name=f"penstock {self._what}"
        )
        self._owner.add_done_callback(self._end)
        try:
            await self._opened.wait()
        except asyncio.CancelledError:
            self.leave(None)
            try:
                await shielded_until_done(self._ended.wait)
            finally:
                self.take_error()
            raise
        if self.over:
            self.raise_error()
            raise ClosedError(self._what)

    async def _own(self) -> None:
        with quietly():
            try:
                async with self._live(self) as self.thing:
                    self._opened.set()
                    await self._order.wait()
            except asyncio.CancelledError:
                pass
            except BaseException as error:  # noqa: BLE001 - raised by whoever leaves
                self._error = error
            owner = asyncio.current_task()
            if owner is not None and owner.cancelling() and not self.left:
                # By asyncio.run() at its end, which cancels all tasks there are.
                self.home.loop.call_soon(self._warn, _TURNS)

    def _warn(self, turns: int) -> None:
        """Warn, unless it is left within some turns of the event loop."""
        if turns and not self.left:
            self.home.loop.call_soon(self._warn, turns - 1)
        elif not self.left:
            text = f"{self.label} was not closed before its event loop was shut down"
            warnings.warn(f"{text}; await its aclose()", ResourceWarning, stacklevel=1)

    def _end(self, _: asyncio.Task[None]) -> None:
        self._owner = None
        self.thing = None
        self.over = True
        self._opened.set()
        self._ended.set()

    def leave(
        self,
        by: asyncio.Task[Any] | None,
        raised: type[BaseException] | None = None,
    ) -> None:
        """Ask the owner to close, if nobody has asked before.

        Args:
            by: The task that leaves in good order; None if it does not.
            raised: What kind of exception ended the block that is left.
        """
        if self.left:
            return
        self.left = True
        self.leaving, self.raised = by, raised
        if self._owner is not None and not self._opened.is_set():
            self._owner.cancel()
        self._order.set()

    @property
    def drains(self) -> bool:
        """Whether what has begun is to be finished: it was left by no cancellation."""
        by_error = self.raised is not None and issubclass(self.raised, Exception)
        return self.leaving is not None or by_error

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left, or the event loop that it needs is closed."""
        return self.over or self.home.loop.is_closed()

    async def wait(self) -> None:
        """Wait until it has closed."""
        await self._ended.wait()

    def raise_error(self) -> None:
        """Raise why it ended, once.

        Raises:
            BaseException: What opening or closing raised, or a task in the background.
        """
        error = self.take_error()
        if error is not None:
            try:
                raise error
            finally:
                # It holds this frame.
                del error

    def take_error(self) -> BaseException | None:
        """Return why it ended, once."""
        error, self._error = self._error, None
        return error

    def drop(self) -> bool:
        """Close it because nobody holds it any more; return whether it was open.

        Called by the garbage collector, so by any thread.
        """
        if self.over or self.left:
            return False
        if not self.home.loop.is_closed():
            self.home.loop.call_soon_threadsafe(self.leave, None)
        return True

    def __del__(self) -> None:
        if self._error is not None and not self.home.loop.is_closed():
            # As asyncio does for a task whose exception nobody has asked for.
            text = f"{self.label} failed, and nobody left it"
            context = {"message": text, "exception": self._error}
            self.home.loop.call_exception_handler(context)


Live: TypeAlias = Callable[[Lifetime[S]], AbstractAsyncContextManager[S]]
"""Opens something and closes it again, told by the lifetime in which way."""


class Openable(ABC, Generic[S]):
    """Opened and closed any number of times, from any task, once at a time.

    By `async with`, or by `start` and `aclose`.
    """

    # The last opening.
    _lifetime: Lifetime[S] | None = None
    # Whether it was opened by `async with`, whose end tells what failed.
    _by_block = False

    @abstractmethod
    def _living(self) -> Live[S]:
        """Return what opens and closes it; it must not refer to this object.

        The owner would keep it alive, and nobody could tell that it was dropped.
        """

    def _shut(self) -> None:
        """Refuse new work from now on: it is about to be closed."""

    def _closes_later(self) -> bool:
        """Return whether the caller is what closing waits for; then arrange for it."""
        return False

    @property
    def _what(self) -> str:
        return type(self).__name__.lower()

    async def start(self) -> None:
        """Open it, as entering `async with` does; `aclose` closes it.

        The two need not be called by the same task. Cancelling this undoes the
        opening, and is raised when nothing is left open.

        Raises:
            UsageError: It is open already.
            PenstockError: What entering `async with` raises.

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
            state = "closing; await aclose() first" if last.left else "open already"
            raise UsageError(f"this {self._what} is {state}, or make another one")
        self._lifetime = lifetime = Lifetime(self._living(), self._what)
        self._by_block = by_block
        await lifetime.open()
        lifetime.label = repr(self)

    async def aclose(self) -> None:
        """Close it in good order; from any task. When it is closed, do nothing.

        Cancelling this gives up the wait: it closes all the same.

        Raises:
            UsageError: Called in another event loop or thread; nothing was done.
            PenstockError: What failed in the background and nobody has been told,
                if it was opened by `start`.
        """
        lifetime = self._lifetime
        if lifetime is None:
            return
        if lifetime.gone:
            lifetime.left = True
        else:
            lifetime.home.check()
            self._shut()
            if self._closes_later():
                return
            lifetime.leave(asyncio.current_task())
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
        lifetime = await self._leave(kind)
        if error is None:
            lifetime.raise_error()
        elif (failure := lifetime.take_error()) is not None:
            error.add_note(f"besides, the {self._what} failed: {failure!r:.200}")
        return None

    async def _leave(self, kind: type[BaseException] | None) -> Lifetime[S]:
        """Close it because its block ends."""
        lifetime = self._lifetime
        assert lifetime is not None  # noqa: S101 - `async with` pairs them
        if lifetime.gone:
            lifetime.left = True
        else:
            lifetime.home.check()
            self._shut()
            lifetime.leave(None if kind else asyncio.current_task(), kind)
            await shielded_until_done(lifetime.wait)
        return lifetime

    def __del__(self) -> None:
        if self._lifetime is not None and self._lifetime.drop():
            text = f"{self!r} was dropped while it was open; await its aclose()"
            # It shows where the object was allocated, by `tracemalloc`. That has to be
            # imported already: its import may run the garbage collector, and that this.
            warnings.warn(text, ResourceWarning, stacklevel=1, source=self)


class quietly:  # noqa: N801 - reads as a statement
    """Let the current task be destroyed without a word, should its loop be closed.

    There is nobody then to run what it would have to wait for; `ResourceWarning` is
    what tells of it.
    """

    def __enter__(self) -> None:
        task: Any = asyncio.current_task()
        # As asyncio's own gather() does for tasks that it answers for.
        task._log_destroy_pending = False  # noqa: SLF001

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        # Python destroys the coroutine: what is raised here it would print.
        return running_loop() is None


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """Open a task group; what leaves it is one plain exception, never a group.

    That background tasks exist is our affair, and `except ValueError` around a
    consumer must go on to work (trio does the same for its own APIs,
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

    What is closed half would never be closed: its tasks don't end by themselves. The
    cancellation is raised when that is over.

    Args:
        end: Waits for it; called again after each cancellation.
        patience: Seconds at most; default: as long as it takes.
    """
    loop = asyncio.get_running_loop()
    deadline = None if patience is None else loop.time() + patience
    cancelled: asyncio.CancelledError | None = None
    # The shield is against anyio's cancellations, which come again with every await;
    # one of asyncio's comes once a call.
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
