"""The calls `next` and `take`: they wait for messages and check them out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from penstock._core.ledger.entry import Entry
from penstock._tasks.handling.callers import Caller, current_caller
from penstock._tasks.handling.checkouts import Checkouts, PendingCheckIn
from penstock.errors import ClosedError
from penstock.message import Message

__all__ = ["next_message", "take_messages"]

T = TypeVar("T")


def next_message(
    checkouts: Checkouts[T], timeout: float | None
) -> Coroutine[Any, Any, Message[T] | None]:
    """Wait for a message; return None when the time is up.

    The user may call this in any thread, and awaits the result in the consumer's event
    loop.

    Raises:
        ClosedError: The consumer closed.
    """
    caller = current_caller()
    return _next(checkouts, caller, checkouts.check_in(caller), timeout)


def take_messages(
    checkouts: Checkouts[T], most: int, timeout: float
) -> Coroutine[Any, Any, list[Message[T]]]:
    """Wait for several messages; return those that come in time.

    Otherwise this is like `next_message`.
    """
    caller = current_caller()
    return _take(checkouts, caller, checkouts.check_in(caller), most, timeout)


async def _next(
    checkouts: Checkouts[T],
    caller: Caller,
    pending: PendingCheckIn | None,
    timeout: float | None,
) -> Message[T] | None:
    entry_queue = checkouts.entry_queue
    entry_queue.check()
    if pending is not None:
        checkouts.complete_check_in(pending)
    await entry_queue.yield_if_due()
    found = None
    # anyio's scopes will not do: this runs in the user's task, and their cancellation
    # got out of the scope where entry and deadline came in the same turn.
    with suppress(TimeoutError):
        # This is outside the time limit: a limit of 0 is over at its first turn.
        found = _open(checkouts, await entry_queue.take_one())
        async with asyncio.timeout(timeout):
            while found is None and not entry_queue.gate.closed:
                found = _open(checkouts, await entry_queue.entry())
    if found is not None:
        return checkouts.check_out(caller, *found)
    if entry_queue.gate.closed:
        raise ClosedError("consumer")
    return None


def _open(
    checkouts: Checkouts[T], entry: Entry | None
) -> tuple[Entry, Message[T]] | None:
    message = None if entry is None else checkouts.settler.open(entry)
    return None if entry is None or message is None else (entry, message)


async def _take(
    checkouts: Checkouts[T],
    caller: Caller,
    pending: PendingCheckIn | None,
    most: int,
    timeout: float,
) -> list[Message[T]]:
    entry_queue = checkouts.entry_queue
    entry_queue.check()
    if pending is not None:
        checkouts.complete_check_in(pending)
    await entry_queue.yield_if_due()
    taken: list[Entry] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            # Another call may take the entries that this one has waited for.
            while not taken and not entry_queue.gate.closed:
                await entry_queue.wait_for_entries(most)
                await entry_queue.yield_if_due()
                if await entry_queue.waits_for_renewal(several=True):
                    continue
                taken = await entry_queue.take_several(most, apart=False)
    if not taken:
        await entry_queue.yield_if_due()
        taken = await entry_queue.take_several(most, apart=False)
    if not taken and entry_queue.gate.closed:
        raise ClosedError("consumer")
    return checkouts.check_out_all(caller, *checkouts.settler.open_all(taken))
