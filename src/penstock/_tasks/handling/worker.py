"""Workers: each takes an entry, has it handled, settles it, and takes the next."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from penstock._core.handling.settlement import Settler
from penstock._core.handling.signature import name_of
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import RUNNING
from penstock._core.metrics.attempts import Outcome
from penstock._tasks.attempt_meter import SHORT, AttemptMeter, AttemptTimer
from penstock._tasks.handling.callers import this_task
from penstock._tasks.handling.context_variables import Snapshot
from penstock._tasks.handling.entry_queue import EntryQueue, Goal
from penstock._tasks.handling.failures import FailureHandler, HandlerTimeout, is_own
from penstock._tasks.handling.handler_call import Call
from penstock.middleware import check_result

__all__ = ["EXITS", "WorkerContext", "work", "work_batches"]

T = TypeVar("T")

# The exceptions with which a handler ends more than itself. They must not get out of a
# worker's task, because asyncio would stop the event loop.
EXITS: Final = (SystemExit, KeyboardInterrupt, GeneratorExit)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The objects that the workers of a run share, and the timer of one of them.

    Attributes:
        entry_queue: The queue from which workers take entries.
        ledger: Records the outcomes.
        settler: Opens entries as messages and settles them.
        failure_handler: Handles failures.
        ack: Whether a handler's return acknowledges.
        goal: The goal after which no more entries are handled; None if there is none.
        handler_of: Returns the name of the handler of a message, for reports.
        timer: Times the worker's attempts; by default they are not recorded.
    """

    entry_queue: EntryQueue
    ledger: Ledger
    settler: Settler[Any]
    failure_handler: FailureHandler
    ack: bool
    goal: Goal | None = None
    handler_of: Callable[[Any], str] = name_of
    timer: AttemptTimer = field(
        default_factory=lambda: AttemptTimer(AttemptMeter(), name_of)
    )


async def work(  # noqa: C901, PLR0912 - calls would cost each message
    call: Call, worker_context: WorkerContext, replace: Callable[[], None]
) -> None:
    """Handle entries until the entry queue closes, or the goal is reached.

    A handler that raises has failed. A handler that is cancelled, by itself or by a
    timer of its own, has failed too. Only the cancellation of the whole run ends the
    worker.

    Args:
        call: Called with each message.
        worker_context: The objects that the worker uses.
        replace: Called when a handler has left something in the task's context
            variables. Then this worker ends, and another worker with a clean context
            takes its place.

    Raises:
        SystemExit: Or KeyboardInterrupt or GeneratorExit, see `EXITS`; raised by a
            handler or a codec.
    """
    entry_queue, settler = worker_context.entry_queue, worker_context.settler
    ledger, meter = worker_context.ledger, worker_context.timer.meter
    finish: Callable[[Entry], None] = ledger.processed
    if not worker_context.ack:
        finish = partial(ledger.finish, ack=False)
    task, context, timer = this_task(), Snapshot(), worker_context.timer
    filled, goal = context.filled, worker_context.goal
    wait = partial(_next_entry, entry_queue, timer, goal)
    short, plain = timer.lap.append, not timer.varies
    while not (goal and goal.reached) and (
        entry := entry_queue.poll() or await _wait_despite_timers(wait)
    ):
        message = settler.open(entry)
        if message is None:
            continue
        timed = meter.on
        if timed:
            # As little as can be, because it is done forevery message: the call of
            # `poll` has read the clock, which ends one attempt and begins the next.
            now = entry_queue.polled_at
            if now - timer.began > SHORT or entry.shard_state is not timer.state:
                timer.switch(entry, now)
            timer.began = now
        try:
            result = await call(message)
            if result is not None:
                check_result(result)
        except BaseException as error:  # noqa: BLE001 - `_failed` tells them apart
            _failed(worker_context, [entry], message, error, task)
        else:
            if task.cancelling():
                _check_swallowed(worker_context, [entry], message)
            if timed:
                if plain and entry.state is RUNNING:
                    short(entry.id)
                else:
                    timer.end((entry,), message)
            finish(entry)
        if task.cancelling():
            await _clear_cancellation(task)
        if (copy_context() or filled) and context.changed():
            replace()
            return


async def work_batches(
    call: Call,
    worker_context: WorkerContext,
    replace: Callable[[], None],
    *,
    size: int,
    linger: float,
) -> None:
    """Handle entries in batches until the entry queue closes; otherwise as `work`.

    This is a second loop because one loop for both costs 0.02 us more per message if it
    keeps the path for single entries, and 0.15 us more if it has lists only.

    Args:
        call: Called with a list of messages.
        worker_context: The objects that the worker uses.
        replace: See `work`.
        size: The highest number of messages in a batch.
        linger: Seconds to wait for that many messages.

    Raises:
        SystemExit: Or KeyboardInterrupt or GeneratorExit, see `EXITS`; raised by a
            handler or a codec.
    """
    task, context, timer = this_task(), Snapshot(), worker_context.timer
    entry_queue, goal = worker_context.entry_queue, worker_context.goal

    async def batch() -> list[Entry]:
        timer.pause(timer.began)
        return await entry_queue.batch(size, linger, goal)

    while taken := await _wait_despite_timers(batch):
        entries, messages = worker_context.settler.open_all(taken)
        if not messages:
            continue
        timer.begin(entries[0])
        try:
            result = await call(messages)
            if result is not None:
                check_result(result)
        except BaseException as error:  # noqa: BLE001 - `_failed` tells them apart
            _failed(worker_context, entries, messages[0], error, task)
        else:
            if task.cancelling():
                _check_swallowed(worker_context, entries, messages[0])
            _time(worker_context, entries, messages[0], "ok")
            worker_context.ledger.finish_all(entries, ack=worker_context.ack)
        if task.cancelling():
            await _clear_cancellation(task)
        if context.changed():
            replace()
            return


def _failed(
    worker_context: WorkerContext,
    entries: Sequence[Entry],
    message: Any,
    error: BaseException,
    task: asyncio.Task[Any],
) -> None:
    """Record that a handler raised.

    Raises:
        CancelledError: The run was cancelled.
        SystemExit: Or another one of `EXITS`, if the handler raised that.
    """
    if (
        isinstance(error, asyncio.CancelledError)
        and task.cancelling()
        and _run_is_cancelled()
    ):
        _interrupt(worker_context, entries, message)
        raise error
    if isinstance(error, EXITS):
        _time(worker_context, entries, message, "failed")
        _exit(worker_context, entries)
        raise error
    timed_out = isinstance(error, HandlerTimeout)
    # Where the payload can't be decoded, no handler has had the message.
    had = [entry for entry in entries if not is_own(error, entry)]
    _time(worker_context, had, message, "timeout" if timed_out else "failed")
    handler = worker_context.handler_of(message)
    for entry in entries:
        worker_context.failure_handler.failed(entry, error, handler)


def _time(
    worker_context: WorkerContext,
    entries: Sequence[Entry],
    message: Any,
    outcome: Outcome,
) -> None:
    """Record the end of attempts, if they are timed."""
    if worker_context.timer.began:
        worker_context.timer.end(entries, message, outcome)


def _check_swallowed(
    worker_context: WorkerContext, entries: Sequence[Entry], message: Any
) -> None:
    """Check whether the cancellation that a handler has swallowed was the run's.

    The handler has returned. If the cancellation was the handler's own, the handler has
    dealt with it.

    Raises:
        CancelledError: The run was cancelled, and nobody knows what the handler has
            done.
    """
    if _run_is_cancelled():
        _interrupt(worker_context, entries, message)
        raise asyncio.CancelledError


def _run_is_cancelled() -> bool:
    """Return whether the run that this worker belongs to was cancelled.

    This asks the run's cancel scope, because `task.cancelling()` also counts
    cancellations by a handler's own timer (`loop.call_later(seconds, task.cancel)`).
    """
    return anyio.current_effective_deadline() == -math.inf


def _next_entry(
    entry_queue: EntryQueue, timer: AttemptTimer, goal: Goal | None
) -> Awaitable[Entry | None]:
    """Wait for the next entry, see `EntryQueue.entry`; no attempt goes on meanwhile."""
    if timer.began:
        timer.pause(entry_queue.polled_at)
    return entry_queue.entry(goal, timer.flush)


async def _wait_despite_timers(wait: Callable[[], Awaitable[T]]) -> T:
    """Wait for a result, whatever timers of handlers that have ended cancel meanwhile.

    Raises:
        CancelledError: The run was cancelled.
    """
    while True:
        try:
            return await wait()
        except asyncio.CancelledError:
            await _clear_cancellation(this_task())


async def _clear_cancellation(task: asyncio.Task[Any]) -> None:
    """Remove a cancellation that was meant for a handler and not for its worker.

    Raises:
        CancelledError: The run was cancelled.
    """
    if _run_is_cancelled():
        raise asyncio.CancelledError
    # The CancelledError may not have been raised yet, and would be raised in the next
    # handler.
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.uncancel():
        pass


def _interrupt(
    worker_context: WorkerContext, entries: Sequence[Entry], message: Any
) -> None:
    _time(worker_context, entries, message, "cancelled")
    for entry in reversed(entries):
        worker_context.failure_handler.interrupted(entry)


def _exit(worker_context: WorkerContext, entries: Sequence[Entry]) -> None:
    for entry in entries:
        worker_context.failure_handler.exited(entry)
