"""Consumer groups: positions, pending entries, consumers, and the counting of lag."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from simulation.server import ids
from simulation.server.streams import Stream
from simulation.server.versions import Version

__all__ = [
    "Consumer",
    "Group",
    "Pending",
    "PendingList",
    "estimate_read",
    "lag",
    "pass_by",
]


class Pending:
    """An entry that was delivered and not acknowledged.

    Attributes:
        id: The entry's id.
        consumer: Its owner.
        time: When it was delivered last, in milliseconds.
        count: How often it was delivered.
    """

    __slots__ = ("consumer", "count", "id", "time")

    def __init__(self, id_: int, consumer: Consumer, time: int, count: int) -> None:
        self.id = id_
        self.consumer = consumer
        self.time = time
        self.count = count


class PendingList:
    """Pending entries in the order of their ids."""

    __slots__ = ("by_id", "ids")

    def __init__(self) -> None:
        self.by_id: dict[int, Pending] = {}
        self.ids: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Pending]:
        by_id = self.by_id
        return iter([by_id[id_] for id_ in self.ids])

    def add(self, pending: Pending) -> None:
        """Add an entry that is not in the list."""
        id_ = pending.id
        self.by_id[id_] = pending
        if not self.ids or id_ > self.ids[-1]:
            self.ids.append(id_)
        else:
            insort(self.ids, id_)

    def remove(self, id_: int) -> Pending | None:
        """Remove an entry and return it, if it is in the list."""
        pending = self.by_id.pop(id_, None)
        if pending is not None:
            del self.ids[bisect_left(self.ids, id_)]
        return pending

    def above(self, low: int, high: int = ids.MAX) -> Iterator[Pending]:
        """Yield the entries from one id to another, both included."""
        listed, by_id = self.ids, self.by_id
        place = bisect_left(listed, low)
        while place < len(listed) and listed[place] <= high:
            id_ = listed[place]
            yield by_id[id_]
            # The caller may remove the entry.
            if place < len(listed) and listed[place] == id_:
                place += 1


class Consumer:
    """A consumer.

    Attributes:
        name: Its name.
        pending: Its pending entries, which are the group's as well.
        seen: When it last asked for something, in milliseconds.
        active: When it last got something; -1 if never.
    """

    __slots__ = ("active", "name", "pending", "seen")

    def __init__(self, name: bytes, now: int) -> None:
        self.name = name
        self.pending = PendingList()
        self.seen = now
        self.active = -1


class Group:
    """A consumer group.

    Attributes:
        last_id: The id up to which it has delivered.
        read: The number of entries up to there, as far as it is known.
        pending: All its pending entries.
        consumers: The consumers by name.
    """

    __slots__ = ("consumers", "last_id", "pending", "read")

    def __init__(self, last_id: int, read: int | None = None) -> None:
        self.last_id = last_id
        self.read = read
        self.pending = PendingList()
        self.consumers: dict[bytes, Consumer] = {}

    def consumer(self, name: bytes, now: int) -> tuple[Consumer, bool]:
        """Return a consumer, and whether it had to be created."""
        found = self.consumers.get(name)
        if found is not None:
            return found, False
        made = self.consumers[name] = Consumer(name, now)
        return made, True

    def deliver(self, id_: int, consumer: Consumer, now: int) -> None:
        """Make an entry pending for a consumer, whoever had it before."""
        pending = self.pending.by_id.get(id_)
        if pending is None:
            pending = Pending(id_, consumer, now, 1)
            self.pending.add(pending)
            consumer.pending.add(pending)
            return
        self.move(pending, consumer)
        pending.time, pending.count = now, 1

    def move(self, pending: Pending, consumer: Consumer) -> None:
        """Give a pending entry to a consumer."""
        if pending.consumer is not consumer:
            pending.consumer.pending.remove(pending.id)
            consumer.pending.add(pending)
            pending.consumer = consumer

    def release(self, id_: int) -> bool:
        """Remove a pending entry, if it is one."""
        pending = self.pending.remove(id_)
        if pending is None:
            return False
        pending.consumer.pending.remove(id_)
        return True

    def drop(self, consumer: Consumer) -> int:
        """Remove a consumer and its pending entries; return their number."""
        for id_ in consumer.pending.ids:
            self.pending.remove(id_)
        del self.consumers[consumer.name]
        return len(consumer.pending)

    def copy(self) -> Group:
        """Return a copy, which shares nothing that changes."""
        other = Group(self.last_id, self.read)
        for name, consumer in self.consumers.items():
            made = other.consumers[name] = Consumer(name, consumer.seen)
            made.active = consumer.active
        for pending in self.pending:
            owner = other.consumers[pending.consumer.name]
            made_pending = Pending(pending.id, owner, pending.time, pending.count)
            other.pending.add(made_pending)
            owner.pending.add(made_pending)
        return other


def _deleted_after(stream: Stream, start: int, version: Version) -> bool:
    """Return whether an entry may have been deleted at an id or above it."""
    deleted = stream.max_deleted
    if not stream.ids or not deleted:
        return False
    if version.counts_past_deletions and stream.first_id > deleted:
        return False
    return start <= deleted


def estimate_read(stream: Stream, id_: int, version: Version) -> int | None:
    """Return how many entries were ever added up to an id, if that can be told."""
    if not stream.added or (not stream.ids and id_ <= stream.last_id):
        return stream.added
    if version.counts_past_deletions and id_ and id_ < stream.max_deleted:
        return None
    if id_ == stream.last_id:
        return stream.added
    first, deleted = stream.first_id, stream.max_deleted
    if id_ <= min(first, stream.last_id) and (not deleted or deleted < first):
        return stream.added - len(stream) + (id_ == first)
    return None


def pass_by(group: Group, stream: Stream, id_: int, version: Version) -> None:
    """Move a group's position on to an entry that it delivers."""
    if group.read is not None and _counter_holds(group, stream, id_, version):
        group.read += 1
    elif stream.added:
        group.read = estimate_read(stream, id_, version)
    group.last_id = id_


def _counter_holds(group: Group, stream: Stream, id_: int, version: Version) -> bool:
    if not version.counts_past_deletions:
        return not _deleted_after(stream, id_, version)
    return group.last_id >= stream.first_id and not _deleted_after(
        stream, group.last_id, version
    )


def lag(group: Group, stream: Stream, version: Version) -> int | None:
    """Return how many entries a group has not delivered, if that can be told."""
    if not stream.added or (version.lag_minds_trimming and not stream.ids):
        return 0
    read = group.read
    holds = read is not None and not _deleted_after(stream, group.last_id, version)
    if version.lag_minds_trimming:
        holds = holds and group.last_id >= stream.first_id
    if not holds:
        read = estimate_read(stream, group.last_id, version)
    return None if read is None else stream.added - read
