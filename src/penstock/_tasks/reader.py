"""The reader: waits for room, reads, books what came, and does nothing else.

It has a connection of its own, since a blocking read holds up all that is behind it.
What changes the positions (a seek, another shard) is done between two reads, by the
reader: so no reply can come for a position that is not there any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeAlias

import anyio

from penstock._core import commands, replies
from penstock._core.commands import Command
from penstock._core.cursor import Cursor, Live, Position, Recover
from penstock._core.ledger import Ledger
from penstock._core.replies import ErrorReply, Pending, RawEntry, Trouble
from penstock._link.link import Link
from penstock._link.wire import Wire
from penstock._tasks.bells import Bell
from penstock._tasks.healing import Healer
from penstock._tasks.intake import Intake
from penstock._tasks.membership import Membership, refusal
from penstock._tasks.telling import tell_of_deleted
from penstock.errors import ClosedError, ConnectionLost, PenstockError
from penstock.events import Event, OnEvent
from penstock.message import EntryId, Shard

__all__ = ["Errand", "Reader"]

# A read on a silent stream comes back this often, to be asked again. Short enough to
# notice a peer that has vanished without a word, and half a command a second.
BLOCK: Final = 2.0
# Milliseconds after which a pending entry may be about to be taken over.
_OLD: Final = 500
# How often a broken shard is looked at; in seconds.
_LOOK: Final = 1.0

Errand: TypeAlias = Callable[[Wire], Awaitable[None]]
"""Something to be done between two reads, on the reader's connection.

It is done again from the start if the connection ends meanwhile.
"""


@dataclass(slots=True, eq=False)
class _Asked:
    errand: Errand
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Reader:
    """Fills the ledger from the server.

    Args:
        wire: Its connection; replaced after an outage.
        link: Makes new ones.
        cursor: Where to read.
        ledger: Where to book.
        intake: Told what arrived.
        member: The group that is read, or None for REALTIME.
        room: Gives how many entries may be read; at 0, `room_again` will be called.
        part: Has each slot read by itself; False if that is so already.
        unblock: Sends CLIENT UNBLOCK for a connection's id.
        on_recovered: Called when all own pending entries of a shard have been read.
        mark: Counts down what waits, after each read.
        on_event: Told what is repaired or refused.
    """

    def __init__(
        self,
        wire: Wire,
        link: Link,
        *,
        cursor: Cursor,
        ledger: Ledger,
        intake: Intake,
        member: Membership | None,
        room: Callable[[], int],
        part: Callable[[], Awaitable[bool]],
        unblock: Callable[[int], Awaitable[None]],
        on_recovered: Callable[[], None],
        mark: Callable[[], Awaitable[None]],
        on_event: OnEvent,
    ) -> None:
        self.wire = wire
        self._link = link
        self._cursor = cursor
        self._ledger = ledger
        self._intake = intake
        self._member = member
        self._room = room
        self._part = part
        # Rung when there is room again, or something else to do.
        self._bell = Bell()
        # Whether it waits for room.
        self.waits = False
        self._unblock = unblock
        self._on_recovered = on_recovered
        self._mark = mark
        self._on_event = on_event
        self._healer = Healer(member, self._made_anew, on_event)
        # When broken shards are looked at again.
        self._look_at = 0.0
        # The server may have lost entries, and without a group nobody else tells.
        self._doubtful = False
        # Which shard is looked at next while there is nothing to read.
        self._turn = 0
        self._errands: deque[_Asked] = deque()
        self._stopping = False
        # A read is under way: cancelling now could strand what it brings.
        self._reading = False
        # Bytes of the last reply.
        self._size = 0
        # Shielded: what cancels whoever holds the consumer must not keep it from being
        # closed in order, which ends this.
        self._scope = anyio.CancelScope(shield=True)
        self._ended = asyncio.Event()

    @property
    def stranded(self) -> bool:
        """Whether a read was given up whose entries may be pending unseen."""
        return self._reading

    async def run(self) -> None:
        """Read until stopped, over any number of reconnects."""
        try:
            with self._scope:
                self._cursor.connected()
                while not self._stopping:
                    await self._survive()
        finally:
            self._ended.set()
            while self._errands:
                asked = self._errands.popleft()
                asked.begun.set()
                _settle(asked.done, ClosedError("consumer"))
            with anyio.CancelScope(shield=True):
                await self.wire.aclose()

    async def _survive(self) -> None:
        try:
            await self._read()
        except ConnectionLost as error:
            if self._stopping:
                return
            await self.wire.aclose()
            self.wire = await self._link.reconnect(error.reason)
            # The lost reply may have had entries in it, which are ours unseen.
            self._reading = False
            self._cursor.connected()
            self._doubtful = self._member is None

    def room_again(self) -> None:
        """Go on reading, if it ended for want of room."""
        self._bell.ring()

    async def between_reads(self, errand: Errand) -> None:
        """Have something done between two reads; a blocked read is let go for it.

        Cancelling it leaves the errand to be done.

        Raises:
            ClosedError: The consumer closed before it was done.
            PenstockError: What the errand raised.
        """
        if self._ended.is_set():
            raise ClosedError("consumer")
        asked = _Asked(errand)
        self._errands.append(asked)
        self._bell.ring()
        await self._let_go(asked.begun)
        await asyncio.shield(asked.done)

    async def stop(self) -> None:
        """End reading; a read under way is let go by the server, not cancelled.

        That may take a server's time without end: bound it, and then call `cut`.
        """
        self._stopping = True
        if not self._reading or self.wire.client_id is None or self.wire.lost:
            self.cut()
        await self._let_go(self._ended)

    def cut(self) -> None:
        """End reading now; what a read under way may bring is `stranded`."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Wait until it has ended: it books nothing more then."""
        await self._ended.wait()

    async def _let_go(self, until: asyncio.Event) -> None:
        """Have the server end a blocked read, until something has happened."""
        # The reader may be on its way there already, without a read.
        await asyncio.sleep(0)
        while not until.is_set():
            if self.wire.client_id is None:
                await until.wait()  # the read ends by itself
                return
            # Repeated, since it does nothing to a read that the server has not got
            # yet: the two connections race.
            if self._reading and not self.wire.lost:
                await self._unblock(self.wire.client_id)
            # Not anyio's: this runs in the caller's task, and its cancellation got out
            # when the event came in the same turn as the deadline.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await until.wait()

    async def _read(self) -> None:
        while not self._stopping:
            await self._run_errands()
            await self._look_after()
            room = self._room()
            read = self._cursor.next(room) if room else None
            match read:
                case None:
                    self.waits = not room
                    with anyio.move_on_after(_LOOK if self._cursor.broken else None):
                        await self._bell.wait()
                    self.waits = False
                case Recover():
                    await self._recover(read)
                case Live():
                    await self._live(read)

    async def _run_errands(self) -> None:
        while self._errands:
            asked = self._errands[0]
            asked.begun.set()
            try:
                await asked.errand(self.wire)
            except ConnectionLost:
                raise  # it stays, for the next connection
            except PenstockError as error:
                _settle(asked.done, error)
            else:
                _settle(asked.done, None)
            self._errands.popleft()

    async def _look_after(self) -> None:
        """See whether broken shards have healed, and all after an outage."""
        if self._doubtful:
            await self._healer.examine(self.wire, self._cursor.positions)
            self._doubtful = False
        elif self._cursor.broken and monotonic() >= self._look_at:
            await self._examine(self._cursor.broken)

    def _made_anew(self, shard: Shard) -> None:
        self._ledger.made_anew(shard, monotonic())

    async def _suspect(self, positions: Sequence[Position]) -> None:
        """Look at one shard after the other while there is nothing to read.

        A stream that was deleted and made anew with lower ids looks like a quiet one.
        """
        self._turn += 1
        position = positions[self._turn % len(positions)]
        await self._healer.examine(self.wire, [position], remade=True)

    async def _examine(self, positions: Sequence[Position]) -> None:
        self._look_at = monotonic() + _LOOK
        refused = await self._healer.examine(self.wire, positions)
        if refused is not None:
            self._intake.fail(refused)
            self._stopping = True

    async def _request(self, batch: Sequence[Command], wait: float) -> list[Any]:
        self._reading = True
        before = self.wire.received
        answers = await self.wire.ask(batch, wait)
        self._size = self.wire.received - before
        self._reading = False
        return answers

    async def _live(self, read: Live) -> None:
        block = min(BLOCK, _LOOK) if self._cursor.broken else BLOCK
        wait = block if read.wait else 0.0
        [came] = await self._request([self._live_command(read, wait)], wait)
        if isinstance(came, ErrorReply):
            await self._refused(came)
            return
        now = monotonic()
        if not came and read.wait and self._member is None:
            await self._suspect(read.positions)
        # Each entry's share of the reply; what an entry holds is not counted out.
        each = self._size // max(1, sum(len(entries) for _, entries in came))
        count = 0
        for key, entries in came:
            position = self._cursor.received(read, key, entries)
            if position.again and not position.noted:
                self._healer.set_back(position, entries[0][0])
            count += self._ledger.received(
                position.shard,
                entries,
                now,
                each * len(entries),
                again=position.again,
            )
        self._intake.arrived(count)
        self._link.progress()
        if count:
            await self._mark()

    def _live_command(self, read: Live, wait: float) -> Command:
        keys = [position.shard.key for position in read.positions]
        block = int(wait * 1000) if wait else None
        if self._member is None:
            after = [position.after for position in read.positions]
            return commands.xread(keys, after, read.count, block)
        group, name = self._member.group, self._member.name
        noack = self._member.noack
        return commands.xreadgroup(group, name, keys, read.count, block, noack=noack)

    async def _recover(self, read: Recover) -> None:
        """Read a page of own pending entries, with their delivery counts."""
        assert self._member is not None  # noqa: S101 - only groups have any
        with self._ledger.recovering(read.position.shard):
            await self._read_pending(read, self._member)

    async def _read_pending(self, read: Recover, member: Membership) -> None:
        # Not by reading them again: that counts a delivery, also of what is in hand.
        group, name, position = member.group, member.name, read.position
        shard = position.shard
        page = commands.xpending_page(
            shard.key, group, name, position.after, read.count
        )
        batch = [page]
        if position.until is None:
            batch.append(commands.xpending_summary(shard.key, group))
        reply, *summary = await self._request(batch, 0.0)
        if isinstance(reply, ErrorReply):
            await self._refused(reply)
            return
        if summary:
            position.summed_up(replies.highest_pending(summary[0]))
        pending: list[Pending] = reply
        entries = await self._bodies(shard, pending, member)
        if entries is None:
            return
        self._cursor.recovered(read, [(each.id, None) for each in pending])
        attempts = {each.id: _attempts(each, position) for each in pending}
        new = self._ledger.came_back(shard, entries, monotonic(), attempts)
        tell_of_deleted(self._ledger, group, self._on_event)
        self._intake.arrived(new)
        if new:
            # A replica lists what is pending, too; what it can't do is to renew it.
            self._link.progress()
        if not read.position.recovering:
            self._on_recovered()

    async def _bodies(
        self, shard: Shard, pending: Sequence[Pending], member: Membership
    ) -> list[RawEntry] | None:
        """Renew own pending entries that are not in hand, and read them.

        Gives those in hand too, without what is in them; None if it was refused.
        """
        in_hand = self._ledger.in_hand(shard)
        unknown = [each for each in pending if each.id not in in_hand]
        known: list[RawEntry] = [(p.id, ()) for p in pending if p.id in in_hand]
        if not unknown:
            return known
        claims = [*reclaims(shard, unknown, member)]
        ids = [each.id for each in unknown]
        ask = [*claims, *(commands.xrange_one(shard.key, id_) for id_ in ids)]
        answers = await self._request(ask, 0.0)
        refused = next((r for r in answers if isinstance(r, ErrorReply)), None)
        if refused is not None:
            await self._refused(refused)
            return None
        ours = {id_ for reply in answers[: len(claims)] for id_ in reply}
        found = replies.bodies(ids, answers[len(claims) :])
        # What is deleted may be pending no more, and what is not ours is another's.
        return known + [each for each in found if each[1] is None or each[0] in ours]

    async def _refused(self, error: ErrorReply) -> None:
        if error.trouble in {Trouble.REPAIR, Trouble.ISOLATE}:
            # The reply does not say which of the shards it is.
            await self._examine(self._cursor.positions)
        elif error.code == "CROSSSLOT" and await self._part():
            pass  # the server is in cluster mode
        elif error.trouble is Trouble.FATAL:
            command = "XREAD" if self._member is None else "XREADGROUP"
            self._intake.fail(refusal(self.wire.address.name, command, error))
            self._stopping = True
            return
        else:
            self._on_event(Event("read_refused", facts={"reply": error.text}))
        await self._link.pause()


def reclaims(
    shard: Shard, pending: Sequence[Pending], member: Membership
) -> Iterator[Command]:
    """Renew leases of own pending entries, but of none that was taken over just now.

    Whoever takes one over starts its idle clock anew, so what has been idle for long is
    asked for only if it still is.
    """
    young = [each.id for each in pending if each.idle < _OLD]
    old = [each.id for each in pending if each.idle >= _OLD]
    for ids, idle in ((young, 0), (old, _OLD)):
        if ids:
            yield commands.xclaim_renew(
                shard.key, member.group, member.name, ids, idle=idle
            )


def _attempts(pending: Pending, position: Position) -> int:
    """Tell how often a handler has had what is pending for us.

    A reply that was lost counted a delivery of what it would have brought.
    """
    if pending.deliveries == 1 and position.unseen(EntryId.parse(pending.id)):
        return 0
    return pending.deliveries


def _settle(future: asyncio.Future[None], error: PenstockError | None) -> None:
    if future.done():
        return  # whoever asked was cancelled
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        # Whoever asked may be cancelled; asyncio need not say "never retrieved".
        future.exception()
