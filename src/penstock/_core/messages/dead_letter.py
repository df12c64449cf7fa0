"""Dead-letter format: an entry's own fields, followed by its origin and the reason.

The origin is a fixed number of fields in a fixed order. So it can be told apart from
the entry's own fields, whatever their names are, and be removed again. The names have a
dot, like the name of the stream (`orders.dead`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from penstock.errors import ConfigurationError
from penstock.message import EntryId, Shard

__all__ = ["NAMES", "REASON", "Origin", "default_stream", "read", "write"]

NAMES: Final = (
    b"dead.stream",
    b"dead.shard",
    b"dead.shard-key",
    b"dead.id",
    b"dead.group",
    b"dead.consumer",
    b"dead.attempts",
    b"dead.reason",
    b"dead.error",
    b"dead.traceback",
    b"dead.time",
)

# The characters of each text that are kept at most.
_REASON: Final = 1000
_ERROR: Final = 200
_TRACEBACK: Final = 8000

# ASCII digits only, like those of `EntryId`, and never more than int() accepts.
_NUMBER: Final = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a dead letter, and the reason why it is one.

    Attributes:
        shard: The shard whose stream had the entry.
        id: The entry's id in that stream.
        group: The group that gave up the entry.
        consumer: The consumer that gave up the entry.
        attempts: The number of times that a handler was started for the entry.
        reason: The reason in words.
        error: The exception's type; empty without an exception.
        traceback: The end of its traceback; empty without an exception.
        time: The time by the consumer's clock, in ISO 8601.
    """

    shard: Shard
    id: str
    group: str
    consumer: str
    attempts: int
    reason: str
    error: str
    traceback: str
    time: str


def default_stream(stream: str) -> str:
    """Return the name of the stream for the dead letters of all shards of a stream."""
    return f"{stream}.dead"


def write(fields: Sequence[bytes], origin: Origin) -> list[bytes]:
    """Return a dead letter's fields.

    Args:
        fields: The entry's own fields.
        origin: The origin; its reason, error and traceback are cut.
    """
    values = (
        origin.shard.stream,
        str(origin.shard.number),
        origin.shard.key.decode("utf-8", "surrogateescape"),
        origin.id,
        origin.group,
        origin.consumer,
        str(origin.attempts),
        origin.reason[:_REASON],
        origin.error[:_ERROR],
        # The end of a traceback has the error.
        origin.traceback[-_TRACEBACK:],
        origin.time,
    )
    letter = list(fields)
    for name, value in zip(NAMES, values, strict=True):
        letter += (name, _bytes(value))
    return letter


REASON: Final = 2 * NAMES.index(b"dead.reason") + 2
"""The number of the reason among the words after an entry's own fields, from 1."""


def read(fields: Sequence[bytes]) -> tuple[list[bytes], Origin] | None:
    """Split a dead letter into the entry's own fields and its origin.

    The origin may be forged by anyone who can write to the stream.

    Returns:
        The fields and the origin; None if the entry is not a dead letter of Penstock's.
    """
    own, behind = list(fields[: -2 * len(NAMES)]), fields[-2 * len(NAMES) :]
    if tuple(behind[::2]) != NAMES or not own or len(own) % 2:
        return None
    stream, number, key, id_, group, consumer, attempts, *why = map(_text, behind[1::2])
    if not (_NUMBER.fullmatch(number) and _NUMBER.fullmatch(attempts) and _is_id(id_)):
        return None
    shard = Shard(stream, int(number), _bytes(key))
    return own, Origin(shard, id_, group, consumer, int(attempts), *why)


def _is_id(text: str) -> bool:
    try:
        EntryId.parse(text)
    except ConfigurationError:
        return False
    return True


def _bytes(text: str) -> bytes:
    # A traceback may quote lone surrogates. Text that was decoded with surrogateescape
    # becomes its original bytes again.
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
