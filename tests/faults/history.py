"""Records of a run with faults: what was done, and what was seen.

The model is Jepsen's total queue: each attempt to send, its outcome for the sender, and
each handling are recorded, so that the input can be compared with the output.

A message is identified by a unique name in its payload, and an entry by its shard and
id. `at` is by the clock that all processes of a machine share (`monotonic`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

__all__ = [
    "Acked",
    "Attempt",
    "DeadLettered",
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
    """The attributes of all records.

    Attributes:
        at: The time in seconds.
        who: The name of the process.
    """

    at: float
    who: str


class Attempt(_Record, frozen=True):
    """A message is about to be sent."""

    message: str
    key: str
    digest: str


class Receipt(_Record, frozen=True):
    """The sender of a message got a receipt: it is stored."""

    message: str
    shard: int
    id: str


class Unknown(_Record, frozen=True):
    """The sender of a message got `SendUnknown`: it is stored once or not at all."""

    message: str


class Failed(_Record, frozen=True):
    """The sender of a message got `SendFailed`: it is not stored."""

    message: str
    code: str


class Start(_Record, frozen=True):
    """A handler was started with this message.

    Attributes:
        epoch: The number of its shard's ownership; 0 where shards are not owned.
    """

    group: str
    shard: int
    id: str
    attempt: int
    message: str
    key: str
    digest: str
    epoch: int = 0


class End(_Record, frozen=True):
    """A handler is about to end.

    Attributes:
        ok: Whether it returns; otherwise it raises.
        lost: Whether another consumer has claimed the message by now.
        epoch: See `Start`.
    """

    group: str
    shard: int
    id: str
    ok: bool
    lost: bool = False
    epoch: int = 0


class Acked(_Record, frozen=True):
    """Entries were seen on the server as delivered and not pending."""

    group: str
    shard: int
    ids: list[str]


class DeadLettered(_Record, frozen=True):
    """At the end there is a dead letter of an entry."""

    group: str
    shard: int
    id: str
    message: str
    digest: str


class Stored(_Record, frozen=True):
    """At the end there is an entry in the stream."""

    shard: int
    id: str
    message: str
    key: str
    digest: str


class Pending(_Record, frozen=True):
    """At the end an entry is pending in a group, or not yet delivered to it."""

    group: str
    shard: int
    id: str


class Excuse(_Record, frozen=True):
    """A fault has changed the server in a way that no client can repair.

    Attributes:
        since: When the fault began.
        what: Its possible effects on messages that existed by `at`: "loss"; "ack",
            they count as acknowledged and no handler has finished them; "again", they
            are handled again; "leases", what is in hand is, since all leases have
            ended; "order", for those that start after `since`; and "gone", the server
            has lost them and knows nothing of them.
        ids: The affected entries, as `<shard> <id>`; none means all.
        group: The affected group; none means all.
    """

    since: float
    what: list[str]
    ids: list[str] = []
    group: str = ""


class Note(_Record, frozen=True):
    """Anything else: events, faults, starts and ends of processes."""

    text: str


Record: TypeAlias = (
    Attempt
    | Receipt
    | Unknown
    | Failed
    | Start
    | End
    | Acked
    | DeadLettered
    | Stored
    | Pending
    | Excuse
    | Note
)
History: TypeAlias = list[Record]

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def digest(payload: bytes) -> str:
    """Return a text that distinguishes a payload from others."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


def dump(record: Record) -> bytes:
    """Return the line of a record."""
    return _encoder.encode(record) + b"\n"


def load(journals: Iterable[bytes]) -> History:
    """Return the records of journals in the order of time.

    The last line of a journal may have been cut off by the end of its process. It is
    ignored then, since it had no consequences.
    """
    history = [
        _decoder.decode(line)
        for journal in journals
        for line in journal.splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    return sorted(history, key=lambda record: record.at)
