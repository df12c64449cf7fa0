"""A dead letter: an entry's own fields, and behind them where it comes from and why.

What stands behind is a fixed number of fields in a fixed order. So it can be told from
the entry's own, whatever those are called, and be cut off again. The names have a dot,
like the stream (`orders.dead`).
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

# Characters that are kept.
_REASON: Final = 1000
_ERROR: Final = 200
_TRACEBACK: Final = 8000

# ASCII only, as `EntryId` has it, and never more digits than int() will take.
_NUMBER: Final = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead letter comes from, and why it is one.

    Attributes:
        shard: The shard in whose stream the entry was.
        id: Its id there.
        group: The group that gave it up.
        consumer: The consumer.
        attempts: How often its handler was started.
        reason: Why.
        error: The exception's type; empty without one.
        traceback: The end of its traceback; empty without one.
        time: When, by the consumer's clock, in ISO 8601.
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
    """Name the stream where a stream's dead letters lie, all its shards' together."""
    return f"{stream}.dead"


def write(fields: Sequence[bytes], origin: Origin) -> list[bytes]:
    """Lay out a dead letter's fields.

    Args:
        fields: The entry's own.
        origin: Where it comes from; reason, error and traceback are cut.
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
        # What went wrong stands at its end.
        origin.traceback[-_TRACEBACK:],
        origin.time,
    )
    letter = list(fields)
    for name, value in zip(NAMES, values, strict=True):
        letter += (name, _bytes(value))
    return letter


REASON: Final = 2 * NAMES.index(b"dead.reason") + 2
"""Which word of those behind an entry's own fields is the reason, from 1."""


def read(fields: Sequence[bytes]) -> tuple[list[bytes], Origin] | None:
    """Split a dead letter into the entry's own fields and its origin.

    What it says is only as true as whoever could write to the stream: it may be forged.

    Returns:
        None where it is no dead letter of ours.
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
    # A traceback may quote lone surrogates; what came by surrogateescape goes back.
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
