"""Owned streams: a consumer as a member of its group, and the shards that it owns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

from penstock import _chance, _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.ledger.ledger import Ledger
from penstock._tasks.ownership.callbacks import Callbacks
from penstock._tasks.ownership.owned_shards import OwnedMembership
from penstock._tasks.ownership.owner_parts import OwnerParts
from penstock._tasks.ownership.permissions import check_allowed
from penstock._tasks.ownership.shard_owner import ShardOwner
from penstock._tasks.ownership.stream_member import StreamMember
from penstock._tasks.reporting import report_blocked
from penstock._tasks.task_scopes import StoppableTask, task_group
from penstock._tasks.wakeups import AutoResetEvent, Generation
from penstock.errors import ConnectionLost
from penstock.message import Shard
from penstock.options import Owned

__all__ = ["OwnedStreams"]


class OwnedStreams(StoppableTask):
    """Joins the group of each stream, beats, and owns shards.

    Args:
        options: How shards are owned.
        connection: The command connection.
        member: The consumer's membership of the group.
        ledger: The consumer's ledger.
        callbacks: Calls the user's functions.
        make_parts: Returns what all shard owners share, given how they start tasks and
            what they call when something may be due at another time.
        static: Whether the member's place is kept for a lease when it closes.
    """

    def __init__(
        self,
        options: Owned,
        *,
        connection: CommandConnection,
        member: OwnedMembership,
        ledger: Ledger,
        callbacks: Callbacks,
        make_parts: Callable[[OwnedStreams], OwnerParts],
        static: bool,
    ) -> None:
        super().__init__()
        self._options = options
        self._connection = connection
        self._member = member
        self._ledger = ledger
        self._callbacks = callbacks
        self._static = static
        self._parts = make_parts(self)
        self._run_id = _chance.token(8)
        self._members: dict[str, StreamMember] = {}
        # What is to be run in the background and was not started yet.
        self._works: deque[Callable[[], Awaitable[None]]] = deque()
        self._work_added = AutoResetEvent()
        self._started = asyncio.Event()
        self._wake = AutoResetEvent()
        self._changes = Generation()
        # The number of the connection that listens for news.
        self._listening_on: int | None = None
        member.owned.on_fenced = self._fenced
        member.owned.on_unacknowledged = self._parts.readers.recover_again
        ledger.work.on_hold_due = self._hold

    async def run(self) -> None:
        """Do what is due, until cut."""
        with self._until_cut():
            async with task_group() as group:
                group.start_soon(self._start_works, group)
                self._started.set()
                self.spawn(self._callbacks.run)
                while True:
                    await self._listen()
                    now = _clock.boottime()
                    for member in self._members.values():
                        if now >= member.due_at():
                            member.due(now)
                        member.check_end()
                    self._changes.advance()
                    await self._wait()

    async def _wait(self) -> None:
        """Wait until something is due, or woken.

        It is reported if the event loop was blocked meanwhile. So it does not wait for
        long, even if beats and the renewals of leases are on their way.
        """
        parts, now = self._parts, _clock.boottime()
        due = min((m.due_at() for m in self._members.values()), default=float("inf"))
        due = max(now, min(due, now + LeaseTerms(parts.lease).look_every))
        with anyio.move_on_after(due - now):
            await self._wake.wait()
        late = _clock.boottime() - due
        report_blocked(late, parts.lease, self._member.group, parts.on_event)

    async def _listen(self) -> None:
        """Listen for news on the present connection; beats find them out without."""
        number = self._connection.number
        if number == self._listening_on or not self._members:
            return
        self._listening_on = number
        channels = [member.channel for member in self._members.values()]
        try:
            await self._connection.listen(channels, self._news)
        except ConnectionLost:
            return
        self._news()  # what was missed meanwhile

    # -- opening -----------------------------------------------------------------------

    async def open(self, shards: Mapping[str, Sequence[Shard]]) -> None:
        """Join the group of each stream.

        Args:
            shards: The shards of each stream.

        Raises:
            ConfigurationError: The server refuses scripts.
            AccessError: The user lacks another permission.
            ServerError: The server refuses, or the connection ended.
        """
        await self._started.wait()
        server = self._connection.server
        members = {stream: self._make_member(stream) for stream in shards}
        beats = [member.open(shards[stream]) for stream, member in members.items()]
        checks = [check for member in members.values() for check in member.checks()]
        # Nobody joins who could not own shards then.
        check_allowed(server, await self._connection.calls(checks))
        replies = await self._connection.calls(beats)
        check_allowed(server, replies)
        self._members = members
        for member, reply in zip(members.values(), replies, strict=True):
            member.opened(reply)
        self.changed()

    def _make_member(self, stream: str) -> StreamMember:
        return StreamMember(
            stream,
            self._run_id,
            self._options,
            static=self._static,
            parts=self._parts,
        )

    def found(self, shards: Iterable[Shard]) -> None:
        """Record that streams have more shards."""
        for shard in shards:
            self._members[shard.stream].found([shard])

    # -- called by others --------------------------------------------------------------

    @property
    def number(self) -> int:
        """How many shards are owned."""
        return self._member.owned.number

    @property
    def shards(self) -> frozenset[Shard]:
        """The shards that were found, whoever owns them."""
        members = self._members.values()
        return frozenset(shard for member in members for shard in member.shards)

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the background, until it is done or everything is cut."""
        if self.has_ended:
            # Cancelled beside all other tasks, for example by asyncio.run(). Then the
            # shards are free after a lease.
            return
        # By a task, since callbacks of the event loop spawn, too: anyio can't start a
        # task there if sniffio is installed.
        self._works.append(work)
        self._work_added.set()

    async def _start_works(self, group: TaskGroup) -> None:
        while True:
            await self._work_added.wait()
            while self._works:
                group.start_soon(self._until_closing, self._works.popleft())

    async def _until_closing(self, work: Callable[[], Awaitable[None]]) -> None:
        with suppress(ConnectionLost):  # the consumer is closing
            await work()

    def changed(self) -> None:
        """Look again at when something is due, and at which connection to listen."""
        self._wake.set()

    def look(self) -> None:
        """Check whether shards that are given up are drained."""
        for owner in self._owners():
            owner.look()

    def startable(self) -> None:
        """Record that handlers of a shard may start, until its lease is over."""
        self._hold(_clock.boottime())

    def owner_of(self, shard: Shard) -> ShardOwner:
        """Return the owner of a shard."""
        return next(owner for owner in self._owners() if owner.shard == shard)

    def abandoned(self, entries: Iterable[Entry]) -> None:
        """Have messages delivered again that nobody will acknowledge any more."""
        shards: dict[Shard, None] = {}
        for entry in entries:
            self._ledger.removals.abandon(entry)
            shards[entry.shard] = None
        for shard in shards:
            self._parts.readers.recover_again(shard)

    def _owners(self) -> list[ShardOwner]:
        return [owner for m in self._members.values() for owner in m.owners]

    def _news(self) -> None:
        for member in self._members.values():
            member.news()

    def _fenced(self, key: bytes, current: bytes) -> None:
        for owner in self._owners():
            if owner.shard.key == key:
                owner.fenced(current)

    def _hold(self, now: float) -> None:
        """Let no handler start of shards whose leases are over."""
        owners = self._owners()
        for owner in owners:
            owner.hold_if_over(now)
        due = (owner.core.starts_until for owner in owners)
        self._ledger.work.hold_at = min(due, default=float("inf"))

    # -- closing -----------------------------------------------------------------------

    def close(self) -> None:
        """Give up all shards, and leave the group."""
        for member in self._members.values():
            member.close()

    async def wait_while(self, condition: Callable[[], bool]) -> None:
        """Wait while a condition holds that outcomes and given-up shards can end."""
        watchers, advance = self._ledger.watchers, self._changes.advance
        watchers[advance] = None
        try:
            while condition() and not self.has_ended:
                await self._changes.wait()
        finally:
            watchers.pop(advance, None)

    async def closed(self) -> None:
        """Wait until no shard is left."""
        while not (
            self.has_ended or all(each.is_out for each in self._members.values())
        ):
            self.look()
            await self._changes.wait()

    def report_unfreed(self) -> None:
        """Report shards that stay taken, because the time to close is over."""
        for member in self._members.values():
            member.report_unfreed(_clock.boottime())
