"""The reader: waits for room, reads, books what came, and does nothing else.

It has a connection of its own, since a blocking read holds up all that is behind it.
What changes the positions (a seek, another shard) is done between two reads, by the
reader: so no reply can come for a position that is not there any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio

from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply, RawEntry
from penstock._core.reading.cursor import Cursor, Position, Read, ReadNew, ReadPending
from penstock._core.reading.request_size import RequestSize
from penstock._tasks.clock import now
from penstock._tasks.group import Membership, refusal
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.pending_bodies import BodyReader, OnEntries, loss_recorded
from penstock._tasks.lifetime import StoppableTask
from penstock._tasks.reading.recovery import PendingRecovery
from penstock._tasks.reading.shard_health import ShardHealth
from penstock._tasks.reporting import report_deleted
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ClosedError, ConnectionLost, PenstockError
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["ReadPause", "Reader"]

# A read on a silent stream comes back this often, to be asked again. Short enough to
# notice a peer that has vanished without a word, and half a command a second.
BLOCK: Final = 2.0
# Pending entries that the first page lists; a line is about 70 bytes.
_FIRST_PAGE: Final = 100
# Shards that are read at once, as long as their replies come through.
_SHARDS: Final = 1000
# Bytes a second that looking at quiet streams may bring on average.
_QUIET_BYTES: Final = 50_000
# How often a broken shard is looked at; in seconds.
_EXAMINE_EVERY: Final = 1.0
# How often a stream is described that is read without a group; in seconds.
_CHECK: Final = 1.0
# Seconds without comparing entries after a connection that ended at that.
_COMPARE_PAUSE: Final = 30.0

ReadPause: TypeAlias = Callable[[Connection], Awaitable[None]]
"""Something to be done between two reads, on the reader's connection.

It is done again from the start if the connection ends meanwhile.
"""

ReadEntries: TypeAlias = Iterable[tuple[bytes, Sequence[RawEntry]]]
"""What a read brought: keys, each with its entries."""


@dataclass(slots=True, eq=False)
class _QueuedPause:
    work: ReadPause
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Reader(StoppableTask):
    """Fills the ledger from the server.

    Args:
        connection: Its connection; replaced after an outage.
        connector: Makes new ones.
        cursor: Where to read.
        ledger: Where to on_entries.
        entry_queue: Told what arrived.
        member: The group that is read, or None for REALTIME.
        claims: Claims entries that are ours; None for REALTIME.
        lease: The lease in seconds.
        budget: Returns how many entries may be read, given how many more the last read
            could have brought; after 0, `resume` will be called.
        split_by_slot: Has each slot read by itself; False if that is so already.
        unblock: Sends CLIENT UNBLOCK for a connection's id.
        on_recovered: Called when all own pending entries of a shard have been read.
        on_event: Told what is repaired or refused.
    """

    def __init__(
        self,
        connection: Connection,
        connector: Connector,
        *,
        cursor: Cursor,
        ledger: Ledger,
        entry_queue: EntryQueue,
        member: Membership | None,
        claims: OwnClaims | None,
        lease: float,
        budget: Callable[[int], int],
        split_by_slot: Callable[[], Awaitable[bool]],
        unblock: Callable[[int], Awaitable[None]],
        on_recovered: Callable[[], None],
        on_event: OnEvent,
    ) -> None:
        super().__init__()
        self.connection = connection
        self._connector = connector
        self._cursor = cursor
        self._ledger = ledger
        self._entry_queue = entry_queue
        self._member = member
        # Entries may be as much older than they seem as a read waits for them.
        longest = BLOCK if member is None else LeaseTerms(lease).longest_read
        self._longest_block = min(BLOCK, longest)
        self._budget = budget
        self._split_by_slot = split_by_slot
        # Rung when there is room again, or something else to do.
        self._wake = AutoResetEvent()
        # Whether it waits for room.
        self.is_waiting = False
        self._unblock = unblock
        self._on_recovered = on_recovered
        self._on_event = on_event
        self._health = ShardHealth(
            member, self._group_recreated, self._recreated, on_event
        )
        # When broken shards are looked at again.
        self._examine_at = 0.0
        # When it is looked again for entries that were trimmed unread.
        self._trim_check_at = 0.0
        # Reads of what is new have brought nothing since.
        self._idle = False
        # When streams are described again that are read without a group.
        self._check_at: dict[bytes, float] = {}
        # When entries may be compared again after an outage: on a way that ends often,
        # nothing else would ever come through. And whether this connection did it.
        self._compare_at = 0.0
        self._compared = False
        # Which shard is looked at next while there is nothing to read; and when.
        self._turn = 0
        self._pauses: deque[_QueuedPause] = deque()
        # A read is under way: cancelling now could strand what it brings.
        self._reading = False
        # Bytes of the last reply.
        self._reply_bytes = 0
        # How many entries, and how many lines about pending ones, come through at once.
        self._read_size = RequestSize()
        self._page_size = RequestSize(_FIRST_PAGE)
        # Of how many shards one entry each does.
        self._shards_at_once = RequestSize(_SHARDS)
        self._bodies = BodyReader(ledger, self._read_size)
        self._recovery = self._make_recovery(claims)
        # Room that the last read left because its portion was too small.
        self._unfilled = 0

    def _make_recovery(self, claims: OwnClaims | None) -> PendingRecovery | None:
        if self._member is None or claims is None:
            return None
        return PendingRecovery(
            self._request,
            cursor=self._cursor,
            ledger=self._ledger,
            member=self._member,
            claims=claims,
            bodies=self._bodies,
            page_size=self._page_size,
        )

    @property
    def stranded(self) -> bool:
        """Whether a read was given up whose entries may be pending unseen."""
        return self._reading

    async def run(self) -> None:
        """Read until stopped, over any number of reconnects."""
        try:
            with self._until_cut():
                self._cursor.connected()
                while not self._stopping:
                    await self._read_until_lost()
        finally:
            while self._pauses:
                asked = self._pauses.popleft()
                asked.begun.set()
                _settle(asked.done, ClosedError("consumer"))
            with anyio.CancelScope(shield=True):
                await self.connection.aclose()

    async def _read_until_lost(self) -> None:
        try:
            await self._read()
        except ConnectionLost as error:
            if self._stopping:
                return
            await self.connection.aclose()
            self.connection = await self._connector.reconnect(error.reason)
            # The lost reply may have had entries in it, which are ours unseen.
            self._reading = self._compared = False
            self._cursor.connected()

    def resume(self) -> None:
        """Go on reading, if it ended for want of room."""
        self._wake.ring()

    async def between_reads(self, work: ReadPause) -> None:
        """Have something done between two reads; a blocked read is let go for it.

        Cancelling it leaves the errand to be done.

        Raises:
            ClosedError: The consumer closed before it was done.
            PenstockError: What the errand raised.
        """
        if self.has_ended:
            raise ClosedError("consumer")
        asked = _QueuedPause(work)
        self._pauses.append(asked)
        self._wake.ring()
        await self._unblock_until(asked.begun)
        await asyncio.shield(asked.done)

    async def stop(self) -> None:
        """End reading; a read under way is let go by the server, not cancelled.

        That may take a server's time without end: bound it, and then call `cut`.
        """
        self._stopping = True
        if (
            not self._reading
            or self.connection.client_id is None
            or self.connection.lost
        ):
            self.cut()
        await self._unblock_until(self._ended)

    async def _unblock_until(self, until: asyncio.Event) -> None:
        """Have the server end a blocked read, until something has happened."""
        # The reader may be on its way there already, without a read.
        await asyncio.sleep(0)
        while not until.is_set():
            if self.connection.client_id is None:
                await until.wait()  # the read ends by itself
                return
            # Repeated, since it does nothing to a read that the server has not got
            # yet: the two connections race.
            if self._reading and not self.connection.lost:
                await self._unblock(self.connection.client_id)
            # Not anyio's: this runs in the caller's task, and its cancellation got out
            # when the event came in the same turn as the deadline.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await until.wait()

    async def _read(self) -> None:
        while not self._stopping:
            await self._run_pauses()
            await self._check_doubtful()
            budget = self._budget(self._unfilled)
            self._unfilled = 0
            read = self._next(budget) if budget else None
            match read:
                case None:
                    self.is_waiting = not budget
                    with anyio.move_on_after(
                        _EXAMINE_EVERY if self._cursor.broken else None
                    ):
                        await self._wake.wait()
                    self.is_waiting = False
                case ReadPending():
                    await self._recover(read)
                case ReadNew():
                    await self._read_new(read, budget)

    def _next(self, budget: int) -> Read | None:
        most, lines, shards = (
            self._read_size.most,
            self._page_size.most,
            self._shards_at_once.most,
        )
        return self._cursor.next(budget, most=most, lines=lines, shards=shards)

    async def _run_pauses(self) -> None:
        while self._pauses:
            asked = self._pauses[0]
            asked.begun.set()
            try:
                await asked.work(self.connection)
            except ConnectionLost:
                raise  # it stays, for the next connection
            except PenstockError as error:
                _settle(asked.done, error)
            else:
                _settle(asked.done, None)
            self._pauses.popleft()

    async def _check_doubtful(self) -> None:
        """See whether broken shards have healed, and doubtful ones are the same."""
        compare = now() >= self._compare_at
        for position in self._cursor.positions:
            if position.doubtful and position.broken is None:
                if position.identity.interrupted:
                    if compare:
                        # Until a read has come through on the same connection.
                        self._compare_at, self._compared = now() + _COMPARE_PAUSE, True
                    await self._health.check_after_outage(
                        self.connection, position, compare=compare
                    )
                else:
                    await self._health.check(self.connection, position)
        if self._cursor.broken and now() >= self._examine_at:
            await self._examine(self._cursor.broken)

    def _group_recreated(self, shard: Shard) -> None:
        self._ledger.shards.group_recreated(shard, now())

    def _recreated(self, position: Position) -> Sequence[bytes]:
        """Forget what is known of a stream that is another one now."""
        position.recreated()
        self._cursor.recover_again(position)
        return self._ledger.stream_recreated(position.shard)

    async def _check_next(self, positions: Sequence[Position]) -> None:
        """Look at one shard after the other while there is nothing to read.

        A stream that was recreated with ids that were there before looks like a quiet
        one.
        """
        self._turn += 1
        position = positions[self._turn % len(positions)]
        if self._is_doubtful(position):
            await self._check(position)

    async def _drop_recreated(self, came: ReadEntries) -> ReadEntries:
        """Find out which entries are of streams that were recreated, before all else.

        Returns:
            What came, but for what is going to be read again.
        """
        kept: list[tuple[bytes, Sequence[RawEntry]]] = []
        for key, entries in came:
            position = self._cursor.position(key)
            if not self._is_doubtful(position, entries[0][0]):
                kept.append((key, entries))
                continue
            # Cancelled now, it would leave what came unbooked.
            self._reading = True
            try:
                recreated = await self._check(position)
            except ConnectionLost:
                # What came is booked all the same. The next request finds it lost.
                recreated = False
            if not recreated or self._member is not None:
                kept.append((key, entries))
        return kept

    def _is_doubtful(self, position: Position, first: bytes = b"") -> bool:
        """Return whether a stream has to be checked, of which entries may have come."""
        if self._member is not None:
            return position.goes_back(first) and not position.rewind_reported
        return now() >= self._check_at.get(position.shard.key, 0.0)

    async def _check(self, position: Position) -> bool:
        begun, before = now(), self.connection.received
        quiet = self._member is None
        recreated = await self._health.check(self.connection, position, quiet=quiet)
        # Never more than a fiftieth of the time. And where scripts are refused, two
        # whole entries came, of up to 64 MiB each.
        took = max(
            50 * (now() - begun), (self.connection.received - before) / _QUIET_BYTES
        )
        self._check_at[position.shard.key] = begun + max(_CHECK, took)
        return recreated

    async def _examine(self, positions: Sequence[Position]) -> None:
        self._examine_at = now() + _EXAMINE_EVERY
        refused = await self._health.examine(self.connection, positions)
        if refused is not None:
            self._entry_queue.fail(refused)
            self._stopping = True

    async def _request(self, batch: Sequence[Command], wait: float = 0.0) -> list[Any]:
        self._reading = True
        before = self.connection.received
        answers = await self.connection.ask(batch, wait)
        self._reply_bytes = self.connection.received - before
        self._reading = False
        return answers

    async def _read_new(self, read: ReadNew, budget: int) -> None:
        block = (
            min(self._longest_block, _EXAMINE_EVERY)
            if self._cursor.broken
            else self._longest_block
        )
        wait = block if read.wait else 0.0
        shards = len(read.positions)
        looked = await self._check_trimmed(read)
        # The server may have given the entries away as soon as this was sent; when they
        # are booked tells nothing, should this process stand still before that.
        asked_at = now()
        # Once one entry a shard does not come through, fewer shards are read at once;
        # and all of them again before more entries are.
        few = read.count == 1 and shards > 1
        with loss_recorded(
            *((self._shards_at_once, shards) if few else (self._read_size, read.count))
        ):
            [came] = await self._request([self._read_command(read, wait)], wait)
        limited = shards >= self._shards_at_once.most
        self._shards_at_once.came(shards, shards)
        if isinstance(came, ErrorReply):
            await self._refused(came)
            return
        if not came and read.wait and self._member is None:
            await self._check_next(read.positions)
        came = await self._drop_recreated(came)
        self._reading = False
        # Each entry's share of the reply; what an entry holds is not loss_recorded out.
        each = self._reply_bytes // max(1, sum(len(entries) for _, entries in came))
        count = 0
        for key, entries in came:
            position = self._cursor.received(read, key, entries)
            if position.again and not position.rewind_reported:
                self._health.report_rewind(position, entries[0][0])
            count += self._ledger.deliveries.received(
                position.shard,
                entries,
                asked_at,
                each * len(entries),
                rewound=position.again,
            )
            if len(entries) == read.count < budget:
                self._unfilled = max(0, budget - read.count * len(read.positions))
            if not limited:
                self._read_size.came(read.count, len(entries))
        self._entry_queue.arrived(count)
        self._connector.progress()
        if self._compared:
            self._compare_at = 0.0
        if came:
            self._idle = False
            if looked:
                await self._health.check_trimmed(self.connection, read.positions)

    async def _check_trimmed(self, read: ReadNew) -> bool:
        """Look before a read that may skip what was trimmed; returns whether we did."""
        # Who waits for the next entry is given it before it can be trimmed.
        begun = now()
        if self._member is None or self._idle or begun < self._trim_check_at:
            return False
        await self._health.check_trimmed(self.connection, read.positions)
        self._idle = True
        took = now() - begun
        self._trim_check_at = begun + max(_CHECK, 50 * took)
        return True

    def _read_command(self, read: ReadNew, wait: float) -> Command:
        keys = [position.shard.key for position in read.positions]
        block = int(wait * 1000) if wait else None
        if self._member is None:
            after = [position.after for position in read.positions]
            return commands.xread(keys, after, read.count, block)
        group, name = self._member.group, self._member.name
        noack = self._member.noack
        return commands.xreadgroup(group, name, keys, read.count, block, noack=noack)

    async def _recover(self, read: ReadPending) -> None:
        """Read a page of own pending entries, with their delivery counts."""
        recovery, position = self._recovery, read.position
        assert recovery is not None  # noqa: S101 - only groups have any
        with self._ledger.deliveries.recovering(position.shard):
            refused = await recovery.read_page(
                self.connection, read, self._record_recovered
            )
            if refused is not None:
                await self._refused(refused)
            elif not position.recovering:
                assert self._member is not None  # noqa: S101 - the same
                report_deleted(self._ledger, self._member.group, self._on_event)
                self._on_recovered()

    def _record_recovered(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        listed_at: float,
        counts: Mapping[bytes, int],
    ) -> None:
        new = self._ledger.deliveries.recovered(shard, entries, listed_at, counts)
        self._entry_queue.arrived(new)
        if new:
            # A replica lists what is pending, too; what it can't do is to renew it.
            self._connector.progress()

    async def fetch(
        self, shard: Shard, ids: Sequence[bytes], on_entries: OnEntries
    ) -> tuple[Sequence[bytes], ErrorReply | None]:
        """Read entries that were taken over, between two reads, as long as they fit.

        If the connection ends meanwhile, what was not read is left to recovery.

        Args:
            shard: Where they are.
            ids: Their ids.
            on_entries: Takes them, some at a time.

        Returns:
            The ids that there was no room for, and what was refused.

        Raises:
            ClosedError: The consumer closed before it was done.
        """
        left = ids
        refused: ErrorReply | None = None

        async def work(_: Connection) -> None:
            nonlocal left, refused
            # Should the connection end, the errand is run again, with nothing to do.
            unread, left = left, []
            while unread and shard in self._cursor and (count := self._bodies.count):
                found = await self._bodies.read(self._request, shard, unread[:count])
                if isinstance(found, ErrorReply):
                    refused = found
                    return
                on_entries(found)
                unread = unread[count:]
            left = unread

        await self.between_reads(work)
        return left, refused

    async def _refused(self, error: ErrorReply) -> None:
        if error.trouble in {ErrorKind.REPAIR, ErrorKind.ISOLATE}:
            # The reply does not say which of the shards it is.
            await self._examine(self._cursor.positions)
        elif error.code == "CROSSSLOT" and await self._split_by_slot():
            pass  # the server is in cluster mode
        elif error.trouble is ErrorKind.FATAL:
            command = "XREAD" if self._member is None else "XREADGROUP"
            self._entry_queue.fail(
                refusal(self.connection.address.name, command, error)
            )
            self._stopping = True
            return
        else:
            self._on_event(Event("read_refused", facts={"reply": error.text}))
        await self._connector.pause()


def _settle(future: asyncio.Future[None], error: PenstockError | None) -> None:
    if future.done():
        return  # whoever asked was cancelled
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        # Whoever asked may be cancelled; asyncio need not say "never retrieved".
        future.exception()
