"""Ends of spans, once it is known what becomes of the messages that have failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock import _clock
from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Disposition,
    Dropped,
    RetryAt,
)
from penstock.message import Message
from penstock.observe import _semantic_conventions as names

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["SpanEnding"]


class SpanEnding:
    """The end of a span whose messages may have failed.

    It ends at the moment at which this was created, though that is told later.

    Args:
        span: The span.
        error: The exception of the handler.
        fail: Records in the span an exception, or the reason if there was none.
        several: Whether the span is of several messages.
    """

    def __init__(
        self,
        span: Span,
        error: BaseException | None,
        fail: Callable[[Span, BaseException | None, str], None],
        *,
        several: bool,
    ) -> None:
        self._span = span
        self._error = error
        self._fail = fail
        self._several = several
        self._reason = ""
        self._at = _clock.wall_ns()
        self._left = 0

    def waits_for(self, messages: Sequence[Message[Any]]) -> None:
        """End the span when it is known what becomes of these messages."""
        self._left = 1
        for message in messages:
            settler: Any = message._settler  # noqa: SLF001 - no one else needs it
            watch = getattr(settler, "watch", None)
            if watch is not None:
                self._left += 1
                watch(message._entry, partial(self._told, str(message.id)))  # noqa: SLF001
        self._one_less()

    def _told(
        self,
        id: str,  # noqa: A002 - what it is
        disposition: Disposition | None,
        error: BaseException | None,
        letter: bytes,
    ) -> None:
        # A handler that took too long has heard of a cancellation.
        self._error = error or self._error
        self._add_event(id, disposition, letter)
        self._one_less()

    def _add_event(
        self,
        id: str,  # noqa: A002 - what it is
        disposition: Disposition | None,
        letter: bytes,
    ) -> None:
        attributes: dict[str, str | float] = {}
        if self._several:
            attributes[names.MESSAGE_ID] = id
        if isinstance(disposition, RetryAt):
            self._reason = self._reason or "retry"
            attributes[names.RETRY_DELAY] = disposition.delay
            self._span.add_event("retry", attributes, self._at)
        elif isinstance(disposition, DeadLettered):
            self._reason = disposition.cause
            if letter:
                attributes[names.LETTER_ID] = letter.decode()
            self._span.add_event("dead_lettered", attributes, self._at)
        elif disposition is not None:
            self._reason = "dropped" if isinstance(disposition, Dropped) else "stopped"
            self._span.add_event(self._reason, attributes, self._at)

    def _one_less(self) -> None:
        self._left -= 1
        if self._left:
            return
        if self._error is not None or self._reason:
            self._fail(self._span, self._error, self._reason)
        self._span.end(self._at)
