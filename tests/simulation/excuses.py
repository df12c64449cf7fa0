"""Excuses: what faults have done to messages that no client can make good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from faults.history import Excuse

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["entries_of", "excuse", "excuse_entries", "excuse_missing"]


def excuse(run: Run, since: float, *what: str, ids: Iterable[str] = ()) -> None:
    """Excuse effects on all messages that exist, or on some entries."""
    run.journal.add(Excuse, since=since, what=[*what], ids=[*ids])


def excuse_entries(run: Run, since: float, number: int, ids: Iterable[bytes]) -> None:
    """Excuse the loss of entries of one shard, if there are any."""
    entries = [f"{number} {id_.decode()}" for id_ in ids]
    if entries:
        excuse(run, since, "loss", "ack", ids=entries)


def entries_of(run: Run) -> dict[int, set[str]]:
    """Return the ids of all entries, by the number of their shard.

    Another fault may have renamed the stream for a while.
    """
    return {
        number: {
            id_ for name in (key, f"{key}.away") for id_, _ in run.observer.stored(name)
        }
        for number, key in enumerate(run.keys)
    }


def excuse_missing(run: Run, since: float, before: dict[int, set[str]]) -> None:
    """Excuse the loss of entries that existed before and do not any more."""
    now = entries_of(run)
    lost = [
        f"{number} {id_}"
        for number, ids in before.items()
        for id_ in sorted(ids - now[number])
    ]
    if lost:
        excuse(run, since, "loss", "ack", "gone", ids=lost)
