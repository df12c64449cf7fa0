"""The worker: takes an entry, has it handled, settles it, and takes the next."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import PurePath
from typing import Any

from penstock._core.desk import FrontDesk
from penstock._core.entry import Entry
from penstock._core.ledger import Ledger
from penstock._tasks.intake import Intake
from penstock.events import Event, OnEvent
from penstock.message import Message

__all__ = ["HandlerExit", "work"]


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


async def work(
    handler: Callable[[Message[Any]], Awaitable[object]],
    *,
    intake: Intake,
    ledger: Ledger,
    desk: FrontDesk[Any],
    ack: bool,
    on_event: OnEvent,
) -> None:
    """Handle entries until the intake closes.

    An entry whose handler raises is left open; the handler's own cancellation of
    itself counts as raising, ours ends the worker.

    Raises:
        HandlerExit: The handler wants to end more than itself.

    Args:
        handler: Called with each message.
        intake: Where entries come from.
        ledger: Where outcomes go.
        desk: Serves the messages.
        ack: Whether a handler's return acknowledges.
        on_event: Told of each handler that raised.
    """
    while (entry := intake.poll() or await intake.entry()) is not None:
        try:
            await handler(Message(entry, desk, entry.fields))
        except Exception as error:  # noqa: BLE001 - any failure of a handler is one
            ledger.finish(entry, ack=False)
            _failed(on_event, entry, error)
        except asyncio.CancelledError as error:
            ledger.finish(entry, ack=False)
            if _cancelled():
                raise
            _failed(on_event, entry, error)
        except BaseException as error:
            ledger.finish(entry, ack=False)
            raise HandlerExit(error) from error
        else:
            ledger.finish(entry, ack=ack)


def _cancelled() -> bool:
    """Tell whether somebody cancelled this task, or a handler raised by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failed(on_event: OnEvent, entry: Entry, error: BaseException) -> None:
    facts = {
        "stream": ascii(entry.shard.stream),
        "id": entry.id.decode(),
        "attempt": entry.deliveries,
        # Its type and place only: an exception's text may quote the payload.
        "error": type(error).__name__,
        "at": _place(error),
    }
    on_event(Event("handler_failed", logging.ERROR, facts, error))


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{PurePath(frame.filename).name}:{frame.lineno}"
