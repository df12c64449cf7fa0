"""Settlement: entries are opened as messages, and their outcomes are recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import copy
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from penstock._core.ledger.entry import SIZED_ABOVE, Entry
from penstock._core.ledger.failure_policy import (
    NACKED,
    DeadLettered,
    Dropped,
    RetryAt,
    Stopped,
)
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import (
    ACKED,
    POSTPONED,
    QUEUED,
    REDELIVERED,
    RELEASED,
    TO_COUNT,
)
from penstock._core.messages import envelope
from penstock._core.messages.decoding import Decoder, undecodable
from penstock._core.messages.envelope import PAYLOAD
from penstock.codecs import Codec
from penstock.errors import ClosedError, DecodeError, UsageError
from penstock.message import Message, Receipt
from penstock.transaction import Transaction

__all__ = ["FailureOutcomes", "Identity", "Settler", "Transactions", "check_open"]

T = TypeVar("T")

# Nobody has the message of an entry in one of these states.
_NOT_HANDED_OUT: Final = frozenset((QUEUED, REDELIVERED, TO_COUNT, POSTPONED))
_REFUSED: Final = "nacked, rejected or given up"
_TWICE: Final = (
    "{} came too late: the message has been {} already; give each message one outcome"
)


def check_open(entry: Entry, call: str) -> None:
    """Check that an entry has no outcome.

    Raises:
        UsageError: The entry has an outcome.
        ClosedError: The entry was released.
    """
    if entry.state is RELEASED:
        raise ClosedError("consumer")
    if entry.disposition is not None:
        raise UsageError(_TWICE.format(call, _REFUSED))
    if entry.state in ACKED:
        raise UsageError(_TWICE.format(call, "acknowledged"))


class FailureOutcomes(Protocol):
    """Decides the outcomes of messages that are not acknowledged."""

    def nack(
        self, entry: Entry, fields: Sequence[bytes], delay: float | None
    ) -> None: ...
    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> None: ...
    def undecodable(self, entry: Entry, error: DecodeError) -> None: ...
    def lease_left(self, entry: Entry) -> float: ...
    def watch(self, entry: Entry, tell: Callable[..., None]) -> None: ...


class Identity(NamedTuple):
    """Which consumer receives messages, and from where, for traces.

    Attributes:
        group: The group; empty in REALTIME.
        consumer: The consumer's name; empty in REALTIME.
        host: The server's host, or the path of its socket.
        port: The server's port; 0 for a socket.
    """

    group: str
    consumer: str
    host: str
    port: int


class Batches(Protocol):
    """Moves batches of messages elsewhere."""

    def relay(self, items: Sequence[tuple[Any, Any]], push: Any) -> Awaitable[Any]: ...


class Transactions(Protocol):
    """Begins transactions."""

    def begin(self, entry: Entry, fields: Sequence[bytes]) -> Transaction[Receipt]: ...


class Settler(Decoder[T]):
    """Serves the messages of one consumer.

    Args:
        ledger: The consumer's ledger.
        codec: Decodes payloads; with None the payload is the whole entry as `Fields`.
        refusals: Decides the outcomes of messages that are not acknowledged.
        max_message_bytes: Larger messages are not decoded.
        why_no_ack: The reason why messages can't be acknowledged by hand, and what to
            do about it; None if they can.
        on_loop_thread: Returns whether the running thread is the consumer's.
        transactions: Begins transactions; None if messages can't be acknowledged.
        field: The name of the payload's field.
        batches: Moves batches elsewhere; None if messages can't be acknowledged.
        identity: Which consumer it is; None in tests without a server.

    Attributes:
        identity: Which consumer it is.
    """

    __slots__ = (
        "_ledger",
        "_max_message_bytes",
        "_on_loop_thread",
        "_refusals",
        "_transactions",
        "_unmeasured_size",
        "_why_no_ack",
        "batches",
        "identity",
    )

    def __init__(
        self,
        ledger: Ledger,
        codec: Codec[T] | None,
        refusals: FailureOutcomes,
        *,
        max_message_bytes: int,
        why_no_ack: str | None,
        on_loop_thread: Callable[[], bool],
        transactions: Transactions | None = None,
        field: bytes = PAYLOAD,
        batches: Batches | None = None,
        identity: Identity | None = None,
    ) -> None:
        super().__init__(codec, field)
        self._max_message_bytes = max_message_bytes
        # An entry's size may be its share of a reply of at most `SIZED_ABOVE` bytes.
        # Then only the size of that reply bounds the entry for certain. So with a lower
        # limit every entry has to be measured.
        self._unmeasured_size = (
            max_message_bytes if max_message_bytes >= SIZED_ABOVE else 0
        )
        self._ledger = ledger
        self._refusals = refusals
        self._why_no_ack = why_no_ack
        self.identity = identity
        self._on_loop_thread = on_loop_thread
        self._transactions = transactions
        self.batches = batches

    def open(self, entry: Entry) -> Message[T] | None:
        """Return a message for a taken entry, or None if the entry can't be decoded.

        An entry that can't be decoded has its outcome then, and is no longer in
        progress.
        """
        fields = entry.fields
        small = entry.size <= self._unmeasured_size
        if small and self._raw and fields[0] == self._field:
            return Message(entry, self, fields, fields[1])
        try:
            if not small:
                self._measure(entry, fields)
            return Message(entry, self, fields, self.payload(entry, fields))
        except DecodeError as error:
            self._refusals.undecodable(entry, error)
            return None
        except BaseException:  # for example, a codec ends the process
            self._ledger.finish(entry, ack=False)
            raise

    def open_all(
        self, entries: Iterable[Entry]
    ) -> tuple[list[Entry], list[Message[T]]]:
        """Return the entries that can be decoded, and their messages; see `open`.

        Both lists are in the order of the entries. If this raises, none of the entries
        is in progress any more.
        """
        opened: list[Entry] = []
        messages: list[Message[T]] = []
        rest = iter(entries)
        try:
            for entry in rest:
                message = self.open(entry)
                if message is not None:
                    opened.append(entry)
                    messages.append(message)
        except BaseException:
            self._ledger.finish_all((*opened, *rest), ack=False)
            raise
        return opened, messages

    def _measure(self, entry: Entry, fields: Sequence[bytes]) -> None:
        """Check that an entry is not too large.

        Raises:
            DecodeError: The entry is too large.
        """
        size, limit = envelope.size(fields, self._field), self._max_message_bytes
        if size > limit:
            raise undecodable(
                entry, f"its {size} bytes are more than max_message_bytes={limit}"
            )

    def with_codec(self, codec: Codec[Any] | None) -> Settler[Any]:
        """Return a settler of the same consumer that uses another codec."""
        settler: Settler[Any] = copy(self)
        Decoder.__init__(settler, codec, self._field)
        return settler

    def ack(self, entry: Entry) -> bool:
        """Record an acknowledgement and return whether it counts.

        Raises:
            UsageError: Messages can't be acknowledged by hand, or not from this thread,
                or the message was nacked or rejected.
            ClosedError: The entry was released.
        """
        self._check("ack()")
        if entry.disposition is not None:
            raise UsageError(_TWICE.format("ack()", _REFUSED))
        if not self._ledger.ack(entry):
            raise ClosedError("consumer")
        return entry.state in ACKED

    def ack_by_id(self, stream: str, number: int | None, id: bytes) -> bool:  # noqa: A002
        """Record an acknowledgement of a message that was handed out.

        Args:
            stream: The stream's name.
            number: The shard's number; None for any.
            id: The entry's id.

        Returns:
            Whether it counts; False also if the message is not held here.

        Raises:
            UsageError: See `ack`; or several shards have a message of that id.
            ClosedError: See `ack`.
        """
        self._check("ack()")
        found = [
            entry
            for state in self._ledger.shards.values()
            if state.shard.stream == stream and number in {None, state.shard.number}
            if (entry := state.entries.get(id)) is not None
            and entry.state not in _NOT_HANDED_OUT
        ]
        if len(found) > 1:
            raise UsageError(
                f"several shards of {stream!r:.80} have a message {id.decode()}; pass "
                f"shard=, or use message.ack()"
            )
        return bool(found) and self.ack(found[0])

    def nack(self, entry: Entry, fields: Sequence[bytes], delay: float | None) -> bool:
        """Record that an entry is to be retried; returns and raises as `ack` does."""
        self._check("nack()")
        disposition = entry.disposition
        if (
            isinstance(disposition, DeadLettered | Dropped | Stopped)
            and disposition.reason == NACKED
        ):
            return True  # nacked before, at the last attempt
        if self._refusable(entry, "nack()", RetryAt):
            self._refusals.nack(entry, fields, delay)
        return entry.disposition is not None

    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> bool:
        """Record that an entry is rejected; returns and raises as `ack` does."""
        self._check("reject()")
        if self._refusable(entry, "reject()", DeadLettered | Dropped | Stopped):
            self._refusals.reject(entry, fields, reason)
        return entry.disposition is not None

    def transaction(
        self, entry: Entry, fields: Sequence[bytes]
    ) -> Transaction[Receipt]:
        """Begin a transaction; raises as `ack` does, and after any outcome."""
        if self._why_no_ack is not None:
            why = self._why_no_ack
            raise UsageError(f"transaction() acknowledges its message: {why}")
        self._check("transaction()")
        check_open(entry, "transaction()")
        assert self._transactions is not None  # noqa: S101 - `why_no_ack` is None
        return self._transactions.begin(entry, fields)

    def _refusable(self, entry: Entry, call: str, same: Any) -> bool:
        """Return whether an entry has no outcome yet; False if it has the same one."""
        if entry.state is not RELEASED and isinstance(entry.disposition, same):
            return False
        check_open(entry, call)
        return True

    def _check(self, call: str) -> None:
        if self._why_no_ack is not None:
            raise UsageError(self._why_no_ack)
        if not self._on_loop_thread():
            raise UsageError(
                f"{call} was called outside the consumer's thread; use "
                f"loop.call_soon_threadsafe, or a handler that is not an async "
                f"function"
            )

    def lost(self, entry: Entry) -> bool:
        """Return whether this delivery of an entry no longer counts."""
        return self._ledger.is_lost(entry)

    def lease_left(self, entry: Entry) -> float:
        """Return the seconds until other consumers may claim an entry."""
        return self._refusals.lease_left(entry)

    def watch(self, entry: Entry, tell: Callable[..., None]) -> None:
        """Have a function told what becomes of an entry whose handler has ended."""
        self._refusals.watch(entry, tell)
