"""The reader: waits for a budget, reads, and records the entries in the ledger.

It reads on a connection of its own (`_connection/reading_connection.py`). Others change
its positions between two reads (`read_pauses.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio

from penstock import _clock
from penstock._connection.reading_connection import ReadingConnection
from penstock._connection.reconnect import Connector
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.reading.cursor import Cursor, Read, ReadNew, ReadPending
from penstock._tasks.group import refusal
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.reading.read_budget import ReadBudget
from penstock._tasks.reading.read_fence import ReadFence
from penstock._tasks.reading.read_pauses import ReadPauses
from penstock._tasks.reading.read_request import ReadRequest
from penstock._tasks.reading.recovery import PendingRecovery
from penstock._tasks.reading.shard_health import EXAMINE_EVERY
from penstock._tasks.reading.stream_checks import ReadEntries, StreamChecks
from penstock._tasks.reporting import report_deleted
from penstock._tasks.task_scopes import StoppableTask
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ConnectionLost, ServerError
from penstock.events import Event, OnEvent

__all__ = ["Reader", "ReaderHooks"]

# The seconds after which a read on a silent stream returns and is sent again. They are
# few enough to notice a peer that has vanished without closing the connection, and cost
# half a command a second.
BLOCK: Final = 2.0
# The turns of the event loop after which the handlers of a few entries have begun: a
# worker takes an entry in the first, counts its start in the second, and calls the
# handler in the third. Until then the next request is neither packed nor written: that
# may take as long as a handler does.
_TURNS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderHooks:
    """What a reader asks of others.

    Attributes:
        split_by_slot: Makes each slot be read by a reader of its own; returns False if
            that is so already.
        on_recovered: Called when all own pending entries of a shard have been read.
    """

    split_by_slot: Callable[[], Awaitable[bool]]
    on_recovered: Callable[[], None]


class Reader(StoppableTask):
    """Fills the ledger from the server.

    If the reader is cut during a read, its connection has `unrecorded` entries.

    Args:
        connection: The reader's connection.
        connector: Records progress, and waits before a refused read is sent again.
        cursor: The positions at which to read.
        ledger: The ledger in which entries are recorded.
        entry_queue: Is notified of new entries.
        claims: Claims the consumer's own entries in the group that is read; None for
            REALTIME.
        budget: The read budget that this reader shares with others.
        hooks: What the reader asks of others.
        on_event: Receives repairs and refusals.
        fence: Decides what may be read and recorded, where shards are owned. Then there
            is one shard.

    Attributes:
        connection: The reader's connection.
        pauses: Runs functions between two reads.
        recovery: Reads the consumer's own pending entries; None for REALTIME.
    """

    def __init__(
        self,
        connection: ReadingConnection,
        connector: Connector,
        *,
        cursor: Cursor,
        ledger: Ledger,
        entry_queue: EntryQueue,
        claims: OwnClaims | None,
        budget: ReadBudget,
        hooks: ReaderHooks,
        on_event: OnEvent,
        fence: ReadFence | None = None,
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
        self._fence = fence
        # Set when there is a budget again, or something else to do.
        self._wake = AutoResetEvent()
        self._budget = budget.join(self.resume)
        self._on_event = on_event
        self._checks = StreamChecks(connection, member, cursor, ledger, on_event)
        self.pauses = ReadPauses(connection, self.resume)
        self._sizes = budget.sizes
        self._request = ReadRequest(connection, member, fence, on_event)
        self.recovery = (
            None
            if claims is None
            else PendingRecovery(
                connection,
                self.pauses,
                cursor=cursor,
                ledger=ledger,
                claims=claims,
                sizes=self._sizes,
                fence=fence,
            )
        )

    async def run(self) -> None:
        """Read until stopped, over any number of reconnects."""
        try:
            with self._until_cut():
                self._cursor.connected()
                while not self._stopping:
                    await self._read_until_lost()
        finally:
            self._budget.leave()
            self.pauses.close()
            with anyio.CancelScope(shield=True):
                await self.connection.current.aclose()

    async def _read_until_lost(self) -> None:
        try:
            await self._read()
        except ConnectionLost as error:
            self._budget.give_back()
            if self._stopping:
                return
            await self.connection.reconnect(error.reason)
            self._request.blocking.connected()
            self._checks.reconnected()
            self._cursor.connected()

    def resume(self) -> None:
        """Continue, if this reader waits for something else than the server."""
        self._wake.set()

    async def stop(self) -> None:
        """Stop reading; the server ends a read under way, which is not cancelled.

        A function between two reads is completed: half a seek would leave entries
        pending that it was to acknowledge. The server may take any time for both, so
        set a timeout and then call `cut`.
        """
        self._stopping = True
        self.pauses.stop()
        if not (self.connection.can_unblock or self.pauses.running):
            self.cut()
        await self.connection.unblock_until(self._ended)

    async def _read(self) -> None:
        while not self._stopping:
            if self.pauses.any:
                self._budget.give_back()
                await self.pauses.run()
            if self._stopping:
                return  # it was told to while one of the functions ran
            self._stop_if(await self._checks.before_read())
            budget = self._read_budget()
            match self._next(budget) if budget else None:
                case None:
                    self._budget.give_back()
                    with anyio.move_on_after(
                        EXAMINE_EVERY if self._cursor.broken else None
                    ):
                        await self._wake.wait()
                case ReadPending() as read:
                    await self._recover(read)
                    self._budget.give_back()
                case ReadNew() as read:
                    await self._read_new(read, budget)
                    self._budget.give_back()

    def _read_budget(self) -> int:
        """Return how many entries may be read now; `resume` is called after 0."""
        if self._fence is not None and not self._fence.may_read():
            return 0
        return self._budget.ask()

    def _next(self, budget: int) -> Read | None:
        return self._cursor.next(
            budget,
            most=self._sizes.entries.most,
            lines=self._sizes.lines.most,
            shards=self._sizes.shards.most,
        )

    def _stop_if(self, refused: ServerError | None) -> None:
        """Stop reading if the server refuses everything."""
        if refused is not None:
            self._entry_queue.gate.fail(refused)
            self._stopping = True

    async def _read_new(self, read: ReadNew, budget: int) -> None:
        may_wait = read.wait and not self._budget.is_turn
        block = (
            min(self._longest_block, EXAMINE_EVERY)
            if self._cursor.broken
            else self._longest_block
        )
        wait = self._request.blocking.wait(block) if may_wait else 0.0
        positions, trimmed = read.positions, self._checks.trimmed
        shards, connection = len(positions), self.connection
        checked = await trimmed.before_read(positions)
        # The lease of an entry may begin as soon as this request is sent. The time at
        # which the entry is recorded proves nothing, since this process may be
        # suspended before that.
        asked_at = _clock.boottime()
        try:
            came = await self._request.send(read, wait)
        except ConnectionLost:
            self._sizes.lost(shards, read.count)
            raise
        if came is None:
            return
        refused = isinstance(came, ErrorReply)
        most = 0 if refused else max((len(each) for _, each in came), default=0)
        self._sizes.received(shards, read.count, most)
        if refused:
            await self._refused(came)
            return
        full = most == read.count
        left = max(0, budget - read.count * shards) if full else 0
        self._budget.used(full=full, left=left)
        if not came and may_wait and self._member is None:
            await self._checks.check_one(positions)
        # A cancellation during a check would leave the entries unrecorded.
        connection.unrecorded = bool(came)
        came = await self._checks.without_recreated(came)
        connection.unrecorded = False
        if not self._request.is_valid:
            return  # the shard was given up meanwhile, and the next owner has them
        self._entry_queue.waiters.notify_ready(self._record_new(read, came, asked_at))
        self._connector.progress()
        self._checks.read_succeeded(any_entries=bool(came))
        if came and checked:
            await trimmed.check(positions)
        if may_wait and not came:
            await self._pause(block, _clock.boottime() - asked_at)
        elif came and not full:
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    async def _pause(self, wait: float, took: float) -> None:
        """Wait after a read that brought nothing, if the server did not."""
        if self._stopping or self.pauses.any:
            return  # this reader has asked the server to end the read
        seconds = self._request.blocking.pause(wait, took)
        if not seconds:
            return
        self._request.report_poll()
        with anyio.move_on_after(seconds):
            # A budget is no reason to read earlier.
            while not self.pauses.any:
                await self._wake.wait()

    def _record_new(self, read: ReadNew, came: ReadEntries, asked_at: float) -> int:
        """Record entries in the ledger; return how many can be taken.

        Args:
            read: The read.
            came: Its entries.
            asked_at: When it was sent.
        """
        # An entry's share of the reply. The sizes of the fields are not added up.
        total = sum(len(entries) for _, entries in came)
        each = self.connection.reply_bytes // max(1, total)
        count = 0
        for key, entries in came:
            position = self._cursor.received(read, key, entries)
            if position.rewound and not position.rewind_reported:
                self._checks.recreated.report_rewind(position, entries[0][0])
            count += self._ledger.deliveries.received(
                position.shard,
                entries,
                asked_at,
                each * len(entries),
                rewound=position.rewound,
            )
        return count

    async def _recover(self, read: ReadPending) -> None:
        """Read a page of own pending entries, with their delivery counts."""
        recovery, position = self.recovery, read.position
        assert recovery is not None  # noqa: S101 - only a group has pending entries
        with self._ledger.deliveries.recovering(position.shard):
            refused = await recovery.read_page(read, self._recovered)
            self._budget.used(full=position.recovering, left=0)
            if refused is not None:
                await self._refused(refused)
            elif not position.recovering:
                assert self._member is not None  # noqa: S101 - the same
                report_deleted(self._ledger, self._member.group, self._on_event)
                self._hooks.on_recovered()

    def _recovered(self, new: int) -> None:
        self._entry_queue.waiters.notify_ready(new)
        if new:
            # This server is a primary: a replica lists pending entries too, but it
            # cannot renew their leases.
            self._connector.progress()

    async def _refused(self, error: ErrorReply) -> None:
        self._budget.give_back()
        if error.kind in {ErrorKind.REPAIR, ErrorKind.ISOLATE}:
            # The reply does not say which of the shards caused it.
            refused = await self._checks.health.examine(self._cursor.positions)
            self._stop_if(refused)
        elif error.code == "CROSSSLOT" and await self._hooks.split_by_slot():
            pass  # the server is in cluster mode
        elif error.kind is ErrorKind.FATAL:
            # Recovery sends other commands than the read.
            server = self.connection.current.address.name
            self._entry_queue.gate.fail(
                refusal(server, error.command or "reading", error)
            )
            self._stopping = True
            return
        else:
            self._on_event(Event("read_refused", facts={"reply": error.text}))
        await self._connector.pause()
