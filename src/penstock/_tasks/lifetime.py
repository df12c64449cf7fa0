"""Task groups whose errors come out plain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__all__ = ["task_group"]


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
