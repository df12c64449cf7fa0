"""Catching up: whether all that was in the streams at a moment has been handled.

The last id of each shard is recorded when catching up begins: the shard's *mark*. A
shard is done when no entry up to its mark is left to be delivered, and no such entry is
pending for any consumer of the group. While this consumer itself has entries up to the
mark, its ledger shows that the shard is not done, and the server is not asked.
Otherwise other consumers have the missing entries, and the server is asked once a
second. Of shards that are owned, a consumer waits for all that it knows: others may own
them, and each of them is owned by some member in the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final

import anyio

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.reading.cursor import Position
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.group import Membership, refusal
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ClosedError, ConnectionLost, PenstockError
from penstock.message import EntryId, Message, Shard

__all__ = ["CatchUp"]

# Seconds between two questions to the server about the entries of other consumers.
_CHECK_INTERVAL: Final = 1.0
# The highest number of pending entries that one reply lists.
_PAGE: Final = 1000
# Errors that say that a key is no stream, or no longer one: there is nothing to wait
# for.
_NO_STREAM: Final = {ErrorKind.REPAIR, ErrorKind.ISOLATE}


class CatchUp:
    """Waits until all that is in the streams now has been handled.

    Args:
        connection: The command connection.
        ledger: The ledger of this consumer.
        cursors: The shards, and how far they have been read.
        ownable: The shards that this consumer or others may own; empty if consumers
            share the shards.
        member: The group; None in REALTIME.
        acknowledges: Whether messages are acknowledged.
        replies_recorded: Waits until the replies to reads of a shard that were sent are
            recorded.
        on_demand: Whether acknowledgements are sent only when the user asks for that.
        on_reached: Called when catching up is over, to wake those who wait for
            messages.

    Attributes:
        reached: Whether catching up is over.
        error: The error that ended it; None if there was none.
    """

    def __init__(
        self,
        connection: CommandConnection,
        ledger: Ledger,
        cursors: SlotCursors,
        member: Membership | None,
        *,
        ownable: Collection[Shard],
        acknowledges: bool,
        replies_recorded: Callable[[Shard], Awaitable[None]],
        on_demand: bool,
        on_reached: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._cursors = cursors
        self._ownable = ownable
        self._member = member
        self._acknowledges = acknowledges
        self._replies_recorded = replies_recorded
        self._on_demand = on_demand
        self._on_reached = on_reached
        self.reached = False
        self.error: PenstockError | None = None
        self._marks: dict[Shard, EntryId] = {}
        # The time at which the server may be asked about each shard again.
        self._ask_at: dict[Shard, float] = {}
        # The messages that handlers have. It is used where there are no
        # acknowledgements; otherwise the ledger knows these messages.
        self._running: list[Message[Any]] = []
        self._check_event = AutoResetEvent()
        self._scope = anyio.CancelScope()

    def check_soon(self) -> None:
        """Check again soon: a worker is idle, or outcomes have been sent."""
        self._check_event.set()

    def stop(self) -> None:
        """Stop catching up: nobody waits for it any more.

        Without a running event loop nothing is stopped: a loop over messages was
        collected after the event loop had ended, and with that the watch has ended.
        """
        if not self.reached and _event_loop_runs():
            self._scope.cancel()

    def track(
        self, call: Callable[[Any], Awaitable[object]]
    ) -> Callable[[Any], Awaitable[object]]:
        """Return the call of a handler, wrapped so that running messages are known."""
        if self._acknowledges:
            return call

        async def tracked(given: Any) -> object:
            messages = given if isinstance(given, list) else [given]
            self._running += messages
            try:
                return await call(given)
            finally:
                for message in messages:
                    self._running.remove(message)
                self.check_soon()

        return tracked

    async def begin(self) -> None:
        """Record the last id of each shard.

        Raises:
            AccessError: This user may not ask for it.
            CommandError: The server refuses the command for another reason.
        """
        try:
            for shard in self._ownable or self._cursors.shards:
                last = await self._last_id(shard)
                if last > EntryId.MIN:
                    self._marks[shard] = last
        except ConnectionLost:
            # Connections are only given up when the consumer closes, which ends the
            # call that catches up like any other.
            self._marks.clear()
            self.reached = True

    async def _last_id(self, shard: Shard) -> EntryId:
        """Return a shard's last id; the lowest one if there is no stream."""
        [reply] = await self._calls([scripts.last_id(shard.key)])
        if not isinstance(reply, ErrorReply):
            return EntryId.parse(reply)
        # Scripts are forbidden, or there is no stream: the plain command tells which.
        [info] = await self._calls([commands.xinfo_stream(shard.key)])
        if self._is_gone(info, "XINFO STREAM"):
            return EntryId.MIN
        last: EntryId = info.last
        return last

    async def watch(self) -> None:
        """Wait until every shard is done; then wake those who wait for messages."""
        try:
            with self._scope:
                while self._marks:
                    await self._check()
                    if self._marks:
                        with anyio.move_on_after(_CHECK_INTERVAL):
                            await self._check_event.wait()
        except (ConnectionLost, ClosedError):
            pass  # the consumer closes, see `begin`
        except PenstockError as error:
            self.error = error
        finally:
            self.reached = True
            self._on_reached()

    async def _check(self) -> None:
        now = _clock.monotonic()
        positions = {each.shard: each for each in self._cursors.positions}
        for shard, mark in list(self._marks.items()):
            position = positions.get(shard)
            if self._is_left_out(shard, position):
                del self._marks[shard]
            elif self._is_busy(shard, mark):
                self._ask_at[shard] = now
            elif position is not None and self._is_known_done(position, mark):
                del self._marks[shard]
            elif self._ask_at.get(shard, now) <= now:
                self._ask_at[shard] = now + _CHECK_INTERVAL
                if await self._is_done(shard, mark):
                    self._marks.pop(shard, None)

    def _is_left_out(self, shard: Shard, position: Position | None) -> bool:
        """Return whether a shard is not read any more, or can't be read."""
        if position is None:
            return shard not in self._ownable
        return position.broken is not None

    def _is_busy(self, shard: Shard, mark: EntryId) -> bool:
        """Return whether this consumer has entries to handle up to a mark."""
        return self._ledger.unfinished(shard, mark, settled=not self._on_demand) or any(
            message.id <= mark
            for message in self._running
            if (message.stream, message.shard) == (shard.stream, shard.number)
        )

    def _is_known_done(self, position: Position, mark: EntryId) -> bool:
        """Return whether a shard is known to be done because nothing can be pending."""
        return not self._acknowledges and position.highest >= mark

    async def _is_done(self, shard: Shard, mark: EntryId) -> bool:
        # The order matters: an entry that is delivered between the two questions is
        # pending at the second one.
        if not await self._is_delivered(shard, mark):
            return False
        if self._acknowledges:
            return not await self._is_pending(shard, mark)
        # Entries count as delivered while this consumer's reply is on its way.
        await self._replies_recorded(shard)
        return not self._is_busy(shard, mark)

    async def _is_delivered(self, shard: Shard, mark: EntryId) -> bool:
        after = await self._delivered(shard)
        if after is None or after >= mark:
            return after is not None
        # The entry at the mark may have been deleted, and then no entry of that id is
        # delivered.
        low, high = b"(" + bytes(after), bytes(mark)
        [left] = await self._calls([scripts.count_between(shard.key, low, high, 1)])
        if isinstance(left, ErrorReply):
            plain = commands.xrange_between(shard.key, low, high, 1)
            [entries] = await self._calls([plain])
            return self._is_gone(entries, "XRANGE") or not entries
        return not left

    async def _delivered(self, shard: Shard) -> EntryId | None:
        """Return the last delivered id of a shard; None if it isn't known."""
        if self._member is None:
            position = next(p for p in self._cursors.positions if p.shard == shard)
            return EntryId.parse(position.after)
        [reply] = await self._calls([commands.xinfo_groups(shard.key)])
        if self._is_gone(reply, "XINFO GROUPS"):
            return EntryId.MAX
        name = self._member.group.encode()
        found = [each for each in reply if each.name == name]
        return EntryId.parse(found[0].last_delivered) if found else None

    async def _is_pending(self, shard: Shard, mark: EntryId) -> bool:
        """Return whether an entry up to a mark is pending for any consumer."""
        assert self._member is not None  # noqa: S101 - else nothing is acknowledged
        after = b"0-0"
        while True:
            page = commands.xpending_page(
                shard.key, self._member.group, None, after, _PAGE
            )
            [reply] = await self._calls([page])
            if self._is_gone(reply, "XPENDING"):
                return False
            for pending in reply:
                if EntryId.parse(pending.id) > mark:
                    return False
                done = self._on_demand and self._ledger.shards.to_ack(shard, pending.id)
                if not done:
                    return True
            if len(reply) < _PAGE:
                return False
            after = reply[-1].id

    def _is_gone(self, reply: Any, what: str) -> bool:
        """Return whether there is no stream any more.

        Raises:
            PenstockError: The server refuses the command.
        """
        if not isinstance(reply, ErrorReply):
            return False
        if reply.kind not in _NO_STREAM:
            raise refusal(self._connection.server, f"until_caught_up: {what}", reply)
        return True

    async def _calls(self, batch: Sequence[commands.Command]) -> list[Any]:
        """Send commands, across reconnects, and again while the server says to wait."""
        while True:
            try:
                replies = await self._connection.calls(batch)
            except ConnectionLost as error:
                await self._connection.restore(error.reason)
                continue
            if not any(_is_transient(reply) for reply in replies):
                return replies
            await anyio.sleep(_CHECK_INTERVAL)


def _event_loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _is_transient(reply: Any) -> bool:
    return isinstance(reply, ErrorReply) and reply.kind is ErrorKind.TRANSIENT
