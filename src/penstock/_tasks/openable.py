"""Openable: the base of what users open with `async with` or `start`, and close."""

from __future__ import annotations

import asyncio
import tracemalloc  # noqa: F401 - see `Openable.__del__`
import warnings
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

from penstock._tasks.lifetime import Lifetime, Live
from penstock._tasks.task_scopes import shielded_until_done
from penstock.errors import UsageError

__all__ = ["Openable"]

S = TypeVar("S")


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
                else "already open; use it"
            )
            raise UsageError(f"this {self._what} is {state}, or create another one")
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
            error.add_note(f"in addition, the {self._what} failed: {failure!r:.200}")
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
            text = (
                f"{self!r} was garbage-collected while it was open; await its aclose()"
            )
            # The warning shows where the object was allocated, by `tracemalloc`. That
            # must be imported already: its import may run the garbage collector, which
            # may call this.
            warnings.warn(text, ResourceWarning, stacklevel=1, source=self)
