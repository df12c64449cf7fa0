"""The reader: waits for a budget, reads, and records the entries in the ledger.

The reader has a connection of its own, since a blocking read holds up every command
behind it. The positions are changed (by a seek, or by another shard) between two reads,
by the reader itself. So no reply can arrive for a position that no longer exists.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio

from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply, RawEntry
from penstock._core.reading.cursor import Cursor, Read, ReadNew, ReadPending
from penstock._core.reading.request_size import ReadSizes
from penstock._tasks.clock import now
from penstock._tasks.group import refusal
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.pending_bodies import BodyReader, OnEntries
from penstock._tasks.reading.recovery import PendingRecovery
from penstock._tasks.reading.shard_health import EXAMINE_EVERY
from penstock._tasks.reading.stream_checks import ReadEntries, StreamChecks
from penstock._tasks.reporting import report_deleted
from penstock._tasks.task_scopes import StoppableTask
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ClosedError, ConnectionLost, PenstockError, ServerError
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["ReadPause", "Reader"]

# The seconds after which a read on a silent stream returns and is sent again. They are
# few enough to notice a peer that has vanished without closing the connection, and cost
# half a command a second.
BLOCK: Final = 2.0

ReadPause: TypeAlias = Callable[[Connection], Awaitable[None]]
"""A function that runs between two reads, on the reader's connection.

If the connection ends meanwhile, the function runs again from the start.
"""


@dataclass(slots=True, eq=False)
class _QueuedPause:
    work: ReadPause
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderHooks:
    """What a reader asks of others.

    Attributes:
        budget: Returns how many entries may be read, given how many more the last read
            could have returned. After it has returned 0, `resume` will be called.
        split_by_slot: Makes each slot be read by a reader of its own; returns False if
            that is so already.
        unblock: Sends CLIENT UNBLOCK for a connection's id.
        on_recovered: Called when all own pending entries of a shard have been read.
    """

    budget: Callable[[int], int]
    split_by_slot: Callable[[], Awaitable[bool]]
    unblock: Callable[[int], Awaitable[None]]
    on_recovered: Callable[[], None]


class Reader(StoppableTask):
    """Fills the ledger from the server.

    If the reader is cut during a read, it is `stranded`.

    Args:
        connection: The reader's connection, which is replaced after an outage.
        connector: Makes new connections.
        cursor: The positions at which to read.
        ledger: The ledger in which entries are recorded.
        entry_queue: Is notified of new entries.
        claims: Claims the consumer's own entries in the group that is read; None for
            REALTIME.
        hooks: What the reader asks of others.
        on_event: Receives repairs and refusals.
    """

    def __init__(
        self,
        connection: Connection,
        connector: Connector,
        *,
        cursor: Cursor,
        ledger: Ledger,
        entry_queue: EntryQueue,
        claims: OwnClaims | None,
        hooks: ReaderHooks,
        on_event: OnEvent,
    ) -> None:
        super().__init__()
        self.connection = connection
        self._connector = connector
        self._cursor = cursor
        self._ledger = ledger
        self._entry_queue = entry_queue
        self._member = member = None if claims is None else claims.member
        # Entries may be younger than they seem by as long as a read waited for them.
        longest = BLOCK if member is None else ledger.leases.terms.longest_read
        self._longest_block = min(BLOCK, longest)
        self._hooks = hooks
        # Set when there is a budget again, or something else to do.
        self._wake = AutoResetEvent()
        # Whether the reader waits for a budget.
        self.is_waiting = False
        self._on_event = on_event
        self._checks = StreamChecks(member, cursor, ledger, on_event)
        self._pauses: deque[_QueuedPause] = deque()
        # Whether a read is under way, whose entries a cancellation could strand.
        self._reading = False
        # The bytes of the last reply.
        self._reply_bytes = 0
        self._sizes = ReadSizes()
        self._bodies = BodyReader(ledger, self._sizes.entries)
        self._recovery = self._make_recovery(claims)
        # The budget that the last read left unused because its size was limited.
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
            page_size=self._sizes.lines,
        )

    @property
    def stranded(self) -> bool:
        """Whether a read was abandoned whose entries may be pending and unknown."""
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
            # The lost reply may have contained entries. They are pending for this
            # consumer, and unknown here.
            self._reading = False
            self._checks.reconnected()
            self._cursor.connected()

    def resume(self) -> None:
        """Continue reading, if there was no budget."""
        self._wake.set()

    async def between_reads(self, work: ReadPause) -> None:
        """Run a function between two reads; the server ends a blocked read for it.

        The function runs even if the caller is cancelled.

        Args:
            work: The function.

        Raises:
            ClosedError: The consumer closed before the function was done.
            PenstockError: The function raised it.
        """
        if self.has_ended:
            raise ClosedError("consumer")
        asked = _QueuedPause(work)
        self._pauses.append(asked)
        self._wake.set()
        await self._unblock_until(asked.begun)
        await asyncio.shield(asked.done)

    async def stop(self) -> None:
        """Stop reading; the server ends a read under way, which is not cancelled.

        The server may take any time for that, so set a timeout and then call `cut`.
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
        """Make the server end blocked reads until an event is set."""
        # The reader may be about to set the event already, without a read.
        await asyncio.sleep(0)
        while not until.is_set():
            if self.connection.client_id is None:
                await until.wait()  # the read ends by itself
                return
            # Repeated, because CLIENT UNBLOCK has no effect on a read that the server
            # has not received yet: the two connections race.
            if self._reading and not self.connection.lost:
                await self._hooks.unblock(self.connection.client_id)
            # Not anyio.move_on_after: this runs in the caller's task, and anyio's
            # cancellation escaped when the event was set in the same turn of the event
            # loop as the deadline.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await until.wait()

    async def _read(self) -> None:
        while not self._stopping:
            await self._run_pauses()
            self._stop_if(await self._checks.before_read(self.connection))
            budget = self._hooks.budget(self._unfilled)
            self._unfilled = 0
            read = self._next(budget) if budget else None
            match read:
                case None:
                    self.is_waiting = not budget
                    with anyio.move_on_after(
                        EXAMINE_EVERY if self._cursor.broken else None
                    ):
                        await self._wake.wait()
                    self.is_waiting = False
                case ReadPending():
                    await self._recover(read)
                case ReadNew():
                    await self._read_new(read, budget)

    def _next(self, budget: int) -> Read | None:
        return self._cursor.next(
            budget,
            most=self._sizes.entries.most,
            lines=self._sizes.lines.most,
            shards=self._sizes.shards.most,
        )

    async def _run_pauses(self) -> None:
        while self._pauses:
            asked = self._pauses[0]
            asked.begun.set()
            try:
                await asked.work(self.connection)
            except ConnectionLost:
                raise  # the function stays queued, for the next connection
            except PenstockError as error:
                _settle(asked.done, error)
            else:
                _settle(asked.done, None)
            self._pauses.popleft()

    def _stop_if(self, refused: ServerError | None) -> None:
        """Stop reading if the server refuses everything."""
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
            min(self._longest_block, EXAMINE_EVERY)
            if self._cursor.broken
            else self._longest_block
        )
        wait = block if read.wait else 0.0
        shards = len(read.positions)
        trimmed, positions = self._checks.trimmed, read.positions
        checked = await trimmed.before_read(self.connection, positions)
        # The lease of an entry may begin as soon as this request is sent. The time at
        # which the entry is recorded proves nothing, since this process may be
        # suspended before that.
        asked_at = now()
        try:
            [came] = await self._request([self._read_command(read, wait)], wait)
        except ConnectionLost:
            self._sizes.lost(shards, read.count)
            raise
        refused = isinstance(came, ErrorReply)
        most = 0 if refused else max((len(each) for _, each in came), default=0)
        self._sizes.came(shards, read.count, most)
        if refused:
            await self._refused(came)
            return
        if most == read.count < budget:
            self._unfilled = max(0, budget - read.count * shards)
        if not came and read.wait and self._member is None:
            await self._checks.check_one(self.connection, read.positions)
        # A cancellation during a check would leave the entries unrecorded.
        self._reading = bool(came)
        came = await self._checks.without_recreated(self.connection, came)
        self._reading = False
        self._entry_queue.notify_ready(self._record_new(read, came, asked_at))
        self._connector.progress()
        self._checks.read_succeeded(any_entries=bool(came))
        if came and checked:
            await trimmed.check(self.connection, positions)

    def _record_new(self, read: ReadNew, came: ReadEntries, asked_at: float) -> int:
        """Record entries in the ledger; return how many can be taken.

        Args:
            read: The read.
            came: Its entries.
            asked_at: When it was sent.
        """
        # An entry's share of the reply. The sizes of the fields are not added up.
        each = self._reply_bytes // max(1, sum(len(entries) for _, entries in came))
        count = 0
        for key, entries in came:
            position = self._cursor.received(read, key, entries)
            if position.again and not position.rewind_reported:
                self._checks.recreated.report_rewind(position, entries[0][0])
            count += self._ledger.deliveries.received(
                position.shard,
                entries,
                asked_at,
                each * len(entries),
                rewound=position.again,
            )
        return count

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
        assert recovery is not None  # noqa: S101 - only a group has pending entries
        with self._ledger.deliveries.recovering(position.shard):
            refused = await recovery.read_page(
                self.connection, read, self._record_recovered
            )
            if refused is not None:
                await self._refused(refused)
            elif not position.recovering:
                assert self._member is not None  # noqa: S101 - the same
                report_deleted(self._ledger, self._member.group, self._on_event)
                self._hooks.on_recovered()

    def _record_recovered(
        self,
        shard: Shard,
        entries: Sequence[RawEntry],
        listed_at: float,
        counts: Mapping[bytes, int],
    ) -> None:
        new = self._ledger.deliveries.recovered(shard, entries, listed_at, counts)
        self._entry_queue.notify_ready(new)
        if new:
            # This server is a primary: a replica lists pending entries too, but it
            # cannot renew their leases.
            self._connector.progress()

    async def fetch(
        self, shard: Shard, ids: Sequence[bytes], on_entries: OnEntries
    ) -> tuple[Sequence[bytes], ErrorReply | None]:
        """Read claimed entries, between two reads, as many as fit.

        If the connection ends meanwhile, the recovery reads the others.

        Args:
            shard: The shard of the entries.
            ids: The ids of the entries.
            on_entries: Called with the entries, some at a time.

        Returns:
            The ids of the entries that did not fit, and the refusal if there was one.

        Raises:
            ClosedError: The consumer closed before the entries were read.
        """
        left = ids
        refused: ErrorReply | None = None

        async def work(_: Connection) -> None:
            nonlocal left, refused
            # If the connection ends, this function runs again, with nothing to do.
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
            # The reply does not say which of the shards caused it.
            refused = await self._checks.health.examine(
                self.connection, self._cursor.positions
            )
            self._stop_if(refused)
        elif error.code == "CROSSSLOT" and await self._hooks.split_by_slot():
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
        return  # the caller was cancelled
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        # The caller may be cancelled. Then asyncio must not log "never retrieved".
        future.exception()
