"""A message at its handler, without a server: the real ledger and policy decide."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from penstock import _clock
from penstock._core.handling.settlement import Settler
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Dropped,
    RetryAt,
    Stopped,
)
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.limits import LedgerLimits, LedgerSignals
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.states import ACKED, RUNNING, State
from penstock._core.messages.shard_keys import numbered, single
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.handling.attempt_watches import AttemptWatches
from penstock._tasks.handling.failures import FailureHandler
from penstock._tasks.send_hooks import SendHooks
from penstock.durations import count
from penstock.errors import ConfigurationError, DecodeError
from penstock.message import EntryId
from penstock.testing._outcomes import Outcome, Status
from penstock.testing._transactions import RecordedTransactions

__all__ = ["LocalEntry", "new_id"]

# The sequence numbers of ids that tests did not choose, so that each id is unique.
_numbers: Final = itertools.count(1)


class LocalEntry:
    """An entry that a handler has, in a ledger of its own.

    Args:
        config: The configuration of the consumer that it belongs to.
        fields: Its fields.
        stream: The name of its stream.
        shard: The number of its shard; 0 for a stream that is one key.
        id: Its id.
        attempt: The number of this attempt, from 1.

    Attributes:
        entry: The entry.
        ledger: Its ledger.
        failures: Decides what becomes of it, and records the errors.
        transactions: Its transactions.
    """

    def __init__(
        self,
        config: ConsumerConfig[Any],
        fields: Sequence[bytes],
        *,
        stream: str,
        shard: int,
        id: EntryId,  # noqa: A002 - what it is
        attempt: int,
    ) -> None:
        self._config = config
        self.ledger = ledger = _ledger_of(config)
        state = ledger.shards.of(numbered(stream, shard) if shard else single(stream))
        self.entry = entry = Entry(
            state,
            bytes(id),
            fields,
            size=sum(map(len, fields)),
            deliveries=count(attempt, "attempt"),
            leased_at=_clock.boottime(),
            state=RUNNING,
        )
        if config.acknowledges:
            state.entries[entry.id] = entry
        ledger.flow.held += 1
        ledger.flow.size += entry.size
        self.failures = RecordedFailures(
            ledger,
            config.retry,
            config.dead_letter_policy,
            at_most_once=config.noack,
            on_stop=lambda _: None,
            on_event=config.on_event,
        )
        hooks = SendHooks.of(config.on_send, config.on_event)
        self.transactions = RecordedTransactions(ledger, hooks)

    def settler(self, kind: type[Settler[Any]]) -> Settler[Any]:
        """Create a settler of the given class, which serves the entry's message."""
        config = self._config
        return kind(
            self.ledger,
            config.codec,
            self.failures,
            max_message_bytes=config.max_message_bytes,
            why_no_ack=config.why_no_ack,
            on_loop_thread=lambda: True,
            transactions=self.transactions,
            field=config.payload_field,
        )

    def outcome(self) -> Outcome | None:
        """Return the outcome; None while there is none."""
        entry, error = self.entry, self.failures.error
        status, reason = _status_of(entry), ""
        delay: float | None = None
        match entry.disposition:
            case RetryAt():
                status, delay = Status.RETRIED, entry.disposition.delay
            case DeadLettered(reason=reason):
                status = Status.DEAD_LETTERED
            case Dropped(reason=reason):
                status = Status.DROPPED
            case Stopped(reason=reason):
                status = Status.STOPPED
        if status is None:
            return None
        return Outcome(status, entry.deliveries, error, reason, delay)


class RecordedFailures(FailureHandler):
    """A failure handler that keeps the last error."""

    error: BaseException | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.watches = AttemptWatches(letters=False)

    def failed(self, entry: Entry, error: BaseException, handler: str) -> None:
        """Finish an entry whose handler raised."""
        self.error = error
        super().failed(entry, error, handler)

    def undecodable(self, entry: Entry, error: DecodeError) -> None:
        """Finish an entry that can't be decoded."""
        self.error = error
        super().undecodable(entry, error)


def new_id(id: EntryId | str | None, time: datetime | None) -> EntryId:  # noqa: A002
    """Return the id of a message of a test.

    Args:
        id: The id; default: a unique one.
        time: The time in it; default: now.

    Raises:
        ConfigurationError: Both are given, or one is invalid.
    """
    if id is None:
        now = EntryId(int(_clock.wall() * 1000)) if time is None else EntryId.at(time)
        return EntryId(now.ms, next(_numbers))
    if time is not None:
        raise ConfigurationError("id= includes the time; leave time= out")
    return EntryId.parse(id) if isinstance(id, str) else id


def _ledger_of(config: ConsumerConfig[Any]) -> Ledger:
    most, pending = config.prefetch.max_messages, config.commit_max_pending
    return Ledger(
        PrefetchWindow(most, config.prefetch.max_bytes, config.max_wait),
        LedgerLimits(
            max_pending=pending,
            max_attempts=config.retry.max_attempts if config.retry else None,
            lease=config.lease,
            acknowledges=config.acknowledges,
        ),
        LedgerSignals(
            on_capacity=_ignore,
            on_outcomes=_ignore,
            on_ready=_ignore,
            on_postponed=_ignore,
            on_exhausted=_ignore,
        ),
    )


def _ignore(*_: object) -> None:
    """Ignore a signal: no other task waits for it."""


def _status_of(entry: Entry) -> Status | None:
    if entry.state in ACKED:
        return Status.ACKNOWLEDGED
    return Status.UNACKNOWLEDGED if entry.state is State.UNSETTLED else None
