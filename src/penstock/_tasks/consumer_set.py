"""Consumer sets: consumers with their handlers, which open, run and drain as one."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol

import anyio

from penstock import _clock
from penstock._tasks.hooks import Hooks
from penstock._tasks.lifetime import Lifetime
from penstock._tasks.loop_binding import enter, is_inside
from penstock._tasks.loop_watch import LoopWatch
from penstock._tasks.task_scopes import task_group
from penstock.errors import ClosedError, UsageError
from penstock.events import Event, OnEvent
from penstock.health import (
    ConsumerHealth,
    Health,
    ServiceHealth,
    WorkerHealth,
    WorkerState,
)
from penstock.statistics import Statistics

__all__ = ["LONGEST_SILENCE", "ConsumerSet", "SetMember", "health_of"]

# Seconds without an answer from the server, or without a turn of the event loop, after
# which a router is not ready. A server that fails over, or saves a snapshot, may take
# some.
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

    def statistics(self) -> Statistics: ...


class Services(Protocol):
    """Looks after the services that handlers are given."""

    def health(self) -> tuple[ServiceHealth, ...]: ...

    def around(self) -> AbstractAsyncContextManager[None]: ...


@dataclass(frozen=True, slots=True, eq=False)
class SetMember:
    """A consumer of a set, and how it is run.

    Attributes:
        consumer: The consumer, not open yet.
        run: Handles its messages until it closes.
        streams: The streams that it reads.
        group: Its group; None without one.
        lease: Seconds after which others take over what it has; None without a group.
        on_event: Called when it fails for good.
        on_open: Called when the consumer is open; may raise what is wrong with it.
        oldest_running: Returns the seconds of the longest attempt under way; None if
            that is not known.
    """

    consumer: RunnableConsumer
    run: Callable[[], Awaitable[None]]
    streams: tuple[str, ...]
    group: str | None
    lease: float | None
    on_event: OnEvent
    on_open: Callable[[], None] = lambda: None
    oldest_running: Callable[[], float | None] = lambda: None

    @property
    def facts(self) -> Mapping[str, object]:
        """Its description in events."""
        return {"streams": self.streams, "group": self.group}


class ConsumerSet:
    """Runs several consumers once, from opening to closing.

    No message is handled before all consumers are open. When a consumer fails, even
    while opening, the others drain, and then its error is raised.

    Args:
        members: The consumers, in the order of `open`.
        hooks: Called before they open and when they have closed.
        services: Looks after the services of their handlers; None without any.
        producers: The producers that their handlers are given.

    Attributes:
        members: The same, open or not.
        producers: The same, open or not.
    """

    def __init__(
        self,
        members: Sequence[SetMember],
        hooks: Hooks | None = None,
        services: Services | None = None,
        producers: Sequence[Any] = (),
    ) -> None:
        self.members = members
        self.producers = producers
        self._services = services
        self._hooks = hooks or Hooks()
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
        self._began = _clock.monotonic()
        self._watch = LoopWatch()

    @property
    def open(self) -> tuple[Any, ...]:
        """The open consumers, in order."""
        return tuple(member.consumer for member in self.members if member in self._open)

    @property
    def silent_for(self) -> float:
        """Seconds for which the server has owed any of the consumers an answer."""
        return max((one.silent_for for one in self.open), default=0.0)

    @property
    def why(self) -> str:
        """Why the consumers can't get messages; empty if they can.

        Without an answer, or without a turn of the event loop, they may be for
        `LONGEST_SILENCE`.
        """
        number = len(self._open)
        if self._stopping:
            return "draining"
        if number < len(self.members):
            return f"{number} of {len(self.members)} consumers are open"
        if (late := self._watch.late) > LONGEST_SILENCE:
            return f"the event loop has not turned for {late:.0f} s"
        if (silent := self.silent_for) > LONGEST_SILENCE:
            return f"no answer from the server for {silent:.0f} s"
        return ""

    @property
    def ready(self) -> bool:
        """Whether all consumers are open, can get messages, and none has to drain."""
        return not self.why

    def worst_loop_delay(self) -> float:
        """Return by how much the event loop was late at most, since the last call."""
        return self._watch.worst()

    def health(self) -> WorkerHealth:
        """Return how the consumers are; any thread may ask."""
        state = WorkerState.RUNNING
        if self._stopping:
            state = WorkerState.DRAINING
        elif len(self._open) < len(self.members):
            state = WorkerState.STARTING
        return WorkerHealth(
            number=1,
            pid=os.getpid(),
            state=state,
            why=self.why or None,
            uptime_seconds=round(_clock.monotonic() - self._began, 3),
            loop_delay_seconds=round(self._watch.delay, 3),
            unanswered_seconds=round(self.silent_for, 3),
            consumers=tuple(self._consumers_health()),
            services=() if self._services is None else self._services.health(),
        )

    def _consumers_health(self) -> Iterator[ConsumerHealth]:
        for member in self.members:
            if member not in self._open:
                continue
            silent = member.consumer.silent_for
            # It may be closing meanwhile, in another thread.
            with suppress(ClosedError):
                counts = member.consumer.statistics()
                oldest = member.oldest_running()
                yield ConsumerHealth(
                    streams=member.streams,
                    group=member.group,
                    connected=silent <= LONGEST_SILENCE,
                    unanswered_seconds=round(silent, 3),
                    queued=counts.queued,
                    running=counts.in_hand - counts.queued,
                    lease_seconds=member.lease,
                    oldest_running_seconds=None if oldest is None else round(oldest, 3),
                )

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
        self._watch.start()
        try:
            around = (
                nullcontext() if self._services is None else self._services.around()
            )
            async with self._hooks.around(), around, self._serving(lifetime):
                yield self
        finally:
            self._watch.stop()

    @asynccontextmanager
    async def _serving(self, lifetime: Lifetime[ConsumerSet]) -> AsyncIterator[None]:
        async with task_group() as tasks:
            for member in self.members:
                tasks.start_soon(self._serve, member)
            await self._opening_done.wait()
            if self._failure is None:
                try:
                    yield
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
    return UsageError(
        f"the consumer of {member.streams} ended while its router was running: {why}; "
        f"to stop all of its consumers, call router.stop()"
    )


def health_of(consumers: ConsumerSet | None) -> Health:
    """Return the health of a router with these consumers; None if it does not run."""
    if consumers is None:
        why = "the router is not running"
        worker = WorkerHealth(
            number=1, pid=os.getpid(), state=WorkerState.DOWN, why=why
        )
    else:
        worker = consumers.health()
    return Health(
        ready=worker.why is None,
        live=consumers is not None,
        why=worker.why,
        workers=(worker,),
    )
