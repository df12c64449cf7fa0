"""Statistics: a consumer's counts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A consumer's counts; those of past events cover the time since it opened.

    Attributes:
        received: Entries read, including those read again after a reconnect.
        acknowledged: Entries whose acknowledgement the server confirmed; in REALTIME,
            entries that were processed.
        left_open: Entries whose handler finished without an outcome.
        retried: Times a message was scheduled for another attempt.
        dead_lettered: Entries that were copied to the dead letters; where a reply was
            lost, those of them that were no longer pending at the next try.
        dropped: Entries that were given up and acknowledged, under `DROP`.
        undecodable: Entries that are not of the payload's type.
        late: Outcomes that came after the message was lost, and did not count.
        claimed: Entries claimed from consumers that did not answer.
        lost: Entries that other consumers claimed, because this process stood still for
            longer than the lease; their outcomes here are dropped.
        ghosts: Pending entries that were deleted from the stream; acknowledged without
            being delivered.
        queued: Entries that wait for a handler now.
        in_hand: Entries queued or being handled now.
        bytes_in_hand: The bytes of these entries.
        uncommitted: Entries acknowledged here whose acknowledgement the server has not
            confirmed yet.
        owned: Shards that this consumer owns now; 0 where shards are not owned.
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
    owned: int = 0
