"""Messages of the past: they can be read, and that is all."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final, NoReturn, TypeVar

from msgspec import Struct

from penstock._core.messages.decoding import Decoder
from penstock._core.messages.envelope import PAYLOAD
from penstock._core.protocol.replies import RawEntry
from penstock.errors import UsageError
from penstock.message import Message, Shard

__all__ = ["ReadOnlyEntry", "ReadOnlySettlement"]

T = TypeVar("T")

_NO_ACK: Final = (
    "a replay has nothing to acknowledge: it reads what is in the stream without a "
    "group; use a Consumer with a group for messages to be handled once"
)


class ReadOnlyEntry(Struct, gc=False):
    """An entry that is read without a group.

    Attributes:
        shard: Where it is.
        id: Its id.
        fields: Its field list.
        deliveries: Without a group always 1.
    """

    shard: Shard
    id: bytes
    fields: Sequence[bytes]
    deliveries: int = 1


class ReadOnlySettlement(Decoder[T]):
    """Serves messages that can only be read."""

    __slots__ = ()

    def open(self, shard: Shard, entry: RawEntry) -> Message[T]:
        """Make an entry a message; its payload is decoded when it is asked for."""
        id_, fields = entry
        past = ReadOnlyEntry(shard, id_, fields)
        if self._raw and fields[0] == PAYLOAD:
            return Message(past, self, fields, fields[1])
        return Message(past, self, fields)

    def ack(self, _: ReadOnlyEntry) -> NoReturn:
        """Refuse, as all do that would acknowledge.

        Raises:
            UsageError: There is nothing to acknowledge.
        """
        raise UsageError(_NO_ACK)

    def nack(self, entry: ReadOnlyEntry, *_: object) -> NoReturn:
        """Refuse."""
        self.ack(entry)

    def reject(self, entry: ReadOnlyEntry, *_: object) -> NoReturn:
        """Refuse."""
        self.ack(entry)

    def transaction(self, entry: ReadOnlyEntry, _: object) -> NoReturn:
        """Refuse."""
        self.ack(entry)

    def lost(self, _: ReadOnlyEntry) -> bool:
        """Tell that nobody can take it."""
        return False

    def lease_left(self, _: ReadOnlyEntry) -> float:
        """Tell that there is no lease."""
        return inf
