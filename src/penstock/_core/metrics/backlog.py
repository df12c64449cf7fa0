"""Backlog: what a consumer holds of each stream and is not done with."""

from __future__ import annotations

from dataclasses import dataclass

from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import WAITING

__all__ = ["Backlog", "backlog_of"]


@dataclass(slots=True)
class Backlog:
    """Messages of one stream.

    Attributes:
        queued: Those that wait for a handler.
        uncommitted: Those whose outcome the server has not confirmed.
    """

    queued: int = 0
    uncommitted: int = 0


def backlog_of(ledger: Ledger) -> dict[str, Backlog]:
    """Return the backlog of each stream that a ledger knows.

    Any thread may call it while the ledger is in use: each collection is copied in one
    step before it is looked through.
    """
    found = {stream: Backlog() for stream in list(ledger.shards.counters)}
    # Entries that are not acknowledged are tracked in the queue only.
    for entry in ledger.work.untracked():
        found[entry.shard.stream].queued += 1
    for state in list(ledger.shards.values()):
        backlog = found[state.shard.stream]
        for entry in list(state.entries.values()):
            backlog.queued += entry.state in WAITING
            backlog.uncommitted += entry.unconfirmed
    return found
