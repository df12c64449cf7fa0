"""Lifetimes: what is open once at a time, and whose errors come out plain."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from penstock.errors import UsageError

__all__ = ["Openable", "seen_through", "task_group"]


class Openable(ABC):
    """Opened with `async with`, any number of times, once at a time.

    The whole lifetime is one async generator, so that it can be read from top to
    bottom. (anyio's `AsyncContextManagerMixin` is the same, but what it raises for a
    second opening is no error of ours.)
    """

    # Set while it is open, and while it opens.
    _lifetime: AbstractAsyncContextManager[object] | None = None

    @abstractmethod
    def _live(self) -> AbstractAsyncContextManager[object]:
        """Give the lifetime, from opening to closed."""

    async def __aenter__(self) -> Self:
        if self._lifetime is not None:
            what = type(self).__name__.lower()
            raise UsageError(f"this {what} is open already; make another one")
        self._lifetime = self._live()
        try:
            await self._lifetime.__aenter__()
        except BaseException:
            self._lifetime = None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._lifetime is not None  # noqa: S101 - `async with` pairs them
        try:
            return await self._lifetime.__aexit__(kind, error, traceback)
        finally:
            self._lifetime = None


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """Open a task group; a single error in it leaves as itself, not as a group.

    That background tasks exist is our affair, and `except ValueError` around a
    consumer must go on to work (trio does the same for its own APIs,
    `raise_single_exception_from_group`).
    """
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, BaseExceptionGroup):
            raise
        # The group adds nothing, and as context it would only repeat the traceback.
        raise error from error.__cause__


async def seen_through(
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
