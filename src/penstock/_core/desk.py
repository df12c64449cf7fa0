"""Where messages have themselves read and their outcomes recorded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, Generic, Protocol, TypeVar

from penstock._core import envelope
from penstock._core.entry import ACKED, LOST, RELEASED, Entry
from penstock._core.envelope import PAYLOAD
from penstock._core.ledger import Ledger
from penstock._core.verdict import NACKED, Dead, Dropped, Left, Postponed
from penstock.codecs import Codec, raw_codec
from penstock.errors import ClosedError, DecodeError, UsageError
from penstock.events import printable
from penstock.message import Fields, Headers, Message

__all__ = ["FrontDesk", "Refusals"]

T = TypeVar("T")

# msgspec quotes values that are none of an enum's or literal's, and unknown names.
_QUOTED: Final = re.compile(
    r"(Invalid (?:enum )?value|unknown field) .*?(?= - at `|$)", re.DOTALL
)


_REFUSED: Final = "nacked, rejected or given up"
_TWICE: Final = (
    "{} came too late: the message has been {} already; give each message one outcome"
)


class Refusals(Protocol):
    """Decides what becomes of messages that are not acknowledged."""

    def nack(
        self, entry: Entry, fields: Sequence[bytes], delay: float | None
    ) -> None: ...
    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> None: ...
    def undecodable(self, entry: Entry, error: DecodeError) -> None: ...
    def lease_left(self, entry: Entry) -> float: ...


class FrontDesk(Generic[T]):
    """Serves the messages of one consumer.

    Args:
        ledger: Its ledger.
        codec: Decodes payloads; None gives the whole entry as `Fields`.
        refusals: Where what is not acknowledged goes.
        no_ack: Why messages can't be acknowledged by hand, and what to do about it;
            None if they can.
        at_home: Whether the running thread is the consumer's.
    """

    __slots__ = ("_at_home", "_decode", "_ledger", "_no_ack", "_raw", "_refusals")

    def __init__(
        self,
        ledger: Ledger,
        codec: Codec[T] | None,
        refusals: Refusals,
        *,
        no_ack: str | None,
        at_home: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._decode = None if codec is None else codec.decode
        self._raw = codec is raw_codec
        self._refusals = refusals
        self._no_ack = no_ack
        self._at_home = at_home

    def open(self, entry: Entry) -> Message[T] | None:
        """Make an entry that was taken a message; None if it can't be one.

        Then it is dealt with, and out of hand.
        """
        fields = entry.fields
        if self._raw and fields[0] == PAYLOAD:
            return Message(entry, self, fields, fields[1])
        try:
            return Message(entry, self, fields, self.payload(entry, fields))
        except DecodeError as error:
            self._refusals.undecodable(entry, error)
            return None

    def reading(self, codec: Codec[Any] | None) -> FrontDesk[Any]:
        """Give a desk of the same consumer that reads payloads by another codec."""
        desk: FrontDesk[Any] = copy(self)
        desk._decode = None if codec is None else codec.decode
        desk._raw = codec is raw_codec
        return desk

    def payload(self, entry: Entry, fields: Sequence[bytes]) -> Any:
        """Decode a payload.

        Raises:
            DecodeError: The entry has none, or it is not of the consumer's type.
        """
        if self._decode is None:
            return Fields(zip(fields[::2], fields[1::2], strict=True))
        # Penstock and SeaStreamer write it first, so the search is for strangers.
        data = fields[1] if fields[0] == PAYLOAD else envelope.payload(fields)
        if data is None:
            raise self._undecodable(entry, "it has no field 'msg'")
        try:
            return self._decode(data)
        except ValueError as error:
            reason = printable(_QUOTED.sub(r"\1", str(error)))
        except Exception as error:  # noqa: BLE001 - RecursionError, or a codec's own
            # Its text may quote the payload.
            reason = f"the codec raised {type(error).__name__}"
        # Out here it has no `__context__`: a UnicodeDecodeError carries the payload.
        raise self._undecodable(entry, reason)

    def key(self, fields: Sequence[bytes]) -> str | None:
        """Read the key."""
        return envelope.decode_key(envelope.key(fields))

    def headers(self, fields: Sequence[bytes]) -> Headers:
        """Read the headers."""
        return envelope.headers(fields)

    def ack(self, entry: Entry) -> None:
        """Record an acknowledgement.

        Raises:
            UsageError: There is nothing to acknowledge by hand, or not from this
                thread, or the message was nacked or rejected.
            ClosedError: The entry was given back.
        """
        self._check("ack()")
        if entry.verdict is not None:
            raise UsageError(_TWICE.format("ack()", _REFUSED))
        if not self._ledger.ack(entry):
            raise ClosedError("consumer")

    def nack(self, entry: Entry, fields: Sequence[bytes], delay: float | None) -> None:
        """Record that an entry is to be tried again; raises as `ack` does."""
        self._check("nack()")
        verdict = entry.verdict
        if isinstance(verdict, Dead | Dropped | Left) and verdict.reason == NACKED:
            return  # said before, and it was the last attempt
        if self._refusable(entry, "nack()", Postponed):
            self._refusals.nack(entry, fields, delay)

    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> None:
        """Record that an entry goes to the dead letters; raises as `ack` does."""
        self._check("reject()")
        if self._refusable(entry, "reject()", Dead | Dropped | Left):
            self._refusals.reject(entry, fields, reason)

    def _refusable(self, entry: Entry, call: str, same: Any) -> bool:
        """Tell whether an entry has no outcome yet; to repeat one is no event."""
        if entry.state is RELEASED:
            raise ClosedError("consumer")
        if entry.verdict is not None:
            if not isinstance(entry.verdict, same):
                raise UsageError(_TWICE.format(call, _REFUSED))
            return False
        if entry.state in ACKED:
            raise UsageError(_TWICE.format(call, "acknowledged"))
        return True

    def _check(self, call: str) -> None:
        if self._no_ack is not None:
            raise UsageError(self._no_ack)
        if not self._at_home():
            raise UsageError(
                f"{call} was called in another thread than the consumer's; use "
                f"loop.call_soon_threadsafe, or a handler that is no async function"
            )

    def lost(self, entry: Entry) -> bool:
        """Tell whether an entry is somebody else's by now."""
        return entry.state is LOST

    def lease_left(self, entry: Entry) -> float:
        """Give the seconds until others may have an entry."""
        return self._refusals.lease_left(entry)

    @staticmethod
    def _undecodable(entry: Entry, reason: str) -> DecodeError:
        return DecodeError(entry.shard.stream, entry.id.decode(), reason)
