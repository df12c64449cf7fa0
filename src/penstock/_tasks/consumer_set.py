"""Consumer sets: consumers with their handlers, which open, run and drain as one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol

import anyio

from penstock._tasks.lifetime import Lifetime
from penstock._tasks.loop_binding import enter, is_inside
from penstock._tasks.task_scopes import task_group
from penstock.errors import UsageError
from penstock.events import Event, OnEvent

__all__ = ["LONGEST_SILENCE", "ConsumerSet", "SetMember"]

# Seconds without an answer from the server after which a router is not ready. A server
# that fails over, or saves a snapshot, may take some.
LONGEST_SILENCE: Final = 15.0


class RunnableConsumer(Protocol):
    """The methods that a set needs of a consumer."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

    async def aclose(self) -> None: ...

    @property
    def silent_for(self) -> float: ...


@dataclass(frozen=True, slots=True, eq=False)
class SetMember:
    """A consumer of a set, and how it is run.

    Attributes:
        consumer: The consumer, not open yet.
        run: Handles its messages until it closes.
        facts: Its description in events.
        on_event: Called when it fails for good.
        on_open: Called when the consumer is open; may raise what is wrong with it.
    """

    consumer: RunnableConsumer
    run: Callable[[], Awaitable[None]]
    facts: Mapping[str, object]
    on_event: OnEvent
    on_open: Callable[[], None] = lambda: None


class ConsumerSet:
    """Runs several consumers once, from opening to closing.

    No message is handled before all consumers are open. When a consumer fails, even
    while opening, the others drain, and then its error is raised.

    Args:
        members: The consumers, in the order of `open`.
    """

    def __init__(self, members: Sequence[SetMember]) -> None:
        self._members = members
        self._loop = asyncio.get_running_loop()
        # The open consumers, and the number of those that are neither open nor ended
        # yet.
        self._open: dict[SetMember, None] = {}
        self._opening = len(members)
        self._opening_done = asyncio.Event()
        # Set when all consumers are to drain; and a flag for the same, which `stop`
        # sets at once from any thread.
        self._stop_requested = asyncio.Event()
        self._stopping = False
        # Why the set ends, if the user did not ask for it.
        self._failure: BaseException | None = None
        # Called when a consumer has failed, while a user's block runs.
        self.on_failure: Callable[[], None] | None = None
        # Is in the context of everything that the consumers and their handlers do.
        self._token = object()

    @property
    def open(self) -> tuple[Any, ...]:
        """The open consumers, in order."""
        return tuple(
            member.consumer for member in self._members if member in self._open
        )

    @property
    def silent_for(self) -> float:
        """Seconds for which the server has owed any of the consumers an answer."""
        return max((one.silent_for for one in self.open), default=0.0)

    @property
    def ready(self) -> bool:
        """Whether all consumers are open, hear from the server, and none has to drain.

        They may be without an answer for `LONGEST_SILENCE`.
        """
        all_open = len(self._open) == len(self._members) and not self._stopping
        return all_open and self.silent_for <= LONGEST_SILENCE

    def stop(self) -> None:
        """Drain all consumers; call this from any task, thread or signal handler."""
        self._stopping = True
        with suppress(RuntimeError):  # the loop is closed, so all are stopped already
            self._loop.call_soon_threadsafe(self._stop_requested.set)

    async def wait(self) -> None:
        """Wait until the consumers have to drain."""
        await self._stop_requested.wait()

    @property
    def failed(self) -> bool:
        """Whether a consumer has failed for good."""
        return self._failure is not None

    def is_inside(self) -> bool:
        """Return whether a handler of a consumer is calling, or a task it started."""
        return is_inside(self._token)

    @asynccontextmanager
    async def live(self, lifetime: Lifetime[ConsumerSet]) -> AsyncIterator[ConsumerSet]:
        """Open all consumers, and drain all of them when the block ends.

        Handlers finish, even if the block has raised. They are cancelled if the block
        was cancelled, or if the object was dropped.

        Raises:
            BaseException: The error of the first consumer that failed.
        """
        async with task_group() as tasks:
            for member in self._members:
                tasks.start_soon(self._serve, member)
            await self._opening_done.wait()
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
                    member.on_open()
                    self._open[member] = None
                    self._opening_ended()
                    await self._opening_done.wait()
                    with running:
                        if not self._stop_requested.is_set():
                            await member.run()
                            self._check_stopping(member)
                tasks.cancel_scope.cancel()
        except asyncio.CancelledError:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            self._on_failed(member, _ended_alone(member, "its task was cancelled"))
        # SystemExit too, which would stop the event loop if it left this task.
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
        # Cancels handlers that have not finished within the consumer's `close_timeout`:
        # their messages have been released.
        running.cancel()

    def _on_ended(self, member: SetMember) -> None:
        if member in self._open:
            del self._open[member]
        else:
            self._opening_ended()
        # After the last consumer nothing is left to wait for.
        if not self._open and self._opening_done.is_set():
            self._stopping = True
            self._stop_requested.set()

    def _check_stopping(self, member: SetMember) -> None:
        """Check that a consumer has ended because all of them end.

        Raises:
            UsageError: The consumer has ended alone.
        """
        if not self._stopping and not self._stop_requested.is_set():
            raise _ended_alone(member, "it was closed by other code")

    def _opening_ended(self) -> None:
        self._opening -= 1
        if not self._opening:
            self._opening_done.set()

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
        f"the consumer of {streams} ended while its router was running: {why}; to "
        f"stop all of its consumers, call router.stop()"
    )
