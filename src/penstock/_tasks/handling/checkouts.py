"""Checkouts: the entries that the user's own calls and loops hold.

A message counts as processed when its caller comes back: the task (or thread) that
asked for it asks this consumer again. The call itself shows that its caller has come
back, and the result of the call does not matter. So calls that are made together
acknowledge nothing of each other. If a call ran in a task of its own, its result must
also have reached its caller, see `callers.py`.

A task that ends does not come back. Another task may have the messages that it held, as
with `asyncio.wait_for(fetch(), 5)`, where `fetch` calls `next`. Such a message is left
without an outcome, see `abandoned.py`. The same holds for the messages of a caller that
has not come back when the consumer closes. Only the task that leaves the consumer
cleanly has thereby processed the messages that it holds, and the messages of loops that
it left by `break`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from penstock._core.handling.settlement import Settler
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import RUNNING, UNSETTLED
from penstock._tasks.attempt_meter import AttemptMeter
from penstock._tasks.handling.abandoned import Abandoned
from penstock._tasks.handling.callers import (
    Caller,
    CallResult,
    has_ended,
    this_task,
)
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock.message import Message

__all__ = ["Checkout", "Checkouts", "PendingCheckIn"]

T = TypeVar("T")


@dataclass(slots=True)
class Checkout:
    """The messages that one caller holds.

    Attributes:
        on_loop: Whether the caller is a task of the consumer's event loop.
        entries: The entries that the caller has received.
        results: The results of calls that ran in tasks of their own.
        left_loops: The entries that the caller had when it left a loop. They are no
            longer in progress.
    """

    on_loop: bool = True
    entries: list[Entry] = field(default_factory=list)
    results: list[CallResult] = field(default_factory=list)
    left_loops: list[Entry] = field(default_factory=list)


PendingCheckIn: TypeAlias = tuple[Caller, Checkout]
"""A caller in another thread, and what it held when it called."""


class Checkouts(Generic[T]):
    """Records which caller has which messages, until it has processed them.

    Args:
        entry_queue: The queue from which entries are taken.
        ledger: Records the outcomes.
        settler: Opens entries as messages.
        abandoned: Reports messages whose callers have not come back and can't.
        ack: Whether coming back acknowledges.
        meter: Counts and times attempts.
    """

    def __init__(
        self,
        entry_queue: EntryQueue,
        ledger: Ledger,
        settler: Settler[T],
        abandoned: Abandoned,
        *,
        ack: bool,
        meter: AttemptMeter,
    ) -> None:
        self.meter = meter
        self.entry_queue = entry_queue
        self.ledger = ledger
        self.settler = settler
        self.ack = ack
        self._abandoned = abandoned
        self.loop = asyncio.get_running_loop()
        # The loops that exist. Each knows what it holds.
        self.iterations: WeakKeyDictionary[Any, None] = WeakKeyDictionary()
        # What callers hold, without the entries that loops hold.
        self.by_caller: dict[Caller, Checkout] = {}
        # Callers whose end has to be polled: threads, and tasks of other event loops.
        self._off_loop: dict[Caller, None] = {}

    # -- who has what --------------------------------------------------------------

    def check_out(
        self, caller: Caller, entry: Entry, message: Message[T]
    ) -> Message[T]:
        """Record that a call returns a message; return the message for the call."""
        self.meter.handed_out((entry,))
        if caller is asyncio.current_task(self.loop):
            held = self.by_caller.get(caller) or self._checkout_of(caller)
            held.entries.append(entry)
        elif (result := self._add_result(caller, (entry,))) is not None:
            message = result.tracked(message)
            result.track_result(message, this_task())
        return message

    def check_out_all(
        self, caller: Caller, entries: Sequence[Entry], messages: list[Message[T]]
    ) -> list[Message[T]]:
        """Record that a call returns several messages; return them for the call."""
        if not entries:
            return messages
        self.meter.handed_out(entries)
        if caller is asyncio.current_task(self.loop):
            self._checkout_of(caller).entries.extend(entries)
        elif (result := self._add_result(caller, entries)) is not None:
            messages = [result.tracked(message) for message in messages]
            result.track_result(messages, this_task())
        return messages

    def _add_result(
        self, caller: Caller, entries: Sequence[Entry]
    ) -> CallResult | None:
        """Record a call's result in a task of its own; None if its caller has ended.

        If the caller has ended, nobody can receive the entries, and they are left
        without an outcome.
        """
        self._abandon_ended()
        if has_ended(caller):
            self._abandon(entries)
            return None
        result = CallResult(entries)
        self._checkout_of(caller).results.append(result)
        return result

    def add_received(self, caller: Caller, entries: Sequence[Entry]) -> None:
        """Record that a caller has received entries."""
        if has_ended(caller):
            self._abandon(entries)
        else:
            self._checkout_of(caller).entries.extend(entries)

    def _checkout_of(self, caller: Caller) -> Checkout:
        held = self.by_caller.get(caller)
        if held is None:
            held = self.by_caller[caller] = Checkout()
            if isinstance(caller, asyncio.Task) and caller.get_loop() is self.loop:
                caller.add_done_callback(self._on_task_done)
            else:
                held.on_loop = False
                self._off_loop[caller] = None
        return held

    # -- coming back ---------------------------------------------------------------

    def check_in(self, caller: Caller) -> PendingCheckIn | None:
        """Count the entries of a caller that calls now as processed.

        This is done here at once, so that the entries that the caller holds when the
        call runs don't matter. If the caller is in another thread, `complete_check_in`
        does it, in the consumer's event loop.

        Returns:
            The caller and its entries, if `complete_check_in` has to be called; else
                None.
        """
        held = self.by_caller.get(caller)
        if held is None:
            return None
        if not held.on_loop:
            return caller, Checkout(entries=[*held.entries], results=[*held.results])
        entries, held.entries = held.entries, []
        self._finish_received(held, entries, held.results)
        return None

    def check_in_running_task(self) -> None:
        """Check in the running task, which begins something other than a call."""
        if self.by_caller:
            self.check_in(asyncio.current_task())

    def complete_check_in(self, pending: PendingCheckIn) -> None:
        """Complete the check-in of a caller in another thread, see `check_in`."""
        caller, then = pending
        held = self.by_caller.get(caller)
        if held is not None:
            those = set(then.entries)
            entries = [each for each in held.entries if each in those]
            held.entries = [each for each in held.entries if each not in those]
            results = [each for each in then.results if each in held.results]
            self._finish_received(held, entries, results)

    def _finish_received(
        self, held: Checkout, entries: list[Entry], results: Sequence[CallResult]
    ) -> None:
        """Finish a caller's entries and its completed results.

        A result is complete once it is known whether its caller received it.
        """
        if results:  # usually there are none
            known = [each for each in results if each.received is not None]
            held.results = [each for each in held.results if each not in known]
            for result in known:
                if result.received:
                    entries += result.entries
                else:
                    self._abandon(result.entries)
        self.meter.came_back(entries)
        self.ledger.finish_all(entries, ack=self.ack)

    # -- not coming back -----------------------------------------------------------

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        """Leave the entries that an ended task held without an outcome."""
        if (held := self.by_caller.pop(task, None)) is not None:
            self._abandon_all(held)

    def _abandon_ended(self) -> None:
        for caller in [each for each in self._off_loop if has_ended(each)]:
            self._off_loop.pop(caller, None)
            self._abandon_all(self.by_caller.pop(caller))

    def _abandon_all(self, held: Checkout) -> None:
        self._abandon(held.entries)
        for result in held.results:
            self._abandon(result.entries)
        self.meter.came_back(held.left_loops, "cancelled")
        self._abandoned.add(held.left_loops)

    def _abandon(self, entries: Sequence[Entry]) -> None:
        self.meter.came_back(entries, "cancelled")
        self.ledger.finish_all(entries, ack=False)
        if self.ack:
            self._abandoned.add(entries)

    def abandon(self, entries: Sequence[Entry], caller: Caller) -> None:
        """Record the entries of a loop that its caller has left."""
        # If the caller then leaves the consumer, it has processed them, see `close`.
        settled = [
            each for each in entries if not self.ack or each.state is not RUNNING
        ]
        self.meter.came_back(settled)
        self.ledger.finish_all(entries, ack=False)
        # Entries that have an outcome need not be kept until the consumer closes.
        left = [each for each in entries if self.ack and each.state is UNSETTLED]
        if left and has_ended(caller):
            self.meter.came_back(left, "cancelled")
            self._abandoned.add(left)
        elif left:
            self._checkout_of(caller).left_loops += left

    def close(self, leaving: asyncio.Task[Any] | None) -> None:
        """Close all checkouts: the consumer is being left.

        Args:
            leaving: The task that leaves the consumer without an exception, and has
                thereby processed the messages that it received. None if the consumer is
                left by an exception.
        """
        for iteration in list(self.iterations):
            self.abandon(*iteration.pop_held())
        for caller, held in self.by_caller.items():
            if isinstance(caller, asyncio.Task) and held.on_loop:
                # A task that lives on must not keep all these objects alive.
                caller.remove_done_callback(self._on_task_done)
            if leaving is None or caller is not leaving:
                self._leave_unsettled(held, ended=has_ended(caller))
                continue
            self._finish_received(held, held.entries, held.results)
            self.meter.came_back(held.left_loops)
            for entry in held.left_loops:
                if entry.disposition is None:
                    self.ledger.ack(entry)
            # Results that are still in a task have not been received.
            self._leave_unsettled(Checkout(results=held.results), ended=False)
        self.by_caller.clear()
        self._off_loop.clear()
        self._abandoned.close()

    def _leave_unsettled(self, held: Checkout, *, ended: bool) -> None:
        """Leave the entries of a checkout without an outcome.

        If the caller has ended, they are reported as abandoned. Otherwise they are only
        left to other consumers.
        """
        if ended:
            self._abandon_all(held)
            return
        entries = [*held.entries, *(e for each in held.results for e in each.entries)]
        self.meter.came_back((*entries, *held.left_loops), "cancelled")
        self.ledger.finish_all(entries, ack=False)

    def held(self) -> list[Entry]:
        """Return the entries that are checked out now; any thread may call it."""
        held = [entry for each in list(self.iterations) for entry in each.held]
        for each in list(self.by_caller.values()):
            held += each.entries
            held += [entry for result in each.results for entry in result.entries]
        return held

    def in_progress(self, leaving: asyncio.Task[Any] | None) -> bool:
        """Return whether callers that can come back hold messages without an outcome.

        Args:
            leaving: A caller to leave out: the task that leaves the consumer.
        """
        held = [(each.caller, each.held) for each in self.iterations]
        for caller, checkout in self.by_caller.items():
            held.append((caller, checkout.entries))
            held += [(caller, result.entries) for result in checkout.results]
        return any(
            entry.state is RUNNING
            for caller, entries in held
            if caller is not leaving and not has_ended(caller)
            for entry in entries
        )
