"""The values that users hold: ids, receipts and messages.

Nothing in this module talks to a server. A `Message` decodes its entry on demand, so
the parts that a handler does not use are never decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from msgspec import UNSET, Struct

from penstock.errors import ConfigurationError
from penstock.fields import Headers
from penstock.transaction import Transaction

__all__ = ["EntryId", "Message", "Receipt", "Shard"]

T_co = TypeVar("T_co", covariant=True)

_U64_MAX: Final = 2**64 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# In milliseconds this is the year 3,170,843; in nanoseconds, a day of 1973.
_NANOSECONDS: Final = 10**17
# ASCII only: `\d` and int() would also accept the digits of other scripts.
_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


@dataclass(frozen=True, order=True, slots=True)
class EntryId:
    """An entry's id: two unsigned 64-bit numbers, compared as numbers.

    Attributes:
        ms: Milliseconds since 1970 by the server's clock, unless the sender chose them.
        seq: Distinguishes the entries of one millisecond.

    Raises:
        ConfigurationError: A part is not an integer from 0 to 2**64 - 1.

    Example:
        >>> EntryId.parse("1678280595282-7") < EntryId(1678280595283)
        True
    """

    ms: int
    seq: int = 0

    MIN: ClassVar[EntryId]
    MAX: ClassVar[EntryId]

    def __post_init__(self) -> None:
        for part in (self.ms, self.seq):
            if type(part) is not int or not 0 <= part <= _U64_MAX:
                raise ConfigurationError(
                    f"{part!r:.40} is not a part of an entry id; pass integers from 0 "
                    f"to 2**64 - 1"
                )

    @classmethod
    def parse(cls, text: str | bytes) -> EntryId:
        """Parse `"ms-seq"`, or a bare `"ms"`, which means `"ms-0"`.

        Raises:
            ConfigurationError: The text is not an id.
        """
        if isinstance(text, bytes):
            text = text.decode("ascii", "replace")
        match = _ID.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"{text!r:.60} is not an entry id; pass one like '1678280595282-7'"
            )
        return cls(int(match[1]), int(match[2] or 0))

    @classmethod
    def at(cls, moment: datetime, *, nanoseconds: bool = False) -> EntryId:
        """Return the first id of the millisecond of an aware datetime.

        Args:
            moment: The datetime.
            nanoseconds: Whether the ids count nanoseconds: then it is the first id of
                the microsecond. These ids end in the year 2554.

        Raises:
            ConfigurationError: The datetime is naive, or before 1970.
        """
        if moment.utcoffset() is None:
            raise ConfigurationError(
                "a naive datetime is ambiguous; add a time zone, for example "
                "datetime.now(UTC)"
            )
        if nanoseconds:
            microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
            return cls(min(microseconds * 1000, _U64_MAX))
        return cls((moment - _EPOCH) // timedelta(milliseconds=1))

    @property
    def counts_nanoseconds(self) -> bool:
        """Whether the id counts nanoseconds, as SeaStreamer's may: from 10**17 on."""
        return self.ms >= _NANOSECONDS

    @property
    def timestamp(self) -> datetime:
        """The id's time, as an aware datetime in UTC.

        Raises:
            OverflowError: The id was chosen by its sender, and lies beyond the year
                9999.
        """
        if self.counts_nanoseconds:
            return _EPOCH + timedelta(microseconds=self.ms // 1000)
        return _EPOCH + timedelta(milliseconds=self.ms)

    def next(self) -> EntryId:
        """Return the smallest id above this one.

        Raises:
            ConfigurationError: This is the largest possible id.
        """
        if self.seq < _U64_MAX:
            return EntryId(self.ms, self.seq + 1)
        return EntryId(self.ms + 1, 0)

    def previous(self) -> EntryId:
        """Return the largest id below this one; for `0-0`, this id itself."""
        if self.seq:
            return EntryId(self.ms, self.seq - 1)
        return EntryId(self.ms - 1, _U64_MAX) if self.ms else self

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    def __bytes__(self) -> bytes:
        return b"%d-%d" % (self.ms, self.seq)


EntryId.MIN = EntryId(0, 0)
EntryId.MAX = EntryId(_U64_MAX, _U64_MAX)


class Shard(Struct, frozen=True):
    """One key of a stream.

    Attributes:
        stream: The stream's name.
        number: The number in the shard's key; 0 for a stream that is one key.
        key: The key on the server.
    """

    stream: str
    number: int
    key: bytes


class Receipt(Struct, frozen=True):
    """The server's confirmation of a message that it stored.

    Attributes:
        stream: The stream's name.
        shard: The shard's number; 0 for a stream that is one key.
    """

    stream: str
    shard: int
    # The id as the server sent it; parsed on demand, since most are never used.
    _raw: bytes

    @property
    def id(self) -> EntryId:
        """The entry's id."""
        return EntryId.parse(self._raw)

    @property
    def timestamp(self) -> datetime:
        """The id's time, as an aware datetime in UTC."""
        return self.id.timestamp

    def __repr__(self) -> str:
        return f"Receipt(stream={self.stream!r}, shard={self.shard}, id={self.id!s})"


class Delivered(Protocol):
    """The part of the ledger's entry that a message needs."""

    @property
    def shard(self) -> Shard: ...
    @property
    def id(self) -> bytes: ...
    @property
    def deliveries(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def fields(self) -> Sequence[bytes]: ...


class Settlement(Protocol[T_co]):
    """Decodes the entries of messages and records their outcomes."""

    def payload(self, entry: Any, fields: Sequence[bytes]) -> T_co: ...
    def key(self, fields: Sequence[bytes]) -> str | None: ...
    def headers(self, fields: Sequence[bytes]) -> Headers: ...
    def ack(self, entry: Any) -> bool: ...
    def nack(
        self, entry: Any, fields: Sequence[bytes], delay: float | None
    ) -> bool: ...
    def reject(self, entry: Any, fields: Sequence[bytes], reason: str) -> bool: ...
    def transaction(
        self, entry: Any, fields: Sequence[bytes]
    ) -> Transaction[Receipt]: ...
    def lost(self, entry: Any) -> bool: ...
    def lease_left(self, entry: Any) -> float: ...


class Message(Struct, Generic[T_co], eq=False, gc=False):
    """One message as a handler receives it; only Penstock creates messages.

    The attributes that cost something (`payload`, `headers`, `key`, `id`) are computed
    when they are used; `payload` is cached.
    """

    _entry: Delivered
    _settler: Settlement[T_co]
    # The ledger drops the entry's fields with its outcome; messages may live longer.
    _fields: Sequence[bytes]
    _payload: Any = UNSET

    @property
    def payload(self) -> T_co:
        """The payload, decoded as the consumer's payload type.

        Raises:
            DecodeError: The entry does not hold a payload of this type.
        """
        payload: T_co = self._payload
        if payload is UNSET:
            self._payload = payload = self._settler.payload(self._entry, self._fields)
        return payload

    @property
    def key(self) -> str | None:
        """The key with which the message was sent, or None."""
        return self._settler.key(self._fields)

    @property
    def headers(self) -> Headers:
        """The entry's fields besides payload and key."""
        return self._settler.headers(self._fields)

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._entry.shard.stream

    @property
    def shard(self) -> int:
        """The shard's number; 0 for a stream that is one key."""
        return self._entry.shard.number

    @property
    def id(self) -> EntryId:
        """The entry's id, unique within its shard."""
        return EntryId.parse(self._entry.id)

    @property
    def timestamp(self) -> datetime:
        """The id's time, as an aware datetime in UTC."""
        return self.id.timestamp

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1; in REALTIME and in a replay always 1.

        An attempt is a start of a handler, in whatever process. Starts are counted on
        the server; docs/how-to/failing-handlers.md says how reliable the count is at
        which message rates.
        """
        return self._entry.deliveries

    @property
    def epoch(self) -> int:
        """The number of the ownership of its shard; 0 where shards are not owned.

        It grows each time a member of the group takes the shard. So it is a fencing
        token: a database that remembers the highest number it has seen for a shard can
        refuse a write with a lower one, which comes from an owner that stood still and
        was replaced.
        """
        return self._entry.epoch

    @property
    def lost(self) -> bool:
        """Whether this delivery of the message no longer counts.

        This is so when another consumer has claimed the message because this process
        stood still for longer than the lease, or when the message is tried again.
        Outcomes of this delivery are dropped then.
        """
        return self._settler.lost(self._entry)

    def lease_left(self) -> float:
        """Return the seconds after which others could claim it if this process stopped.

        With owned shards these are those of its shard.

        While the process lives the lease is renewed. Infinite in REALTIME and in a
        replay, 0 once the message has an outcome or is lost.
        """
        return self._settler.lease_left(self._entry)

    def ack(self) -> bool:
        """Record that this message is done; the committer sends the acknowledgement.

        Costs no round trip. Acknowledging twice has the same effect as once.

        Returns:
            Whether the acknowledgement counts. False if the message is lost or has been
            delivered again: nothing is sent then, and the consumer that has the message
            now decides.

        Raises:
            UsageError: In REALTIME and in a replay, and where Penstock acknowledges by
                time or on delivery; after `nack` or `reject`; in another thread than
                the consumer's, unless it is the thread of a handler that is not an
                async function.
            ClosedError: The consumer has closed; the entry was released.
        """
        return self._settler.ack(self._entry)

    def nack(self, delay: float | None = None) -> bool:
        """Record that this message is to be tried again, once its handler has finished.

        Like an exception of the handler it counts as an attempt, and after the last
        attempt the message goes to the dead letters. Costs no round trip.

        Args:
            delay: Seconds until the next attempt, from now; default: as `Retry`
                defines.

        Returns:
            Whether it counts, as with `ack`.

        Raises:
            ConfigurationError: The delay is negative or not a number.
            UsageError: As with `ack`; or the message was acknowledged or rejected.
            ClosedError: The consumer has closed; the entry was released.
        """
        return self._settler.nack(self._entry, self._fields, delay)

    def reject(self, reason: str = "rejected") -> bool:
        """Record that this message goes to the dead letters, without another attempt.

        Args:
            reason: Why; kept with the dead letter.

        Returns:
            Whether it counts, as with `ack`.

        Raises:
            UsageError: As with `ack`; or the message was acknowledged or nacked.
            ClosedError: The consumer has closed; the entry was released.
        """
        return self._settler.reject(self._entry, self._fields, reason)

    def transaction(self) -> Transaction[Receipt]:
        """Start a transaction of Redis commands and this message's acknowledgement.

        When the block is left without an exception, everything that it has added is
        applied in one atomic step, or nothing if any consumer of the group had
        acknowledged the message before. So it happens once, however often the message
        is delivered. docs/how-to/exactly-once.md says for what this holds and for what
        it does not.

        Raises:
            UsageError: As with `ack`; after any outcome; in a handler that is not an
                async function.
            ClosedError: The consumer has closed; the entry was released.

        Example:
            ```python
            async with message.transaction() as tx:
                tx.send("totals", b"...", key=message.key)
                tx.command("HINCRBY", "clicks", message.key, 1)
            ```
        """
        return self._settler.transaction(self._entry, self._fields)

    def __repr__(self) -> str:
        entry = self._entry
        return (
            f"<Message {entry.id.decode('ascii', 'replace')} of "
            f"{entry.shard.stream!r:.80} shard {entry.shard.number}, "
            f"attempt {entry.deliveries}>"
        )
