"""Which leases have to be renewed, and when an entry may belong to another consumer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from penstock._core.ledger.entry import Entry, ShardState, ShardStates
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.states import (
    FAILED,
    IN_HAND,
    LEFT,
    POSTPONED,
    RUNNING,
    UNSETTLED,
)

__all__ = ["LeaseClock"]

# States in which a handler has been started that the server may not know of.
_STARTED: Final = frozenset((RUNNING, FAILED, POSTPONED))


@dataclass(frozen=True, slots=True)
class LeaseRenewal:
    """Leases of one shard to be renewed.

    Attributes:
        shard_state: The shard's books.
        entries: The entries.
        late: Whether some may be others' by now, so that it has to be asked first: a
            renewal would take them back.
        count: What their delivery count is set to, one more than the number of
            handler starts; None to leave it.
    """

    shard_state: ShardState
    entries: Sequence[Entry]
    late: bool
    count: int | None = None

    @property
    def ids(self) -> list[bytes]:
        """The ids of those that have not left meanwhile."""
        return [entry.id for entry in self.entries if entry.state not in LEFT]


class LeaseClock:
    """Knows when each entry was read or last renewed.

    Args:
        shard_states: The books.
        ready_queue: What waits.
        lease: Seconds that an entry without an outcome is ours.
        acks: Whether there are leases at all.
    """

    __slots__ = ("_acks", "_lease", "_ready_queue", "_shard_states")

    def __init__(
        self,
        shard_states: ShardStates,
        ready_queue: ReadyQueue,
        lease: float,
        *,
        acks: bool,
    ) -> None:
        self._shard_states = shard_states
        self._ready_queue = ready_queue
        self._lease = lease
        self._acks = acks

    def to_renew(self, now: float) -> list[LeaseRenewal]:
        """List what has used up a third of its lease or more.

        Entries that are left open are not among them: nobody is at work on them. Of
        suspects that wait to run alone only the first is, so that other consumers can
        try the others.
        """
        third, late_before = now - self._lease / 3, self.late(now)
        left = set(map(id, self._ready_queue.spare_probes()))
        due = [
            entry
            for entry in self._shard_states.entries()
            if entry.leased_at <= third
            and entry.state is not UNSETTLED
            and id(entry) not in left
        ]
        # Past two thirds we may come too late, and must ask first.
        late = any(entry.leased_at <= late_before for entry in due)
        by_shard = defaultdict[bytes, list[Entry]](list)
        for entry in due:
            by_shard[entry.shard_state.shard.key].append(entry)
        return [
            LeaseRenewal(each[0].shard_state, each, late) for each in by_shard.values()
        ]

    def to_count_again(self, now: float) -> list[LeaseRenewal]:
        """Have the server count as we do: it may not have been told, or not by us.

        Left out is what has used up two thirds of its lease: another consumer may have
        claimed it, and this would take it back.
        """
        late = self.late(now)
        return _counted(
            [
                entry
                for entry in self._shard_states.entries()
                if entry.leased_at > late and _is_started(entry)
            ]
        )

    def late(self, now: float) -> float:
        """Return the time before which leases have used up two thirds by now."""
        return now - self._lease * 2 / 3

    def ended(self, now: float) -> float:
        """Return the time before which a lease that has not been renewed has ended."""
        return now - self._lease if self._acks else -inf

    def overdue(self, now: float) -> bool:
        """Whether the entry to be taken next may belong to another consumer by now."""
        if not self._acks:
            return False
        end, lines = (
            now - self._lease,
            (self._ready_queue.ready, self._ready_queue.suspects),
        )
        return any(line and line[0].leased_at <= end for line in lines)

    def left(self, entry: Entry, now: float) -> float:
        """Return the seconds until others may claim an entry, if nobody renews it."""
        if not self._acks:
            return inf
        if entry.state in IN_HAND or entry.state is UNSETTLED:
            return max(0.0, entry.leased_at + self._lease - now)
        return 0.0


def _is_started(entry: Entry) -> bool:
    # With an outcome, the first attempt matters no more: none is too few.
    return entry.state in _STARTED or (entry.unconfirmed and entry.deliveries > 1)


def _counted(entries: Iterable[Entry]) -> list[LeaseRenewal]:
    groups: dict[tuple[bytes, int], list[Entry]] = {}
    for entry in entries:
        key = entry.shard_state.shard.key, entry.deliveries
        groups.setdefault(key, []).append(entry)
    return [
        LeaseRenewal(group[0].shard_state, group, late=False, count=deliveries + 1)
        for (_, deliveries), group in groups.items()
    ]
