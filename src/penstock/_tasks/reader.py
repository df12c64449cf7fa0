"""The reader: waits for room, reads, books what came, and does nothing else.

It has a connection of its own, since a blocking read holds up all that is behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import anyio

from penstock._core import commands, replies
from penstock._core.commands import Command
from penstock._core.cursor import Cursor, Live, Recover
from penstock._core.ledger import Ledger
from penstock._core.replies import ErrorReply, Trouble
from penstock._link.link import Link
from penstock._link.wire import Wire, pack
from penstock._tasks.bells import Bell
from penstock._tasks.intake import Intake
from penstock._tasks.membership import Membership, refusal, rejoin
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["Reader"]

# A read on a silent stream comes back this often, to be asked again. Short enough to
# notice a peer that has vanished without a word, and half a command a second.
BLOCK: Final = 2.0


class Reader:
    """Fills the ledger from the server.

    Args:
        wire: Its connection; replaced after an outage.
        link: Makes new ones.
        cursor: Where to read.
        ledger: Where to book.
        intake: Told what arrived.
        member: The group that is read, or None for REALTIME.
        room: Rung when there is room again.
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
        room: Bell,
        on_event: OnEvent,
    ) -> None:
        self.wire = wire
        self._link = link
        self._cursor = cursor
        self._ledger = ledger
        self._intake = intake
        self._member = member
        self._room = room
        self._on_event = on_event
        self._stopping = False
        # A read is under way: cancelling now could strand what it brings.
        self._reading = False
        # Bytes of the last reply.
        self._size = 0
        # Shielded: what cancels whoever holds the consumer must not keep it from being
        # closed in order, which ends this.
        self._scope = anyio.CancelScope(shield=True)
        self._ended = anyio.Event()

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
            with anyio.CancelScope(shield=True):
                await self.wire.aclose()

    async def _survive(self) -> None:
        try:
            await self._read()
        except ConnectionLost as error:
            await self.wire.aclose()
            self.wire = await self._link.reconnect(error.reason)
            # The lost reply may have had entries in it, which are ours unseen.
            self._reading = False
            self._cursor.connected()

    async def stop(self, unblock: Callable[[int], Any]) -> None:
        """End reading; a read under way is let go by the server, not cancelled.

        Args:
            unblock: Sends CLIENT UNBLOCK for a connection's id.
        """
        self._stopping = True
        if not self._reading or self.wire.client_id is None or self.wire.lost:
            self._scope.cancel()
        with anyio.move_on_after(1.0):
            while not self._ended.is_set():
                # Repeated, since it does nothing to a read that the server has not
                # got yet: the two connections race.
                if self.wire.client_id is not None:
                    await unblock(self.wire.client_id)
                with anyio.move_on_after(0.02):
                    await self._ended.wait()
        self._scope.cancel()
        await self._ended.wait()

    async def _read(self) -> None:
        while not self._stopping:
            room = self._ledger.room()
            if not room:
                await self._room.wait()
                continue
            match self._cursor.next(room):
                case Recover() as read:
                    await self._recover(read)
                case read:
                    await self._live(read)

    async def _request(self, batch: Sequence[Command], wait: float) -> list[Any]:
        self._reading = True
        before = self.wire.received
        answers = await self.wire.request(pack(batch), len(batch), wait)
        self._size = self.wire.received - before
        self._reading = False
        return answers

    async def _live(self, read: Live) -> None:
        [reply] = await self._request([self._live_command(read)], BLOCK)
        if isinstance(reply, ErrorReply):
            await self._refused(reply)
            return
        now = monotonic()
        came = replies.streams(reply)
        # Each entry's share of the reply; what an entry holds is not counted out.
        each = self._size // max(1, sum(len(entries) for _, entries in came))
        count = 0
        for key, entries in came:
            shard = self._cursor.received(key, entries)
            size = each * len(entries)
            count += self._ledger.received(shard, entries, now, size)
        self._intake.arrived(count)
        self._link.progress()

    def _live_command(self, read: Live) -> Command:
        keys = [position.shard.key for position in read.positions]
        block = int(BLOCK * 1000)
        if self._member is None:
            after = [position.after for position in read.positions]
            return commands.xread(keys, after, read.count, block)
        group, name = self._member.group, self._member.name
        noack = self._member.noack
        return commands.xreadgroup(group, name, keys, read.count, block, noack=noack)

    async def _recover(self, read: Recover) -> None:
        """Read a page of own pending entries, with their delivery counts."""
        assert self._member is not None  # noqa: S101 - only groups have any
        group, name = self._member.group, self._member.name
        shard, after = read.position.shard, read.position.after
        counts, reply = await self._request(
            [
                commands.xpending_page(shard.key, group, name, after, read.count),
                commands.xreadgroup_pending(group, name, shard.key, after, read.count),
            ],
            0.0,
        )
        if isinstance(reply, ErrorReply):
            await self._refused(reply)
            return
        entries = [entry for _, page in replies.streams(reply) for entry in page]
        deliveries = {}
        if not isinstance(counts, ErrorReply):
            # Reading them again was one delivery more.
            deliveries = {p.id: p.deliveries + 1 for p in replies.pending_page(counts)}
        self._cursor.recovered(read, entries)
        new = self._ledger.received(shard, entries, monotonic(), self._size, deliveries)
        self._intake.arrived(new)
        self._link.progress()

    async def _refused(self, error: ErrorReply) -> None:
        if error.trouble is Trouble.REPAIR and self._member is not None:
            await self._repair(self._member)
        elif error.trouble in {Trouble.FATAL, Trouble.ISOLATE}:
            command = "XREAD" if self._member is None else "XREADGROUP"
            self._intake.fail(refusal(self.wire.address.name, command, error))
            self._stopping = True
            return
        else:
            self._on_event(Event("read_refused", facts={"reply": error.text}))
        await self._link.pause()

    async def _repair(self, member: Membership) -> None:
        """Make groups that have vanished anew, loudly."""
        for position in self._cursor.positions:
            shard = position.shard
            made = await rejoin(self.wire, member, shard, position.floor)
            if made is not None:
                facts = {"stream": ascii(shard.stream), "group": ascii(member.group)}
                facts["after"] = made.decode()
                self._on_event(Event("group_recreated", logging.ERROR, facts))
