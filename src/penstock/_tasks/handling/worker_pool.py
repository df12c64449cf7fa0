"""Worker pool: starts workers for a handler and stops them when the consumer closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import anyio

from penstock import _clock
from penstock._core.handling.dispatch import namer
from penstock._core.handling.settlement import Settler
from penstock._core.handling.signature import is_async
from penstock._core.ledger.ledger import Ledger
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.handling.callers import this_task
from penstock._tasks.handling.catch_up import CatchUp
from penstock._tasks.handling.handler_call import (
    Call,
    Handler,
    ThreadSettler,
    in_thread,
    with_time_limit,
)
from penstock._tasks.handling.worker import EXITS, WorkerContext, work, work_batches
from penstock._tasks.loop_binding import enter, is_inside
from penstock._tasks.task_scopes import task_group
from penstock.durations import seconds
from penstock.errors import PenstockError, UsageError
from penstock.middleware import wrap
from penstock.options import Batch, Ordering

__all__ = ["RunOptions", "WorkerPool", "build_call"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one `run`.

    Attributes:
        handler: The user's handler.
        concurrency: The number of calls at a time.
        ordering: Which messages are handled one at a time.
        batch: The number of messages in a call, and how long to wait for them; None to
            call with one message.
    """

    handler: Handler
    concurrency: int
    ordering: Ordering
    batch: Batch | None

    async def work(
        self, call: Call, worker_context: WorkerContext, replace: Callable[[], None]
    ) -> None:
        """Run one of the workers."""
        if self.batch is None:
            await work(call, worker_context, replace)
            return
        linger = seconds(self.batch.linger, "linger")
        await work_batches(
            call, worker_context, replace, size=self.batch.size, linger=linger
        )


class WorkerPool(Generic[T]):
    """The workers of all runs of a consumer.

    Args:
        config: The consumer's configuration.
        ledger: The consumer's ledger; a run sets its ordering.
        worker_context: Returns the workers' context, with a settler of the given class.
    """

    def __init__(
        self,
        config: ConsumerConfig[T],
        ledger: Ledger,
        worker_context: Callable[[type[Settler[T]]], WorkerContext],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._worker_context = worker_context
        # A value in the context of handlers, by which a handler that closes its own
        # consumer is recognised.
        self._token = object()
        # Called, when the last run has ended, with the task that called that run.
        self.on_idle: Callable[[asyncio.Task[Any]], None] | None = None
        # The cancel scopes of the runs in progress, the number of these runs, and the
        # event that is set when the last one has ended.
        self._scopes: dict[anyio.CancelScope, None] = {}
        self._runs = 0
        self._ordering = Ordering.NONE
        self._idle = anyio.Event()

    def is_inside(self) -> bool:
        """Return whether the caller is a running handler, or was started by one."""
        return self._runs > 0 and is_inside(self._token)

    async def run(self, options: RunOptions, goal: CatchUp | None = None) -> None:
        """Handle messages until the consumer closes, or a goal is reached.

        Raises:
            UsageError: Another run has another ordering.
            PenstockError: Reading failed for good, or a message was given up.
        """
        if self._runs and options.ordering is not self._ordering:
            raise UsageError(
                f"another run() of this consumer uses "
                f"ordering={self._ordering.value!r}; use the same ordering, or a "
                f"separate consumer"
            )
        if not self._runs:
            self._idle = anyio.Event()
            self._ordering = options.ordering
            self._ledger.order_by(options.ordering)
        self._runs += 1
        try:
            await self._start_workers(options, goal)
        finally:
            self._runs -= 1
            if not self._runs:
                self._idle.set()
                if self.on_idle is not None:
                    self.on_idle(this_task())

    async def stop(self, deadline: float, last: float) -> None:
        """Wait until handlers have finished, and cancel those that take too long.

        Args:
            deadline: The time by which handlers have to finish, by the monotonic clock.
            last: The time by which cancelled handlers have to end.
        """
        for until in (deadline, last):
            with anyio.move_on_after(until - _clock.monotonic()):
                if self._runs:
                    await self._idle.wait()
            if not self._runs:
                return
            for scope in self._scopes:
                scope.cancel()

    async def _start_workers(self, options: RunOptions, goal: CatchUp | None) -> None:
        handler_of = namer(options.handler)
        call, kind = build_call(self._config, options, handler_of)
        shared = replace(self._worker_context(kind), goal=goal, handler_of=handler_of)
        if goal is not None:
            call = goal.track(call)
        # Every handler starts with a copy of this context: a handler must not see what
        # another one has left in context variables.
        context = copy_context()
        context.run(enter, self._token)
        errors: list[BaseException] = []
        exits: list[BaseException] = []

        def start() -> None:
            context.copy().run(workers.start_soon, worker)

        async def worker() -> None:
            try:
                with self._config.meter.timer(handler_of) as timer:
                    await options.work(call, replace(shared, timer=timer), start)
            except EXITS as error:
                # If several were raised at a time, the task group would raise one group
                # of exceptions.
                exits.append(error)
                workers.cancel_scope.cancel()
            except BaseException as error:
                known = isinstance(error, PenstockError)
                if not known and error is not shared.entry_queue.gate.error:
                    raise
                # This is not raised here, so that the messages that other handlers have
                # are finished.
                errors.append(error)

        try:
            async with task_group() as workers:
                self._scopes[workers.cancel_scope] = None
                for _ in range(options.concurrency):
                    start()
        finally:
            self._scopes.pop(workers.cancel_scope, None)
            if exits:
                raise exits[0] from None
        if errors:
            raise errors[0]


def build_call(
    config: ConsumerConfig[Any], options: RunOptions, handler_of: Callable[[Any], str]
) -> tuple[Call, type[Settler[Any]]]:
    """Return the call that workers make for a handler, and its settler's class.

    Args:
        config: The configuration of the consumer.
        options: The options of the run, with the handler.
        handler_of: Returns the name of a message's handler, for reports.
    """
    awaited = is_async(options.handler)
    call = cast("Call", options.handler)
    if not awaited:
        call = in_thread(options.handler, anyio.CapacityLimiter(options.concurrency))
    call = wrap(call, config.middleware)
    timeout = config.retry.timeout if config.retry else None
    if timeout is not None:
        limit = seconds(timeout, "timeout")
        call = with_time_limit(
            call, limit, config.on_event, handler_of, cancels=awaited
        )
    return call, Settler if awaited else ThreadSettler
