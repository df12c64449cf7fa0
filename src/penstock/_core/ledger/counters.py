"""Counters of what has happened since a consumer opened."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """What has happened since the consumer opened.

    Attributes:
        received: Entries read, those read again for recovery included.
        acked: Entries whose acknowledgement the server confirmed.
        left: Times a handler was done with an entry and gave no outcome.
        retried: Times an entry was postponed to another attempt.
        dead: Entries that were copied to the dead letters.
        dropped: Entries that were given up and acknowledged.
        late: Outcomes that came when the entry was somebody else's.
        undecodable: Entries that are none of the payload type.
        deleted_ids: Pending entries met that were deleted from the stream.
        claimed: Entries taken over from consumers that did not answer.
        lost: Entries that others took over from us.
    """

    received: int = 0
    acked: int = 0
    left: int = 0
    retried: int = 0
    dead: int = 0
    dropped: int = 0
    late: int = 0
    undecodable: int = 0
    deleted_ids: int = 0
    claimed: int = 0
    lost: int = 0
