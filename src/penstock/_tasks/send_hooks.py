"""Send hooks: calls the functions of `on_send=`, and tells them messages' outcomes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from penstock._core.handling.signature import name_of
from penstock.errors import SendFailed, SendUnknown
from penstock.events import Event, OnEvent, printable
from penstock.message import Receipt
from penstock.outgoing import ManyMessages, OnOutcome, OnSend, Outgoing

__all__ = ["Announced", "SendHooks"]


class Announced:
    """A message that hooks have seen, and that has no outcome yet.

    Args:
        hooks: The hooks, which report what they raise.
        outgoing: The message, with the headers that hooks have added.

    Attributes:
        outgoing: The message.
        listeners: The functions that hear the outcome.
    """

    __slots__ = ("_hooks", "listeners", "outgoing")

    def __init__(self, hooks: SendHooks, outgoing: Outgoing[Any]) -> None:
        self._hooks = hooks
        self.outgoing = outgoing
        self.listeners: list[OnOutcome] = []

    def settle(self, outcome: Receipt | BaseException) -> None:
        """Tell the outcome; of an exit or a cancellation, that nothing was sent."""
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            reason = f"its call ended with {type(outcome).__name__}"
            outcome = SendFailed(self.outgoing.stream, "CANCELLED", reason)
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            try:
                listener(outcome)
            except Exception as error:  # noqa: BLE001 - the user's function
                self._hooks.report(listener, self.outgoing.stream, error)

    def settle_with(self, ticket: asyncio.Future[Receipt]) -> None:
        """Tell the outcome once a future has it."""
        if self.listeners:
            ticket.add_done_callback(self._done)

    def _done(self, ticket: asyncio.Future[Receipt]) -> None:
        if ticket.cancelled():
            reason = "the wait for its outcome was cancelled"
            self.settle(SendUnknown(self.outgoing.stream, reason))
        else:
            self.settle(ticket.exception() or ticket.result())


class SendHooks:
    """The functions of `on_send=` that see the messages of a producer or consumer.

    Args:
        hooks: The functions, at least one.
        on_event: Receives a report of each exception that they raise.
    """

    def __init__(self, hooks: Sequence[OnSend], on_event: OnEvent) -> None:
        self._hooks = tuple(hooks)
        self._on_event = on_event

    @classmethod
    def of(cls, hooks: Sequence[OnSend], on_event: OnEvent) -> SendHooks | None:
        """Return the hooks; None if there are none, so that they cost nothing."""
        return cls(hooks, on_event) if hooks else None

    def announce(
        self,
        stream: str,
        payload: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
        *,
        many: ManyMessages | None = None,
        server: tuple[str, int] | None = None,
    ) -> Announced:
        """Call the hooks with a message that is about to be encoded."""
        message = Outgoing(
            payload, key, headers, stream=stream, many=many, server=server
        )
        announced = Announced(self, message)
        given = message.headers
        if not isinstance(given, dict):
            return announced  # refused when the message is packed
        for hook in self._hooks:
            before = dict(given)
            try:
                listener = hook(message)
            except Exception as error:  # noqa: BLE001 - the user's function
                given.clear()
                given.update(before)
                self.report(hook, stream, error)
            except BaseException as exit_:
                announced.settle(exit_)
                raise
            else:
                if listener is not None:
                    announced.listeners.append(listener)
        return announced

    def report(self, hook: Any, stream: str, error: Exception) -> None:
        """Report an exception of a hook, or of a function that hears an outcome."""
        name = printable(name_of(hook.func if isinstance(hook, partial) else hook))
        facts = {"stream": stream, "hook": name, "error": type(error).__name__}
        self._on_event(Event("on_send_failed", logging.ERROR, facts, error))
