"""Lifetimes: an open object belongs to a task of its own, from opening to closing.

anyio's task groups and cancel scopes must be left by the task that entered them. Users
open in one task and close in another: fixtures, start and stop hooks, exit stacks,
generators that the event loop finalizes. So neither of those tasks holds anything. One
task, the owner, opens, waits, and closes; all other tasks only request it.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from contextlib import (
    AbstractAsyncContextManager,
)
from typing import Any, Final, Generic, TypeAlias, TypeVar

from penstock._connection.fork import notify_on_fork
from penstock._tasks.loop_binding import LoopBinding
from penstock._tasks.task_scopes import quietly, shielded_until_done
from penstock.errors import ClosedError

__all__ = [
    "Lifetime",
    "Live",
]

S = TypeVar("S")

# The turns of the event loop within which code that has cancelled all tasks, and waited
# for them, may still close the object. asyncio.run() runs more turns than that at its
# end.
_TURNS: Final = 2


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
            text = f"{self.label} failed, and was never closed"
            context = {"message": text, "exception": self._error}
            self.binding.loop.call_exception_handler(context)


Live: TypeAlias = Callable[[Lifetime[S]], AbstractAsyncContextManager[S]]
"""Opens an object and closes it again; the lifetime says whether cleanly."""
