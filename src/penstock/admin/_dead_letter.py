"""DeadLetter: a dead letter, parsed for an operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from penstock._core.messages import dead_letter, envelope
from penstock._core.protocol.replies import RawEntry
from penstock.fields import Fields, Headers
from penstock.message import EntryId

__all__ = ["DeadLetter", "DeadLetterCount", "DeadLetterList", "parse_entry"]


@dataclass(frozen=True, slots=True)
class DeadLetterCount:
    """The number of dead letters with one error, of one group.

    Attributes:
        error: The exception's type; empty for those without an exception.
        group: The group that gave the messages up.
        letters: Their number.
        first: The id of the oldest of them.
        last: The id of the newest of them.
    """

    error: str
    group: str
    letters: int
    first: EntryId
    last: EntryId


@dataclass(frozen=True, slots=True, repr=False)
class DeadLetter:
    """A message that a group gave up, with its origin and the reason.

    Whoever can write to the dead letters can forge every attribute except `id`.

    Attributes:
        id: The id of the dead letter.
        stream: The stream that the message was in.
        shard: The number of the shard; 0 for a stream that is one key.
        shard_key: The shard's key on the server.
        entry_id: The id that the message had in the shard.
        group: The group that gave the message up.
        consumer: The consumer that gave the message up.
        attempts: How often a handler was started for the message.
        reason: Why the message was given up; the text may quote the message.
        error: The exception's type; empty if there was no exception.
        traceback: The end of the exception's traceback; empty if there was none.
        time: When the message was given up, by the consumer's clock, aware; None if the
            time can't be parsed.
        fields: The message's own fields, as they were in the stream.
        field: The name of the field that holds the payload, as it was passed to the
            call that returned the dead letter.
    """

    id: EntryId
    stream: str
    shard: int
    shard_key: bytes
    entry_id: EntryId
    group: str
    consumer: str
    attempts: int
    reason: str
    error: str
    traceback: str
    time: datetime | None
    fields: Fields
    field: str = envelope.FIELD

    @property
    def payload(self) -> bytes | None:
        """The payload, not decoded; None if the message does not have that field."""
        return envelope.payload(self.words, self.field.encode())

    @property
    def key(self) -> str | None:
        """The key that the message was sent with, or None."""
        return envelope.decode_key(envelope.key(self.words))

    @property
    def headers(self) -> Headers:
        """The message's other fields."""
        return envelope.headers(self.words, self.field.encode())

    @property
    def words(self) -> list[bytes]:
        """Names and values of the fields in one list, as a command takes them."""
        return [word for pair in self.fields for word in pair]

    def __repr__(self) -> str:
        # Names and reasons come from others, and may quote the payload.
        return (
            f"<DeadLetter {self.id}: entry {self.entry_id} of {self.stream!a:.80} "
            f"shard {self.shard}, attempts {self.attempts}, {len(self.fields)} fields>"
        )


DeadLetterList: TypeAlias = list[DeadLetter]


def parse_entry(entry: RawEntry, field: str) -> DeadLetter | None:
    """Return the dead letter that an entry holds; None if it holds none.

    Args:
        entry: The entry.
        field: The name of the field that holds the payload.
    """
    id_, fields = entry
    read = dead_letter.read(fields)
    if read is None:
        return None
    own, origin = read
    return DeadLetter(
        id=EntryId.parse(id_),
        stream=origin.shard.stream,
        shard=origin.shard.number,
        shard_key=origin.shard.key,
        entry_id=EntryId.parse(origin.id),
        group=origin.group,
        consumer=origin.consumer,
        attempts=origin.attempts,
        reason=origin.reason,
        error=origin.error,
        traceback=origin.traceback,
        time=_moment(origin.time),
        fields=Fields(zip(own[::2], own[1::2], strict=True)),
        field=field,
    )


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.utcoffset() is not None else None
