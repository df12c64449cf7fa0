"""Replication and durability: what follows a server, and what is on its disk.

Each change is a record: the command that made it, with what it left to the server (an
id, for example) filled in, and the time at which it ran. A replica runs the records of
its leader in order, and so does a server that comes back after a crash with the records
that had reached its disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from simulation.server.blocking import Waiter
from simulation.server.resp import Fault, Reply

if TYPE_CHECKING:
    from simulation.server.keyspace import Stored
    from simulation.server.server import Server, Timer
    from simulation.server.sessions import Session

__all__ = ["Disk", "Journal", "Link", "Record"]

_FSYNC_EVERY: Final = 1.0
_MOST_BATCHES: Final = 5000
_DEMOTED: Final = (
    b"UNBLOCKED force unblock from blocking operation, instance state changed (master "
    b"-> replica?)"
)


class Record(NamedTuple):
    """A change.

    Attributes:
        now: The time at which it was made.
        number: The database's number.
        words: The command.
    """

    now: int
    number: int
    words: list[bytes]


class Disk:
    """What would be found after a loss of power.

    Attributes:
        synced: The replication offset up to which it is complete.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._base: tuple[Stored, ...] = server.snapshot()
        self._batches: list[tuple[int, list[Record]]] = []
        self._timer: Timer | None = None
        self.synced = server.offset

    @property
    def keeps_journal(self) -> bool:
        """Whether changes are written as they are made (`appendonly yes`)."""
        return self._server.config.values["appendonly"] == "yes"

    def write(self, offset: int, batch: list[Record]) -> None:
        """Write changes, and let them reach the disk as `appendfsync` says."""
        self._batches.append((offset, batch))
        policy = self._server.config.values["appendfsync"]
        if policy == "always":
            self.sync()
        elif policy == "everysec" and self._timer is None:
            self._timer = self._server.after(_FSYNC_EVERY, self.sync)

    def sync(self) -> None:
        """Complete the disk."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.synced = self._server.offset
        if len(self._batches) > _MOST_BATCHES:
            self.save()
        self._server.journal.acknowledged()

    def save(self) -> None:
        """Write all data, as SAVE does."""
        self._base = self._server.snapshot()
        self._batches.clear()

    def restore(self) -> tuple[tuple[Stored, ...], list[Record]]:
        """Return the data that would be found, and the changes to make to it."""
        records = [
            record
            for offset, batch in self._batches
            if offset <= self.synced
            for record in batch
        ]
        return self._base, records


class Link:
    """A replica's connection to its leader.

    Args:
        leader: The leader.
        follower: The replica; it gets all the data at once.
        delay: Returns the seconds that a record takes, one way.

    Attributes:
        follower: The replica.
        delay: Returns the seconds that a record takes, one way.
        has: The offset up to which the leader knows that the replica has the changes.
        has_synced: The same for the replica's disk.
        stalled: Whether nothing is transported for now.
    """

    def __init__(
        self, leader: Server, follower: Server, delay: Callable[[], float]
    ) -> None:
        self._leader = leader
        self.follower = follower
        self.delay = delay
        self._sent: deque[tuple[int, list[Record]]] = deque()
        self._open = True
        self.stalled = False
        self.has = self.has_synced = leader.offset
        follower.become_replica(leader)
        follower.offset = leader.offset

    def send(self, offset: int, batch: list[Record]) -> None:
        """Send changes."""
        self._sent.append((offset, batch))
        self._leader.after(self.delay(), self._arrive)

    def _arrive(self) -> None:
        # Timers may fire in another order; the changes arrive in theirs.
        if not self._open or self.stalled or not self._sent:
            return
        offset, batch = self._sent.popleft()
        self.follower.after(0, lambda: self._apply(offset, batch))

    def _apply(self, offset: int, batch: list[Record]) -> None:
        if self._open:
            self.follower.apply(batch, offset)
            self.report()

    def report(self) -> None:
        """Tell the leader what the replica has."""
        has, synced = self.follower.offset, self.follower.journal.disk.synced
        self._leader.after(self.delay(), lambda: self._reported(has, synced))

    def _reported(self, has: int, synced: int) -> None:
        if self._open:
            self.has = max(self.has, has)
            self.has_synced = max(self.has_synced, synced)
            self._leader.journal.acknowledged()

    def resume(self) -> None:
        """Transport again what has waited while stalled."""
        self.stalled = False
        for _ in range(len(self._sent)):
            self._leader.after(self.delay(), self._arrive)

    def close(self) -> None:
        """End it; what is under way is lost."""
        self._open = False
        self._sent.clear()
        if self in self._leader.journal.links:
            self._leader.journal.links.remove(self)


class Journal:
    """The changes of a server, and who gets them.

    Attributes:
        links: The replicas.
        disk: The server's disk.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._batch: list[Record] = []
        self.links: list[Link] = []
        self.disk = Disk(server)
        self._waiting: dict[Waiter, Callable[[], Reply | None]] = {}

    def record(self, index: int, words: list[bytes]) -> None:
        """Record a change that the current command makes."""
        self._batch.append(Record(self._server.now, index, words))

    def commit(self, session: Session | None = None) -> None:
        """Pass the changes of a command on, all together."""
        batch = self._batch
        if not batch:
            return
        self._batch = []
        offset = self._server.offset = self._server.offset + len(batch)
        if session is not None:
            session.writes_to = offset
        for link in self.links:
            link.send(offset, batch)
        if self.disk.keeps_journal:
            self.disk.write(offset, batch)

    def replicas_with(self, offset: int) -> int:
        """Return how many replicas have all changes up to an offset."""
        return sum(link.has >= offset for link in self.links)

    def disks_with(self, offset: int) -> tuple[int, int]:
        """Return how many disks, the own one and replicas', have all changes."""
        own = self.disk.keeps_journal and self.disk.synced >= offset
        others = sum(
            link.has_synced >= offset
            for link in self.links
            if link.follower.journal.disk.keeps_journal
        )
        return int(own), others

    def wait(
        self, session: Session, ms: int, done: Callable[[], Reply | None]
    ) -> Waiter:
        """Let a client wait for replicas or disks.

        Args:
            session: The client.
            ms: Its timeout; 0 for none.
            done: Returns the reply, or None as long as too few have acknowledged.
        """
        waiter = Waiter(session, None, [])
        self._waiting[waiter] = done
        self._server.blocked.add(waiter, ms)
        return waiter

    def acknowledged(self) -> None:
        """Serve those who wait, now that more has been acknowledged."""
        for waiter, done in list(self._waiting.items()):
            if waiter.session.waiter is not waiter:
                del self._waiting[waiter]
                continue
            reply = done()
            if reply is not None:
                del self._waiting[waiter]
                self._server.blocked.end(waiter, reply)
        if self._server.link is not None:
            self._server.link.report()


def unblock_all(server: Server) -> None:
    """End all waits, as a server does that becomes a replica."""
    for session in list(server.sessions.values()):
        if session.waiter is not None:
            server.blocked.end(session.waiter, Fault(_DEMOTED))
            session.close_after_reply()
