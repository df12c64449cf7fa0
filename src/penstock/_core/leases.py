"""Which leases have to be renewed, and when something may be somebody else's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from penstock._core.accounts import Accounts
from penstock._core.entry import (
    DUE,
    FAILED,
    IN_HAND,
    MARK,
    OPEN,
    POSTPONED,
    QUEUED,
    RUNNING,
    Entry,
    Renewal,
    move,
)
from penstock._core.lanes import Lanes

__all__ = ["Leases"]

# What the server counts otherwise than its reads do, or may do so.
_COUNTED: Final = frozenset((DUE, RUNNING, FAILED, POSTPONED))


class Leases:
    """Knows when what is in hand was read or last renewed.

    Args:
        accounts: The books.
        lanes: What waits.
        lease: Seconds that an entry without an outcome is ours.
        acks: Whether there are leases at all.
    """

    __slots__ = ("_accounts", "_acks", "_lanes", "_lease")

    def __init__(
        self, accounts: Accounts, lanes: Lanes, lease: float, *, acks: bool
    ) -> None:
        self._accounts = accounts
        self._lanes = lanes
        self._lease = lease
        self._acks = acks

    def to_renew(self, now: float) -> list[Renewal]:
        """List what has used up a third of its lease or more.

        Entries that are left open are not among them: nobody is at work on them. What
        only waits is marked by the way, unless something has to be asked first: it
        might start meanwhile.
        """
        third, end = now - self._lease / 3, now - self._lease
        due = [
            entry
            for entry in self._accounts.entries()
            if entry.leased_at <= third and entry.state is not OPEN
        ]
        # Past two thirds we may come too late, and must ask first.
        late = any(entry.leased_at <= (third + end) / 2 for entry in due)
        waiting, others = [], defaultdict[bytes, list[Entry]](list)
        for entry in due:
            if entry.state is QUEUED and not late:
                waiting.append(entry)
            else:
                others[entry.account.shard.key].append(entry)
        plain = [Renewal(each[0].account, each, late) for each in others.values()]
        return _marked(waiting) + plain

    def to_mark(self, now: float) -> list[Renewal]:
        """List what waits and is counted by the server; it is DUE from now on.

        Left out is what may be somebody else's by now: a renewal would take it back.
        """
        if not self._acks:
            return []
        late = now - self._lease * 2 / 3
        return _marked(
            [
                entry
                for entry in self._lanes.waiting()
                if entry.state is QUEUED and entry.leased_at > late
            ]
        )

    def to_count_again(self, now: float) -> list[Renewal]:
        """Have the server count as we do: it may not have been told, or not by us.

        Left out is what has used up two thirds of its lease: it may be somebody
        else's, and this would take it back.
        """
        young = now - self._lease * 2 / 3
        return _counted(
            [
                entry
                for entry in self._accounts.entries()
                if entry.leased_at > young and _is_counted(entry)
            ]
        )

    def overdue(self, now: float) -> bool:
        """Whether what would be taken next may be somebody else's by now."""
        if not self._acks:
            return False
        end, lines = now - self._lease, (self._lanes.ready, self._lanes.suspects)
        return any(line and line[0].leased_at <= end for line in lines)

    def left(self, entry: Entry, now: float) -> float:
        """Give the seconds until others may take an entry over, if nobody renews it."""
        if not self._acks:
            return float("inf")
        if entry.state in IN_HAND or entry.state is OPEN:
            return max(0.0, entry.leased_at + self._lease - now)
        return 0.0


def _marked(entries: Sequence[Entry]) -> list[Renewal]:
    """Have the server not count deliveries that have come to no handler yet.

    Done with their renewal, since one command does both.

    Args:
        entries: Entries that are QUEUED.
    """
    for entry in entries:
        move(entry, MARK)
    return _counted(entries)


def _is_counted(entry: Entry) -> bool:
    # With an outcome, the first attempt matters no more: none is too few.
    return entry.state in _COUNTED or (entry.untold and entry.deliveries > 1)


def _counted(entries: Iterable[Entry]) -> list[Renewal]:
    groups: dict[tuple[bytes, int], list[Entry]] = {}
    for entry in entries:
        # Of what is due, the next attempt is not to be counted yet.
        count = entry.deliveries - (entry.state is DUE)
        groups.setdefault((entry.account.shard.key, count), []).append(entry)
    return [
        Renewal(group[0].account, group, late=False, count=count)
        for (_, count), group in groups.items()
    ]
