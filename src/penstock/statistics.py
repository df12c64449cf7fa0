"""What a consumer counts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A consumer's counts; those of the past since it opened.

    Attributes:
        received: Entries read, those read again after a reconnect included.
        acknowledged: Entries that the server confirmed as acknowledged; in
            REALTIME, entries that were processed.
        left_open: Entries that a handler was done with and that got no outcome.
        retried: Times a message was put off to another attempt.
        dead_lettered: Entries that were copied to the dead letters; where a reply was
            lost, those of them that were not pending any more at the next try.
        dropped: Entries that were given up and acknowledged, under `DROP`.
        undecodable: Entries that are not of the payload's type.
        late: Outcomes that came when the message was lost, and did not count.
        claimed: Entries taken over from consumers that did not answer.
        lost: Entries that others took over, because this process stood still for
            longer than the lease; what came of them here is dropped.
        ghosts: Pending entries that were deleted from the stream; acknowledged
            without being delivered.
        queued: Entries that wait for a handler now.
        in_hand: Entries queued or being handled now.
        bytes_in_hand: Their bytes.
        uncommitted: Entries acknowledged here and not yet on the server.
    """

    received: int
    acknowledged: int
    left_open: int
    retried: int
    dead_lettered: int
    dropped: int
    undecodable: int
    late: int
    claimed: int
    lost: int
    ghosts: int
    queued: int
    in_hand: int
    bytes_in_hand: int
    uncommitted: int
