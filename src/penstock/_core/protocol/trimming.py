"""What of a stream may go: retention in words, and what every group has acknowledged.

An entry is needed by a group as long as it is pending there, or has not been delivered
yet. Ids only grow, and so does what was delivered last; so what no group needs when we
look, no group will need later, however old the answer is by then. There are exceptions
that no client can see coming: a group that is made at an earlier place or set back to
one. The trimming itself looks once more for these, where the server runs scripts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from penstock._core.protocol.commands import Command
from penstock.message import EntryId
from penstock.options import seconds
from penstock.retention import KeepAll, MaxLen, Retention

__all__ = ["Acknowledged", "GroupStanding", "acknowledged", "below", "idle", "trim"]


def trim(retention: Retention | None, now: int) -> Command:
    """Word how much of a stream to keep, as seen at `now`, milliseconds since 1970."""
    if retention is None or isinstance(retention, KeepAll):
        return ()
    how = b"=" if retention.exact else b"~"
    if isinstance(retention, MaxLen):
        return (b"MAXLEN", how, retention.messages)
    age = round(seconds(retention.age, "age") * 1000)
    return (b"MINID", how, max(0, now - age))


def below(floor: EntryId) -> Command:
    """Word that all below an id is to go, and nothing else."""
    return (b"MINID", b"=", bytes(floor))


@dataclass(frozen=True, slots=True)
class GroupStanding:
    """How far a group is with a shard.

    Attributes:
        name: The group's name.
        last_delivered: The highest id that was delivered.
        pending: Entries delivered and not acknowledged.
        oldest_pending: The lowest id of these; None without any.
        lag: Entries not delivered yet; None where that can't be known.
        idle: Seconds since any of its consumers asked for anything. Of a group without
            consumers, the age of what was delivered last; None if that is nothing, and
            where the server does not tell.
    """

    name: str
    last_delivered: EntryId
    pending: int
    oldest_pending: EntryId | None
    lag: int | None
    idle: float | None

    @property
    def needs(self) -> EntryId:
        """The lowest id that it may not have acknowledged."""
        last = self.last_delivered
        unread = last if last == EntryId.MAX else last.next()
        # Of a group that was set back, what is pending may lie above that.
        return (
            unread if self.oldest_pending is None else min(unread, self.oldest_pending)
        )


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Up to where all is acknowledged.

    Attributes:
        floor: No group needs anything below this id; None where no group counts.
        held_by: The group that needs this id, if there is such an entry.
        ignored: The names of the groups that were left out.
    """

    floor: EntryId | None
    held_by: GroupStanding | None
    ignored: tuple[str, ...]


def acknowledged(
    groups: Iterable[GroupStanding], last: EntryId, ignore_idle: float | None
) -> Acknowledged:
    """Say up to where every group of a shard has acknowledged.

    Args:
        groups: The groups.
        last: The highest id that there has been.
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
        return Acknowledged(None, None, tuple(ignored))
    floor = lowest.needs
    return Acknowledged(floor, lowest if floor <= last else None, tuple(ignored))


def idle(consumers: Collection[int], last_delivered: EntryId, now: int) -> float | None:
    """Tell for how many seconds a group has done nothing.

    A group without consumers is as old as what it was given last. One that was given
    nothing may be new, and its consumers yet to come: nobody knows.

    Args:
        consumers: Milliseconds that each consumer has been idle.
        last_delivered: The highest id that was delivered.
        now: The server's time, milliseconds since 1970.
    """
    if consumers:
        return min(consumers) / 1000
    if last_delivered == EntryId.MIN:
        return None
    return max(0, now - last_delivered.ms) / 1000
