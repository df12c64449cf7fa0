"""Trimming: retention as arguments of XTRIM, and the floor of all groups.

A group needs an entry as long as the entry is pending in that group or has not been
delivered to it yet. Ids only grow, and so does the last delivered id. So an entry that
no group needs at the time of the check is not needed later either, however old the
server's answer is by then. There are exceptions that no client can foresee: a group
that is created at an earlier position or rewound to one. The trimming script checks
once more for these, where the server allows scripts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from penstock._core.protocol.commands import Command
from penstock.durations import seconds
from penstock.message import EntryId
from penstock.retention import KeepAll, MaxLen, Retention

__all__ = [
    "AcknowledgedFloor",
    "GroupStanding",
    "acknowledged_floor",
    "group_idle",
    "trim_arguments",
    "trim_below",
    "trim_words",
]

# In a millisecond.
_NANOSECONDS: Final = 10**6


def trim_arguments(
    retention: Retention | None, now: int, *, nanoseconds: bool = False
) -> Command:
    """Return the trimming arguments for a retention.

    Args:
        retention: How much of the stream to keep; None keeps everything.
        now: The time, in milliseconds since 1970.
        nanoseconds: Whether the ids of the stream count nanoseconds.
    """
    if retention is None or isinstance(retention, KeepAll):
        return ()
    how = b"=" if retention.exact else b"~"
    if isinstance(retention, MaxLen):
        return (b"MAXLEN", how, retention.messages)
    age = round(seconds(retention.age, "age") * 1000)
    oldest = max(0, now - age)
    return (b"MINID", how, oldest * _NANOSECONDS if nanoseconds else oldest)


def trim_words(retention: Retention | None, now: int) -> list[bytes]:
    """Return the same as `trim_arguments`, all of it as bytes."""
    return [
        word if isinstance(word, bytes) else str(word).encode()
        for word in trim_arguments(retention, now)
    ]


def trim_below(floor: EntryId) -> Command:
    """Return the arguments that trim all entries below an id, and no others."""
    return (b"MINID", b"=", bytes(floor))


@dataclass(frozen=True, slots=True)
class GroupStanding:
    """The position of a group in a shard.

    Attributes:
        name: The group's name.
        last_delivered: The highest id that was delivered.
        pending: Entries that were delivered and not acknowledged.
        oldest_pending: The lowest id of the pending entries; None if there are none.
        lag: Entries that have not been delivered yet; None if that can't be known.
        idle: Seconds since the last request of any of the group's consumers. For a
            group without consumers, the age of the last delivered entry. None if
            nothing was delivered to such a group, or if the server does not report idle
            times.
    """

    name: str
    last_delivered: EntryId
    pending: int
    oldest_pending: EntryId | None
    lag: int | None
    idle: float | None

    @property
    def needs(self) -> EntryId:
        """The lowest id that the group may not have acknowledged."""
        last = self.last_delivered
        unread = last if last == EntryId.MAX else last.next()
        # The pending entries of a rewound group may lie above its position.
        return (
            unread if self.oldest_pending is None else min(unread, self.oldest_pending)
        )


@dataclass(frozen=True, slots=True)
class AcknowledgedFloor:
    """The floor of a shard, below which every group has acknowledged all entries.

    Attributes:
        floor: No group needs any entry below this id; None if no group counts.
        held_by: The group that needs entries from the floor on; None if the floor lies
            above the last id of the stream.
        ignored: The names of the groups that were left out.
    """

    floor: EntryId | None
    held_by: GroupStanding | None
    ignored: tuple[str, ...]


def acknowledged_floor(
    groups: Iterable[GroupStanding], last: EntryId, ignore_idle: float | None
) -> AcknowledgedFloor:
    """Return the id below which every group of a shard has acknowledged all entries.

    Args:
        groups: The groups.
        last: The last generated id of the stream.
        ignore_idle: Groups that have been idle for more than these seconds are left
            out; None leaves none out.
    """
    count: list[GroupStanding] = []
    ignored: list[str] = []
    for group in groups:
        if ignore_idle is None or group.idle is None or group.idle <= ignore_idle:
            count.append(group)
        else:
            ignored.append(group.name)
    lowest = min(count, key=lambda group: group.needs, default=None)
    if lowest is None:
        return AcknowledgedFloor(None, None, tuple(ignored))
    floor = lowest.needs
    return AcknowledgedFloor(floor, lowest if floor <= last else None, tuple(ignored))


def group_idle(
    consumers: Collection[int], last_delivered: EntryId, now: int
) -> float | None:
    """Return the seconds for which a group has been idle, or None if that is not known.

    A group without consumers is as idle as the last entry delivered to it is old. A
    group to which nothing was delivered may be new, and its consumers may not have
    started yet: its idle time can't be known.

    Args:
        consumers: The idle time of each consumer, in milliseconds.
        last_delivered: The highest id that was delivered.
        now: The server's time, in milliseconds since 1970.
    """
    if consumers:
        return min(consumers) / 1000
    if last_delivered == EntryId.MIN:
        return None
    last = last_delivered.ms
    if last_delivered.counts_nanoseconds:
        last //= _NANOSECONDS
    return max(0, now - last) / 1000
