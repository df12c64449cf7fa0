"""Where messages have themselves read and their outcomes recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from penstock._core import envelope
from penstock._core.entry import Entry
from penstock._core.envelope import PAYLOAD
from penstock._core.ledger import Ledger
from penstock.codecs import Codec
from penstock.errors import ClosedError, DecodeError, UsageError
from penstock.events import printable
from penstock.message import Fields, Headers

__all__ = ["FrontDesk"]

T = TypeVar("T")

# msgspec quotes values that are none of an enum's or literal's, and unknown names.
_QUOTED: Final = re.compile(
    r"(Invalid (?:enum )?value|unknown field) .*?(?= - at `|$)", re.DOTALL
)


class FrontDesk(Generic[T]):
    """Serves the messages of one consumer.

    Args:
        ledger: Its ledger.
        codec: Decodes payloads; None gives the whole entry as `Fields`.
        no_ack: Why messages can't be acknowledged by hand, and what to do about it;
            None if they can.
    """

    __slots__ = ("_decode", "_ledger", "_no_ack")

    def __init__(
        self, ledger: Ledger, codec: Codec[T] | None, *, no_ack: str | None
    ) -> None:
        self._ledger = ledger
        self._decode = None if codec is None else codec.decode
        self._no_ack = no_ack

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
            UsageError: There is nothing to acknowledge by hand.
            ClosedError: The entry was given back.
        """
        if self._no_ack is not None:
            raise UsageError(self._no_ack)
        if not self._ledger.ack(entry):
            raise ClosedError("consumer")

    @staticmethod
    def _undecodable(entry: Entry, reason: str) -> DecodeError:
        return DecodeError(entry.shard.stream, entry.id.decode(), reason)
