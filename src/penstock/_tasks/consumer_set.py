"""Several consumers with their handlers, which open, run and drain as one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import anyio

from penstock._tasks.lifetime import Lifetime, enter, is_inside, task_group
from penstock.errors import UsageError
from penstock.events import Event, OnEvent

__all__ = ["ConsumerSet", "SetMember"]


class RunnableConsumer(Protocol):
    """What a part needs of its consumer."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class SetMember:
    """A consumer, and what it does.

    Attributes:
        consumer: To be opened.
        run: Has its messages handled until it closes.
        facts: What it is called in events.
        on_event: Told when it fails for good.
    """

    consumer: RunnableConsumer
    run: Callable[[], Awaitable[None]]
    facts: Mapping[str, object]
    on_event: OnEvent


class ConsumerSet:
    """The life of several parts, from opening to closed; lived once.

    Nothing is handled before all are open. When one fails, be it in opening, the
    others drain, and then its error is raised.

    Args:
        parts: They.
    """

    def __init__(self, members: Sequence[SetMember]) -> None:
        self._members = members
        self._loop = asyncio.get_running_loop()
        # Those that are open, and how many have not come to be open or to an end.
        self._open: dict[SetMember, None] = {}
        self._opening = len(members)
        self._all_opened = asyncio.Event()
        # Set when all are to drain; and the same, known before its turn came.
        self._stop_requested = asyncio.Event()
        self._stopping = False
        # Why it ends, if that is not by our user's wish.
        self._failure: BaseException | None = None
        # Called when a part has failed, while a block of our user's runs.
        self.on_failure: Callable[[], None] | None = None
        # In the context of all that the parts do, and of their handlers.
        self._token = object()

    @property
    def open(self) -> tuple[Any, ...]:
        """The consumers that are open, in their order."""
        return tuple(
            member.consumer for member in self._members if member in self._open
        )

    @property
    def ready(self) -> bool:
        """Whether all are open, and none is to drain."""
        return len(self._open) == len(self._members) and not self._stopping

    def stop(self) -> None:
        """Drain; from any task, thread or signal handler."""
        self._stopping = True
        with suppress(RuntimeError):  # the loop has closed: that is stopped, too
            self._loop.call_soon_threadsafe(self._stop_requested.set)

    async def wait(self) -> None:
        """Wait until it is to drain."""
        await self._stop_requested.wait()

    @property
    def failed(self) -> bool:
        """Whether a part has failed for good."""
        return self._failure is not None

    def is_inside(self) -> bool:
        """Return whether the caller is a handler of a part, or was started by one."""
        return is_inside(self._token)

    @asynccontextmanager
    async def live(self, lifetime: Lifetime[ConsumerSet]) -> AsyncIterator[ConsumerSet]:
        """Open all, and drain all when it is left.

        Handlers finish, also when the block that is left has raised. They are
        cancelled when it was cancelled, or when nobody holds this any more.

        Raises:
            BaseException: What the first part raised that failed.
        """
        async with task_group() as tasks:
            for member in self._members:
                tasks.start_soon(self._serve, member)
            await self._all_opened.wait()
            if self._failure is None:
                try:
                    yield self
                finally:
                    self._stopping = True
                    if not lifetime.drains:
                        tasks.cancel_scope.cancel()
            self._stop_requested.set()
        if self._failure is not None:
            raise self._failure

    async def _serve(self, member: SetMember) -> None:
        enter(self._token)
        running = anyio.CancelScope()
        try:
            async with task_group() as tasks:
                tasks.start_soon(
                    self._close_on_stop, member, tasks.cancel_scope, running
                )
                async with member.consumer:
                    self._open[member] = None
                    self._count_opened()
                    await self._all_opened.wait()
                    with running:
                        if not self._stop_requested.is_set():
                            await member.run()
                            self._check_stopping(member)
                tasks.cancel_scope.cancel()
        except asyncio.CancelledError:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            self._on_failed(member, _ended_alone(member, "its task was cancelled"))
        # SystemExit too, which would stop the event loop if it got out of this task.
        except BaseException as error:  # noqa: BLE001 - raised by `live`
            self._on_failed(member, error)
        finally:
            self._on_ended(member)

    async def _close_on_stop(
        self, member: SetMember, opening: anyio.CancelScope, running: anyio.CancelScope
    ) -> None:
        await self._stop_requested.wait()
        if member not in self._open:
            opening.cancel()
            return
        await member.consumer.aclose()
        # Handlers that have not come to their end within the consumer's
        # `close_timeout`: their messages have been given back.
        running.cancel()

    def _on_ended(self, member: SetMember) -> None:
        if member in self._open:
            del self._open[member]
        else:
            self._count_opened()
        # After the last one there is nothing to wait for.
        if not self._open and self._all_opened.is_set():
            self._stopping = True
            self._stop_requested.set()

    def _check_stopping(self, member: SetMember) -> None:
        """Check that a consumer has ended because all do.

        Raises:
            UsageError: It has ended alone.
        """
        if not self._stopping and not self._stop_requested.is_set():
            raise _ended_alone(member, "somebody closed it")

    def _count_opened(self) -> None:
        self._opening -= 1
        if not self._opening:
            self._all_opened.set()

    def _on_failed(self, member: SetMember, error: BaseException) -> None:
        facts = {**member.facts, "error": type(error).__name__}
        member.on_event(Event("consumer_failed", logging.ERROR, facts, error))
        self._stopping = True
        self._stop_requested.set()
        if self._failure is None:
            self._failure = error
            if self.on_failure is not None:
                self.on_failure()


def _ended_alone(member: SetMember, why: str) -> UsageError:
    streams = member.facts.get("streams")
    return UsageError(
        f"the consumer of {streams} ended while its router was running: {why}; end all "
        f"of them by router.stop()"
    )
