"""Failure handling: what becomes of messages that are not acknowledged, and reports.

`_core/ledger/failure_policy.py` makes the decision. This module passes it the time, a
random number and the exception.
"""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from msgspec.structs import replace

from penstock import _chance, _clock
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import (
    NACKED,
    DeadLettered,
    Disposition,
    FailedAttempt,
    RetryAt,
    Stopped,
    decide,
)
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import WITH_HANDLER
from penstock._tasks.handling.attempt_watches import AttemptWatches, OnDisposition
from penstock._tracebacks import place_of
from penstock.durations import seconds
from penstock.errors import DecodeError, GaveUp
from penstock.events import Event, OnEvent, printable
from penstock.retries import Backoff, DeadLetters, Retry

__all__ = ["FailureHandler", "HandlerTimeout", "Observer", "is_own"]

# The minimum time between two reports of undecodable messages, in seconds: a stream of
# foreign entries must not fill a log.
_REPORT_INTERVAL: Final = 1.0


Observer: TypeAlias = Callable[[Entry, Disposition, BaseException | None], None]


class HandlerTimeout(TimeoutError):  # noqa: N818 - after its parent
    """A handler took longer than `Retry.timeout`."""


class FailureHandler:
    """Handles entries whose handlers failed.

    Args:
        ledger: Records the outcomes.
        retry: The policy; None where nothing can be retried, because nothing is
            acknowledged, or only by time.
        dead_letter_policy: What to do instead of keeping dead letters; None keeps them.
        at_most_once: Whether no handler may be started twice with an entry.
        delays: Whether handlers may choose the delay of the next attempt.
        on_stop: Called with the reason why the consumer has to stop.
        on_event: Called to report each failure, and each message that was given up.

    Attributes:
        observer: Called with each entry that failed or was refused, what becomes of it,
            and the exception, if there was one.
        watches: Those who are told what becomes of single entries.
    """

    def __init__(
        self,
        ledger: Ledger,
        retry: Retry | None,
        dead_letter_policy: DeadLetters | None,
        *,
        at_most_once: bool = False,
        delays: bool = True,
        on_stop: Callable[[GaveUp], None],
        on_event: OnEvent,
    ) -> None:
        self.observer: Observer | None = None
        self.watches = AttemptWatches()
        self._delays = delays
        self._ledger = ledger
        self._at_most_once = at_most_once
        self._retry = retry
        self._dead_letter_policy = dead_letter_policy
        self._on_stop = on_stop
        self._on_event = on_event
        self._unreported = 0
        self._report_at = 0.0

    def failed(self, entry: Entry, error: BaseException, handler: str) -> None:
        """Finish an entry whose handler raised.

        Args:
            entry: The entry.
            error: The exception.
            handler: The handler's name.
        """
        if self._retry is None or entry.state not in WITH_HANDLER:
            # The entry has an outcome, or is to have none.
            self._ledger.finish(entry, ack=False)
            self._report_failure(entry, handler, error, None, type(error).__name__)
            self.watches.decided(entry, entry.disposition, error)
            return
        entry.handler = handler
        timed_out = isinstance(error, HandlerTimeout)
        retry = _may_retry(self._retry, error, entry)
        name = "TimeoutError" if timed_out else type(error).__name__
        reason = "it took too long" if timed_out else _describe(error)
        own = is_own(error, entry)
        failure = FailedAttempt(
            reason, retry, error=name, cause="undecodable" if own else "attempts"
        )
        disposition = self._decide(entry, failure)
        if isinstance(disposition, DeadLettered):
            disposition = replace(
                disposition, traceback=_traceback_of(error), started=not own
            )
        earlier = entry.disposition
        self._report_failure(entry, handler, error, earlier or disposition, name)
        self._observe(entry, earlier or disposition, error)
        self._ledger.fail(entry, disposition)
        if earlier is None:
            self._give_up(entry, disposition, name, error)

    def exited(self, entry: Entry) -> None:
        """Finish an entry whose handler ends more than itself, without an outcome."""
        self.watches.decided(entry, None, None)
        self._ledger.finish(entry, ack=False)

    def interrupted(self, entry: Entry) -> None:
        """Put back an entry whose handler Penstock cancelled: that is no attempt."""
        self.watches.decided(entry, None, None)
        if self._at_most_once:
            self._ledger.finish(entry, ack=False)
        else:
            self._ledger.put_back(entry)

    def nack(self, entry: Entry, fields: Sequence[bytes], delay: float | None) -> None:
        """Retry an entry.

        Raises:
            ConfigurationError: The delay is not valid.
        """
        if delay is not None:
            chosen = seconds(delay, "nack(delay)")
            delay = chosen if self._delays else 0.0
        self._refuse(entry, fields, FailedAttempt(NACKED, retry=True, delay=delay))

    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> None:
        """Give an entry up."""
        failure = FailedAttempt(reason, retry=False, error="rejected", cause="rejected")
        self._refuse(entry, fields, failure)

    def exhausted(self, entry: Entry) -> None:
        """Give an entry up that was redelivered after its last attempt."""
        reason = (
            "during its last attempt the process ended or was stopped, or the message "
            "got no outcome"
        )
        failure = FailedAttempt(reason, retry=False, cause="poison")
        self._refuse(entry, entry.fields, failure)

    def undecodable(self, entry: Entry, error: DecodeError) -> None:
        """Finish an entry that was taken and can't be decoded."""
        entry.shard_state.counters.undecodable += 1
        if self._retry is None:
            self._ledger.finish(entry, ack=False)
            self._report_undecodable(entry, error)
            return
        failure = FailedAttempt(
            error.reason, retry=False, error="DecodeError", cause="undecodable"
        )
        disposition = self._decide(entry, failure)
        if isinstance(disposition, DeadLettered):
            disposition = replace(disposition, started=False)
        self._observe(entry, disposition, error)
        self._ledger.fail(entry, disposition)
        self._give_up(entry, disposition, f"DecodeError: {error.reason}", error)

    def lease_left(self, entry: Entry) -> float:
        """Return the seconds until other consumers may claim an entry."""
        return self._ledger.leases.left(entry, _clock.boottime())

    def watch(self, entry: Entry, tell: OnDisposition) -> None:
        """Have a function told what becomes of an entry; see `AttemptWatches`."""
        self.watches.watch(entry, tell)

    def _refuse(
        self, entry: Entry, fields: Sequence[bytes], failure: FailedAttempt
    ) -> None:
        disposition = self._decide(entry, failure)
        self._ledger.refuse(entry, disposition, fields)
        # Otherwise it came too late: this delivery of the entry no longer counts.
        if entry.disposition is disposition:
            self._observe(entry, disposition, None)
            self._give_up(entry, disposition, failure.error or failure.reason, None)

    def _observe(
        self, entry: Entry, disposition: Disposition, error: BaseException | None
    ) -> None:
        self.watches.decided(entry, disposition, error)
        if self.observer is not None:
            self.observer(entry, disposition, error)

    def _decide(self, entry: Entry, failure: FailedAttempt) -> Disposition:
        retry = self._retry or Retry()
        facts = {"now": _clock.boottime(), "chance": _chance.fraction()}
        attempt = entry.deliveries
        try:
            return decide(failure, attempt, retry, self._dead_letter_policy, **facts)
        except Exception as error:  # noqa: BLE001 - the user's backoff function
            kind = type(error).__name__
            self._on_event(Event("backoff_failed", logging.ERROR, {"error": kind}))
            default = dataclasses.replace(retry, backoff=Backoff())
            return decide(failure, attempt, default, self._dead_letter_policy, **facts)

    def _give_up(
        self,
        entry: Entry,
        disposition: Disposition,
        kind: str,
        error: BaseException | None,
    ) -> None:
        """Report an entry that was given up, and stop the consumer if it has to stop.

        An entry that is retried is not given up: nothing is done then.
        """
        if isinstance(disposition, RetryAt):
            return
        facts = {
            **_entry_facts(entry),
            "reason": kind,
            "then": type(disposition).__name__.lower(),
        }
        self._on_event(Event("gave_up", logging.ERROR, facts))
        if isinstance(disposition, Stopped):
            stream, id_ = entry.shard.stream, entry.id.decode()
            reason = GaveUp(stream, id_, entry.deliveries, kind)
            reason.__cause__ = error
            self._on_stop(reason)

    def _report_failure(
        self,
        entry: Entry,
        handler: str,
        error: BaseException,
        disposition: Disposition | None,
        kind: str,
    ) -> None:
        # Only the type and place of the exception: its text may quote the payload.
        facts = {**_entry_facts(entry), "handler": printable(handler), "error": kind}
        if (place := place_of(error, handler)) is not None:
            facts["at"] = place
        if isinstance(disposition, RetryAt):
            facts["again_in"] = round(disposition.delay, 3)
        level = logging.WARNING if isinstance(disposition, RetryAt) else logging.ERROR
        self._on_event(Event("handler_failed", level, facts, error))

    def _report_undecodable(self, entry: Entry, error: DecodeError) -> None:
        self._unreported += 1
        at = _clock.boottime()
        if at < self._report_at:
            return
        facts = {
            **_entry_facts(entry),
            "reason": error.reason,
            "messages": self._unreported,
        }
        self._unreported, self._report_at = 0, at + _REPORT_INTERVAL
        self._on_event(Event("undecodable", logging.ERROR, facts, error))


def _may_retry(retry: Retry, error: BaseException, entry: Entry) -> bool:
    """Return whether an entry may be retried after an exception."""
    if isinstance(error, HandlerTimeout):
        return not isinstance(error, retry.give_up_on)
    if is_own(error, entry):
        return False  # a retry would fail too
    # A handler that cancels itself has failed like one that raises.
    return retry.allows(error) or not isinstance(error, Exception)


def is_own(error: BaseException, entry: Entry) -> bool:
    """Return whether an exception says that this entry can't be decoded.

    Then no handler had the entry.
    """
    return isinstance(error, DecodeError) and error.id == entry.id.decode()


def _describe(error: BaseException) -> str:
    """Return an exception's type and text; its type only, if the text raises."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # noqa: BLE001 - whatever its __str__ raises
        return name


def wall_clock() -> str:
    """Return the time for a dead letter."""
    return _clock.utc().isoformat(timespec="milliseconds")


def _entry_facts(entry: Entry) -> dict[str, object]:
    return {
        "stream": entry.shard.stream,
        "id": entry.id.decode(),
        "attempt": entry.deliveries,
    }


def _traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
