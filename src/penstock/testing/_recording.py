"""Records of consumers: what has become of their messages, for tests that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Disposition,
    Dropped,
    Stopped,
)
from penstock._tasks import session as sessions
from penstock._tasks.session import Session
from penstock.message import Receipt
from penstock.testing._outcomes import Outcome, Status

__all__ = ["Key", "Record", "key_of", "record_of"]

# The most outcomes, and errors, that a consumer's record has; older ones are dropped.
_MOST: Final = 100_000

Key: TypeAlias = tuple[str, int, bytes]
"""The stream, the number of the shard, and the id."""


class Record:
    """What has become of the messages of one consumer.

    Attributes:
        outcomes: The outcomes that the server has confirmed.
        errors: The last exceptions of handlers, for messages without an outcome.
        listeners: Called when an outcome was added.
    """

    def __init__(self) -> None:
        self.outcomes: dict[Key, Outcome] = {}
        self.errors: dict[Key, BaseException] = {}
        self.listeners: dict[Callable[[], None], None] = {}

    def confirmed(self, entries: Sequence[Entry]) -> None:
        """Record entries whose outcome the server has confirmed."""
        for entry in entries:
            self._add(entry, entry.disposition)

    def failed(
        self, entry: Entry, disposition: Disposition, error: BaseException | None
    ) -> None:
        """Record an entry that failed or was refused."""
        key = _key(entry)
        self.errors.pop(key, None)
        if error is not None:
            _put(self.errors, key, error)
        if isinstance(disposition, Stopped):  # the server is not told
            self._add(entry, disposition)

    def _add(self, entry: Entry, disposition: Disposition | None) -> None:
        key = _key(entry)
        error, reason = self.errors.pop(key, None), ""
        status = Status.ACKNOWLEDGED
        match disposition:
            case DeadLettered(reason=reason):
                status = Status.DEAD_LETTERED
            case Dropped(reason=reason):
                status = Status.DROPPED
            case Stopped(reason=reason):
                status = Status.STOPPED
            case _:
                error = None  # of an earlier attempt
        _put(self.outcomes, key, Outcome(status, entry.deliveries, error, reason))
        for listener in [*self.listeners]:
            listener()


_records: WeakKeyDictionary[Session[Any], Record] = WeakKeyDictionary()


def record_of(session: Session[Any]) -> tuple[Record, bool]:
    """Return the record of a consumer, and whether it has had one since it opened."""
    complete = session in _records
    if not complete:
        _observe(session)
    return _records[session], complete


def key_of(receipt: Receipt) -> Key:
    """Return the key of a message, by its receipt."""
    return receipt.stream, receipt.shard, bytes(receipt.id)


def _observe(session: Session[Any]) -> None:
    record = _records[session] = Record()
    session.ledger.acks.observer = record.confirmed
    session.parts.failures.observer = record.failed


def _key(entry: Entry) -> Key:
    return entry.shard.stream, entry.shard.number, entry.id


def _put(kept: dict[Key, Any], key: Key, value: object) -> None:
    if len(kept) >= _MOST:
        del kept[next(iter(kept))]
    kept[key] = value


# From the import of `penstock.testing` on: a message may have its outcome before a test
# comes to wait for it.
sessions.observers.append(_observe)
