"""Scopes of tasks: groups, shields, and tasks that stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import Any

import anyio
from anyio.abc import TaskGroup

from penstock._tasks.loop_binding import running_loop

__all__ = ["StoppableTask", "quietly", "shielded_until_done", "task_group"]


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
