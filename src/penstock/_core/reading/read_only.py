"""Read-only messages: the messages of a replay, which can't be settled."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final, NoReturn, TypeVar

from msgspec import Struct

from penstock._core.messages.decoding import Decoder
from penstock._core.protocol.replies import RawEntry
from penstock.errors import UsageError
from penstock.message import Message, Shard

__all__ = ["ReadOnlyEntry", "ReadOnlySettlement"]

T = TypeVar("T")

_NO_ACK: Final = (
    "a replay has nothing to acknowledge, because it reads the stream without a "
    "group; use a Consumer with a group to acknowledge messages"
)


class ReadOnlyEntry(Struct, gc=False):
    """An entry that is read without a group.

    Attributes:
        shard: The entry's shard.
        id: The entry's id.
        fields: The entry's field list.
        deliveries: Always 1, since there is no group that counts deliveries.
        epoch: Always 0, since nobody owns the shard.
    """

    shard: Shard
    id: bytes
    fields: Sequence[bytes]
    deliveries: int = 1
    epoch: int = 0


class ReadOnlySettlement(Decoder[T]):
    """Serves read-only messages."""

    __slots__ = ()

    def open(self, shard: Shard, entry: RawEntry) -> Message[T]:
        """Return an entry as a message, whose payload is decoded on demand."""
        id_, fields = entry
        past = ReadOnlyEntry(shard, id_, fields)
        if self._raw and fields[0] == self._field:
            return Message(past, self, fields, fields[1])
        return Message(past, self, fields)

    def ack(self, _: ReadOnlyEntry) -> NoReturn:
        """Refuse to acknowledge, as all methods do that would settle a message.

        Raises:
            UsageError: A replay has nothing to acknowledge.
        """
        raise UsageError(_NO_ACK)

    def nack(self, entry: ReadOnlyEntry, *_: object) -> NoReturn:
        """Refuse to nack a message."""
        self.ack(entry)

    def reject(self, entry: ReadOnlyEntry, *_: object) -> NoReturn:
        """Refuse to reject a message."""
        self.ack(entry)

    def transaction(self, entry: ReadOnlyEntry, _: object) -> NoReturn:
        """Refuse to begin a transaction."""
        self.ack(entry)

    def lost(self, _: ReadOnlyEntry) -> bool:
        """Return False: no other consumer can claim the entry."""
        return False

    def lease_left(self, _: ReadOnlyEntry) -> float:
        """Return infinity: there is no lease."""
        return inf
