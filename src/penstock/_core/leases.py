"""Which leases have to be renewed, and when something may be somebody else's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from penstock._core.entry import (
    DUE,
    FAILED,
    MARK,
    OPEN,
    POSTPONED,
    QUEUED,
    RUNNING,
    Account,
    Entry,
    Renewal,
    move,
)

__all__ = ["counted_again", "marked", "to_renew"]

# What the server counts otherwise than its reads do, or may do so.
_COUNTED: Final = frozenset((DUE, RUNNING, FAILED, POSTPONED))


def to_renew(accounts: Iterable[Account], lease: float, now: float) -> list[Renewal]:
    """List what has used up a third of its lease or more.

    Entries that are left open are not among them: nobody is at work on them. What only
    waits is marked by the way, unless something has to be asked first: it might start
    meanwhile.
    """
    third, end = now - lease / 3, now - lease
    due = [
        entry
        for account in accounts
        for entry in account.entries.values()
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
    return marked(waiting) + plain


def marked(entries: Sequence[Entry]) -> list[Renewal]:
    """Have the server not count deliveries that have come to no handler yet.

    Done with their renewal, since one command does both.

    Args:
        entries: Entries that are QUEUED.
    """
    for entry in entries:
        move(entry, MARK)
    return _counted(entries)


def counted_again(
    accounts: Iterable[Account], lease: float, now: float
) -> list[Renewal]:
    """Have the server count as we do: it may not have been told, or not by us.

    Left out is what has used up two thirds of its lease: it may be somebody else's,
    and this would take it back.
    """
    young = now - lease * 2 / 3
    return _counted(
        [
            entry
            for account in accounts
            for entry in account.entries.values()
            if entry.leased_at > young and _is_counted(entry)
        ]
    )


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
