"""Lease clock: which leases to renew, and which may have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from penstock._core.ledger.entry import Entry, ShardState, ShardStates
from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.states import (
    FAILED,
    LEFT,
    POSTPONED,
    RUNNING,
    UNSETTLED,
    WITH_HANDLER,
)

__all__ = ["LeaseClock", "LeaseRenewal"]

# States in which a handler has been started that the server may not know of.
_STARTED: Final = frozenset((RUNNING, FAILED, POSTPONED))


@dataclass(frozen=True, slots=True)
class LeaseRenewal:
    """Leases of one shard that are to be renewed.

    Attributes:
        shard_state: The state of the shard.
        entries: The entries.
        late: Whether some may belong to other consumers by now. Then the server has to
            be asked first: a renewal would take them back.
        count: The delivery count to set, one more than the number of handler starts;
            None to leave it.
    """

    shard_state: ShardState
    entries: Sequence[Entry]
    late: bool
    count: int | None = None

    @property
    def ids(self) -> list[bytes]:
        """The ids of the entries that have not left meanwhile."""
        return [entry.id for entry in self.entries if entry.state not in LEFT]


class LeaseClock:
    """Knows when each entry was read or last renewed.

    Args:
        shards: The states of the shards.
        ready_queue: The entries that wait.
        lease: Seconds for which an entry without an outcome is this consumer's.
        acknowledges: Whether there are leases at all.

    Attributes:
        terms: The times that follow from the length of the lease.
    """

    __slots__ = (
        "_acknowledges",
        "_lease",
        "_ready_queue",
        "_shards",
        "terms",
    )

    def __init__(
        self,
        shards: ShardStates,
        ready_queue: ReadyQueue,
        lease: float,
        *,
        acknowledges: bool,
    ) -> None:
        self._shards = shards
        self._ready_queue = ready_queue
        self._lease = lease
        self.terms = LeaseTerms(lease)
        self._acknowledges = acknowledges

    def to_renew(self, now: float) -> list[LeaseRenewal]:
        """List the entries that have used up a third of their lease or more.

        Entries that are left unsettled are not among them: no handler works on them.
        Of possible poison messages that wait to run alone only the first one is, so
        that other consumers can try the others.
        """
        renew_before, late_before = now - self.terms.renew_after, self.late(now)
        left = set(map(id, self._ready_queue.spare_probes()))
        due = [
            entry
            for entry in self._shards.entries()
            if entry.leased_at <= renew_before
            and entry.state is not UNSETTLED
            and id(entry) not in left
        ]
        # Past two thirds we may come too late, and must ask first. So we must where the
        # group was recreated: it may have delivered the entries to others.
        late = any(
            entry.leased_at <= late_before or entry.id in entry.shard_state.undelivered
            for entry in due
        )
        by_shard = defaultdict[bytes, list[Entry]](list)
        for entry in due:
            by_shard[entry.shard_state.shard.key].append(entry)
        return [
            LeaseRenewal(each[0].shard_state, each, late) for each in by_shard.values()
        ]

    def renewed(
        self, renewal: LeaseRenewal, now: float, owned: Collection[bytes] = ()
    ) -> None:
        """Record that the leases of a renewal have begun anew.

        Entries that a recreated group has not delivered yet are pending for nobody, and
        count as renewed.

        Args:
            renewal: The entries that were renewed; those that were lost meanwhile are
                left out.
            now: When the renewal was sent.
            owned: The ids of those that are known to be pending for this consumer.
        """
        state = renewal.shard_state
        for entry in renewal.entries:
            if entry.id in owned:
                state.undelivered.discard(entry.id)
            elif entry.state not in LEFT and state.precedes_group(entry):
                state.undelivered.add(entry.id)
            # A start may have been counted since then.
            entry.leased_at = max(entry.leased_at, now)

    def to_count_again(self, now: float) -> list[LeaseRenewal]:
        """List what the server may count otherwise than we do, after an outage.

        Entries that have used up two thirds of their lease are left out: another
        consumer may have claimed them, and the count would take them back.
        """
        late = self.late(now)
        return _counted(
            [
                entry
                for entry in self._shards.entries()
                if entry.leased_at > late and _is_started(entry)
            ]
        )

    def counted(self, entry: Entry, asked_at: float) -> None:
        """Record that the server has counted a start, which has renewed the lease.

        Args:
            entry: The entry.
            asked_at: When the count was sent.
        """
        entry.shard_state.undelivered.discard(entry.id)
        entry.leased_at = max(entry.leased_at, asked_at)

    def late(self, now: float) -> float:
        """Return the time before which leases have used up two thirds by now."""
        return now - self.terms.ask_first_after

    def ended(self, now: float) -> float:
        """Return the time before which a lease that has not been renewed has ended."""
        return now - self._lease if self._acknowledges else -inf

    def overdue(self, now: float) -> bool:
        """Return whether the entry to be taken next may belong to another consumer.

        So it is after this process stood still for a whole lease. Then leases have to
        be renewed first.
        """
        if not self._acknowledges:
            return False
        end = now - self._lease
        queues = (self._ready_queue.ready, self._ready_queue.set_aside)
        return any(queue and queue[0].leased_at <= end for queue in queues)

    def left(self, entry: Entry, now: float) -> float:
        """Return the seconds until others may claim an entry, if nobody renews it."""
        if not self._acknowledges:
            return inf
        if entry.state in WITH_HANDLER or entry.state is UNSETTLED:
            ends = min(entry.leased_at + self._lease, entry.shard_state.owned_until)
            return max(0.0, ends - now)
        return 0.0


def _is_started(entry: Entry) -> bool:
    # With an outcome, a first attempt no longer matters: a count of none is too low.
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
