"""What a run under faults leaves behind: records of what was done and seen.

The model is Jepsen's total queue: every attempt to send, what its sender was told, and
every handling is on record, so that what went in can be compared with what came out.

A message is known by a name of its own, which its payload carries; an entry by its
shard and id. `at` is the clock that all processes of a machine share (`monotonic`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

__all__ = [
    "Acked",
    "Attempt",
    "Buried",
    "End",
    "Excuse",
    "Failed",
    "History",
    "Note",
    "Pending",
    "Receipt",
    "Record",
    "Start",
    "Stored",
    "Unknown",
    "digest",
    "dump",
    "load",
]


class _Record(msgspec.Struct, frozen=True, tag=str.lower, tag_field="kind"):
    """What all records say.

    Attributes:
        at: When, in seconds.
        who: The process.
    """

    at: float
    who: str


class Attempt(_Record, frozen=True):
    """A message is about to be sent."""

    message: str
    key: str
    digest: str


class Receipt(_Record, frozen=True):
    """Its sender was told that it is stored."""

    message: str
    shard: int
    id: str


class Unknown(_Record, frozen=True):
    """Its sender was told that it is stored once or not at all."""

    message: str


class Failed(_Record, frozen=True):
    """Its sender was told that it is not stored."""

    message: str
    code: str


class Start(_Record, frozen=True):
    """A handler was given a message; what it was given."""

    group: str
    shard: int
    id: str
    attempt: int
    message: str
    key: str
    digest: str


class End(_Record, frozen=True):
    """A handler is about to be done.

    Attributes:
        ok: Whether it returns, or raises.
        lost: Whether the message is somebody else's by now.
    """

    group: str
    shard: int
    id: str
    ok: bool
    lost: bool = False


class Acked(_Record, frozen=True):
    """The server was seen to count entries as delivered and not as pending."""

    group: str
    shard: int
    ids: list[str]


class Buried(_Record, frozen=True):
    """In the end there is a dead letter of an entry."""

    group: str
    shard: int
    id: str
    message: str
    digest: str


class Stored(_Record, frozen=True):
    """In the end there is an entry."""

    shard: int
    id: str
    message: str
    key: str
    digest: str


class Pending(_Record, frozen=True):
    """In the end an entry waits for a group: delivered, or not even that."""

    group: str
    shard: int
    id: str


class Excuse(_Record, frozen=True):
    """Something was done to the server that no client can make good.

    Attributes:
        since: When it began.
        what: What may come of it for messages that were there until `at`: "loss";
            "ack", they count as done and nobody did them; "again"; and "order", for
            those that start after `since`.
        ids: Of these entries only, as `<shard> <id>`; none: of all.
    """

    since: float
    what: list[str]
    ids: list[str] = []


class Note(_Record, frozen=True):
    """Anything else: events, faults, beginnings and ends of processes."""

    text: str


Record: TypeAlias = (
    Attempt
    | Receipt
    | Unknown
    | Failed
    | Start
    | End
    | Acked
    | Buried
    | Stored
    | Pending
    | Excuse
    | Note
)
History: TypeAlias = list[Record]

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def digest(payload: bytes) -> str:
    """Tell one payload from another."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


def dump(record: Record) -> bytes:
    """Give a record's line."""
    return _encoder.encode(record) + b"\n"


def load(journals: Iterable[bytes]) -> History:
    """Read journals, into the order of time.

    The last line of one may have been cut off by its process' end; it says nothing
    then, as nothing has followed from it.
    """
    history = [
        _decoder.decode(line)
        for journal in journals
        for line in journal.splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    return sorted(history, key=lambda record: record.at)
