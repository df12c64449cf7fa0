"""The worker: takes an entry, has it handled, settles it, and takes the next."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from penstock._core.handling.settlement import Settler
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._tasks.handling.callers import this_task
from penstock._tasks.handling.context_variables import Snapshot
from penstock._tasks.handling.entry_queue import EntryQueue, Goal
from penstock._tasks.handling.failures import FailureHandler
from penstock._tasks.handling.handler_call import Call
from penstock.middleware import check_result

__all__ = ["EXITS", "WorkerContext", "work", "work_batches"]

T = TypeVar("T")

# What a handler raises to end more than itself. It must not get out of a worker's task,
# since asyncio would stop the event loop.
EXITS: Final = (SystemExit, KeyboardInterrupt, GeneratorExit)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What workers work with.

    Attributes:
        entry_queue: Where entries come from.
        ledger: Where outcomes go.
        settler: Serves the messages.
        failure_handler: Deals with failures.
        ack: Whether a handler's return acknowledges.
        goal: After which no more is to be handled, if there is one.
    """

    entry_queue: EntryQueue
    ledger: Ledger
    settler: Settler[Any]
    failure_handler: FailureHandler
    ack: bool
    goal: Goal | None = None


async def work(
    call: Call, worker_context: WorkerContext, replace: Callable[[], None]
) -> None:
    """Handle entries until the intake closes, or the goal is reached.

    A handler that raises has failed. So has one that is cancelled, by itself or by a
    timer of its own; only the cancellation of the whole run ends the worker.

    Args:
        call: Called with each message.
        worker_context: What to work with.
        replace: Called when a handler has left something in the task's context: then
            another worker goes on, with a clean one.

    Raises:
        SystemExit: Or KeyboardInterrupt or GeneratorExit, see `EXITS`; raised by a
            handler or a codec.
    """
    entry_queue, ledger, settler, ack = (
        worker_context.entry_queue,
        worker_context.ledger,
        worker_context.settler,
        worker_context.ack,
    )
    task, context = this_task(), Snapshot()
    filled, wait = context.filled, partial(entry_queue.entry, worker_context.goal)
    goal = worker_context.goal
    while not (goal and goal.reached) and (
        entry := entry_queue.poll() or await _wait_despite_timers(wait)
    ):
        message = settler.open(entry)
        if message is None:
            continue
        try:
            result = await call(message)
            if result is not None:
                check_result(result)
        except BaseException as error:  # noqa: BLE001 - sorted out there
            _failed(worker_context, [entry], error, task)
        else:
            if task.cancelling():
                _check_swallowed(worker_context, [entry])
            if ack:
                ledger.processed(entry)
            else:
                ledger.finish(entry, ack=False)
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
    """Handle entries in batches until the intake closes; otherwise as `work`.

    Args:
        call: Called with a list of messages.
        worker_context: What to work with.
        replace: See `work`.
        size: Messages in a batch at most.
        linger: Seconds to wait for that many.

    Raises:
        SystemExit: Or KeyboardInterrupt or GeneratorExit, see `EXITS`; raised by a
            handler or a codec.
    """
    task, context = this_task(), Snapshot()
    batch = partial(worker_context.entry_queue.batch, size, linger, worker_context.goal)
    while taken := await _wait_despite_timers(batch):
        entries, messages = worker_context.settler.open_all(taken)
        if not messages:
            continue
        try:
            result = await call(messages)
            if result is not None:
                check_result(result)
        except BaseException as error:  # noqa: BLE001 - sorted out there
            _failed(worker_context, entries, error, task)
        else:
            if task.cancelling():
                _check_swallowed(worker_context, entries)
            worker_context.ledger.finish_all(entries, ack=worker_context.ack)
        if task.cancelling():
            await _clear_cancellation(task)
        if context.changed():
            replace()
            return


def _failed(
    worker_context: WorkerContext,
    entries: Sequence[Entry],
    error: BaseException,
    task: asyncio.Task[Any],
) -> None:
    """Book that a handler raised.

    Raises:
        CancelledError: The run was cancelled.
        SystemExit: Or another one of `EXITS`, if that is what it raised.
    """
    if (
        isinstance(error, asyncio.CancelledError)
        and task.cancelling()
        and _run_is_cancelled()
    ):
        _interrupt(worker_context, entries)
        raise error
    if isinstance(error, EXITS):
        _exit(worker_context, entries)
        raise error
    for entry in entries:
        worker_context.failure_handler.failed(entry, error)


def _check_swallowed(worker_context: WorkerContext, entries: Sequence[Entry]) -> None:
    """Check whose cancellation a handler has swallowed that then returned.

    One of its own is its affair.

    Raises:
        CancelledError: It was ours: who knows what the handler has done.
    """
    if _run_is_cancelled():
        _interrupt(worker_context, entries)
        raise asyncio.CancelledError


def _run_is_cancelled() -> bool:
    """Return whether the run that this worker belongs to was cancelled.

    Its scope tells. `task.cancelling()` counts what a handler's own timer does as well,
    by `loop.call_later(seconds, task.cancel)`.
    """
    return anyio.current_effective_deadline() == -math.inf


async def _wait_despite_timers(wait: Callable[[], Awaitable[T]]) -> T:
    """Wait for something, whatever a handler's timer does that outlived its handler.

    Raises:
        CancelledError: The run was cancelled.
    """
    while True:
        try:
            return await wait()
        except asyncio.CancelledError:
            await _clear_cancellation(this_task())


async def _clear_cancellation(task: asyncio.Task[Any]) -> None:
    """Forget a cancellation that was meant for a handler, not for its worker.

    Raises:
        CancelledError: It is the run that was cancelled.
    """
    if _run_is_cancelled():
        raise asyncio.CancelledError
    # It may still be about to be raised, and would be in the next handler.
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.uncancel():
        pass


def _interrupt(worker_context: WorkerContext, entries: Sequence[Entry]) -> None:
    for entry in reversed(entries):
        worker_context.failure_handler.interrupted(entry)


def _exit(worker_context: WorkerContext, entries: Sequence[Entry]) -> None:
    for entry in entries:
        worker_context.failure_handler.exited(entry)
