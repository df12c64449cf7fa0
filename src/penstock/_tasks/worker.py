"""The worker: takes an entry, has it handled, settles it, and takes the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from penstock._core.desk import FrontDesk
from penstock._core.entry import Entry
from penstock._core.ledger import Ledger
from penstock._tasks.calling import Call
from penstock._tasks.intake import Intake
from penstock._tasks.verdicts import Verdicts
from penstock.middleware import check_result

__all__ = ["HandlerExit", "Workbench", "work", "work_batches"]


class HandlerExit(Exception):  # noqa: N818 - it is no error of ours
    """A handler raised SystemExit, KeyboardInterrupt or GeneratorExit.

    Carries it from the worker's task to the one that called `run`: asyncio lets the
    first two out of a task by stopping the whole event loop.

    Attributes:
        error: What the handler raised.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()


@dataclass(frozen=True, slots=True)
class Workbench:
    """What workers work with.

    Attributes:
        intake: Where entries come from.
        ledger: Where outcomes go.
        desk: Serves the messages.
        verdicts: Deals with failures.
        ack: Whether a handler's return acknowledges.
    """

    intake: Intake
    ledger: Ledger
    desk: FrontDesk[Any]
    verdicts: Verdicts
    ack: bool


async def work(call: Call, bench: Workbench, replace: Callable[[], None]) -> None:
    """Handle entries until the intake closes.

    A handler that raises has failed, and so has one that cancels itself; our own
    cancellation ends the worker.

    Args:
        call: Called with each message.
        bench: What to work with.
        replace: Called when a handler has left something in the task's context: then
            another worker goes on, with a clean one.

    Raises:
        HandlerExit: The handler wants to end more than itself.
    """
    intake, ledger, desk, ack = bench.intake, bench.ledger, bench.desk, bench.ack
    context, task = copy_context(), asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks
    while (entry := intake.poll() or await intake.entry()) is not None:
        message = desk.open(entry)
        if message is None:
            continue
        try:
            result = await call(message)
            if result is not None:
                check_result(result)
        except BaseException as error:  # noqa: BLE001 - sorted out there
            _failed(bench, [entry], error, task)
        else:
            if task.cancelling():
                # It swallowed our cancellation: who knows what it has done.
                bench.verdicts.left(entry)
                raise asyncio.CancelledError
            if ack:
                ledger.processed(entry)
            else:
                ledger.finish(entry, ack=False)
        if copy_context() != context:
            replace()
            return


async def work_batches(
    call: Call,
    bench: Workbench,
    replace: Callable[[], None],
    *,
    size: int,
    linger: float,
) -> None:
    """Handle entries in batches until the intake closes; otherwise as `work`.

    Args:
        call: Called with a list of messages.
        bench: What to work with.
        replace: See `work`.
        size: Messages in a batch at most.
        linger: Seconds to wait for that many.

    Raises:
        HandlerExit: The handler wants to end more than itself.
    """
    context, task = copy_context(), asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks
    while entries := await bench.intake.batch(size, linger):
        opened = [(entry, bench.desk.open(entry)) for entry in entries]
        messages = [message for _, message in opened if message is not None]
        entries = [entry for entry, message in opened if message is not None]
        if not messages:
            continue
        try:
            result = await call(messages)
            if result is not None:
                check_result(result)
        except BaseException as error:  # noqa: BLE001 - sorted out there
            _failed(bench, entries, error, task)
        else:
            if task.cancelling():
                _leave(bench, entries)
                raise asyncio.CancelledError
            bench.ledger.finish_all(entries, ack=bench.ack)
        if copy_context() != context:
            replace()
            return


def _failed(
    bench: Workbench,
    entries: Sequence[Entry],
    error: BaseException,
    task: asyncio.Task[Any],
) -> None:
    """Book that a handler raised.

    Raises:
        CancelledError: It was we who cancelled.
        HandlerExit: The handler wants to end more than itself.
    """
    if isinstance(error, asyncio.CancelledError) and task.cancelling():
        _leave(bench, entries)
        raise error
    if not isinstance(error, Exception | asyncio.CancelledError):
        _leave(bench, entries)
        raise HandlerExit(error) from error
    for entry in entries:
        bench.verdicts.failed(entry, error)


def _leave(bench: Workbench, entries: Sequence[Entry]) -> None:
    for entry in entries:
        bench.verdicts.left(entry)
