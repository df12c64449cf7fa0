"""Counters of what has happened since a consumer opened."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """What has happened since the consumer opened.

    Attributes:
        received: Entries that were read, those included that recovery has read again.
        acked: Entries whose acknowledgement the server has confirmed.
        left: Times that a handler finished with an entry without an outcome.
        retried: Times that an entry was postponed to another attempt.
        dead: Entries that were copied to the dead letters.
        dropped: Entries that were given up and acknowledged.
        late: Outcomes that came when the entry belonged to another consumer.
        undecodable: Entries that could not be decoded as the payload type.
        deleted: Pending entries that were found deleted from the stream.
        claimed: Entries that were claimed from consumers that did not respond.
        lost: Entries that other consumers have claimed from this one.
    """

    received: int = 0
    acked: int = 0
    left: int = 0
    retried: int = 0
    dead: int = 0
    dropped: int = 0
    late: int = 0
    undecodable: int = 0
    deleted: int = 0
    claimed: int = 0
    lost: int = 0
