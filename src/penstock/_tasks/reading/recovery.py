"""Recovery: a consumer's own pending entries, read page by page with their bodies.

Entries are pending for this consumer and unknown here after a restart under the same
name, and after a lost reply. They are not read by XREADGROUP, because that counts a
delivery of each entry, also of those that are in progress here. The entries that this
consumer claims are pending for it as well, so they are read here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from penstock import _clock
from penstock._connection.connection import Connection
from penstock._connection.reading_connection import ReadingConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands, replies
from penstock._core.protocol.replies import ErrorReply, PendingEntry, RawEntry
from penstock._core.reading.cursor import Cursor, Position, ReadPending
from penstock._core.reading.request_size import ReadSizes
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims
from penstock._tasks.leases.pending_bodies import BodyReader, OnEntries, loss_recorded
from penstock._tasks.reading.read_fence import ReadFence, Ticket
from penstock._tasks.reading.read_pauses import ReadPauses
from penstock.message import EntryId, Shard

__all__ = ["PendingRecovery"]

# Seconds for which a page of pending entries is believed: other consumers may claim
# what it lists.
_FRESH: Final = 0.25


class PendingRecovery:
    """Reads the pending entries of one consumer.

    Args:
        connection: The reader's connection.
        pauses: Runs functions between two reads.
        cursor: The reader's positions.
        ledger: The consumer's ledger.
        claims: Renews the leases of the entries.
        sizes: Bounds how many entries one request lists, and how many it reads.
        fence: Decides what may be recorded, where shards are owned.
    """

    def __init__(
        self,
        connection: ReadingConnection,
        pauses: ReadPauses,
        *,
        cursor: Cursor,
        ledger: Ledger,
        claims: OwnClaims,
        sizes: ReadSizes,
        fence: ReadFence | None = None,
    ) -> None:
        self._connection = connection
        self._pauses = pauses
        self._cursor = cursor
        self._ledger = ledger
        self._member = claims.member
        self._claims = claims
        self._bodies = BodyReader(ledger, sizes.entries)
        self._page_size = sizes.lines
        self._fence = fence

    async def read_page(
        self, read: ReadPending, on_recorded: Callable[[int], None]
    ) -> ErrorReply | None:
        """Record one page of pending entries, or as much of it as there is space for.

        Args:
            read: The page.
            on_recorded: Called for some entries at a time, with the number of those
                that can be taken now.

        Returns:
            What the server refused, if it refused something.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        listed_at, shard = _clock.boottime(), read.position.shard
        ticket = None if self._fence is None else self._fence.ticket()
        pending = await self._list(read, ticket)
        if pending is None or isinstance(pending, ErrorReply):
            return pending
        left = pending
        # There was space for one entry when this began.
        least = 1
        while left and (least or _clock.boottime() - listed_at < _FRESH):
            chunk = self._chunk(shard, left, least)
            if not chunk:
                break
            entries = await self._read(shard, chunk)
            if isinstance(entries, ErrorReply):
                return entries
            if not self._is_valid(ticket):
                return None
            counts = {each.id: _count(each, read.position) for each in chunk}
            recovered = self._ledger.deliveries.recovered
            on_recorded(recovered(shard, entries, listed_at, counts))
            self._cursor.recovered_up_to(read, chunk[-1].id)
            left, least = left[len(chunk) :], 0
        if not left:
            self._cursor.recovered(read, [(each.id, None) for each in pending])
        return None

    def _is_valid(self, ticket: Ticket | None) -> bool:
        """Return whether the page of a request may still be recorded."""
        fence = self._fence
        return fence is None or (ticket is not None and fence.is_valid(ticket))

    async def _list(
        self, read: ReadPending, ticket: Ticket | None
    ) -> Sequence[PendingEntry] | ErrorReply | None:
        """List a page; None if it can't be used and has to be listed again."""
        position, group = read.position, self._member.group
        key, name = position.shard.key, self._member.name_in(position.shard)
        batch = [
            commands.xpending_page(key, group, name, position.after, read.count),
            commands.xpending_summary(key, group),
        ]
        if position.until is not None and self._fence is None:
            batch.pop()
        elif self._fence is not None:
            batch[1:] = self._fence.behind
        with loss_recorded(self._page_size, read.count):
            reply, *behind = await self._connection.ask(batch)
        if isinstance(reply, ErrorReply):
            return reply
        fence = self._fence
        if fence and ticket and not fence.page_answered(ticket, behind):
            return None
        if position.until is None:
            position.recovery_began(replies.highest_pending(behind[-1]))
        pending: list[PendingEntry] = reply
        self._page_size.received(read.count, len(pending))
        return pending

    def _chunk(
        self, shard: Shard, pending: Sequence[PendingEntry], least: int
    ) -> list[PendingEntry]:
        """Return the first entries of a page, with as many to read as is allowed.

        At least `least` of them are unknown here. The others need no reading.
        """
        known = self._ledger.shards.ids(shard)
        count = max(self._bodies.count, least)
        chunk: list[PendingEntry] = []
        for each in pending:
            if each.id not in known:
                if not count:
                    break
                count -= 1
            chunk.append(each)
        return chunk

    async def _read(
        self, shard: Shard, pending: Sequence[PendingEntry]
    ) -> list[RawEntry] | ErrorReply:
        """Renew the leases of pending entries that are unknown here, and read them."""
        in_ledger = self._ledger.shards.ids(shard)
        unknown = [each for each in pending if each.id not in in_ledger]
        known: list[RawEntry] = [(p.id, ()) for p in pending if p.id in in_ledger]
        if not unknown:
            return known
        owned: set[bytes] = set()
        renewals, sender = [*_renewals(shard, unknown)], self._connection.current
        for reply in await self._claims.claim(sender, renewals):
            if isinstance(reply, ErrorReply):
                return reply
            owned.update(reply)
        ids = [each.id for each in unknown]
        entries = await self._bodies.read(self._connection.ask, shard, ids)
        if isinstance(entries, ErrorReply):
            return entries
        # A deleted entry may not be pending any more. Another consumer has claimed the
        # entries that this one does not own.
        return known + [each for each in entries if each[1] is None or each[0] in owned]

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
                ask = self._connection.ask
                found = await self._bodies.read(ask, shard, unread[:count])
                if isinstance(found, ErrorReply):
                    refused = found
                    return
                on_entries(found)
                unread = unread[count:]
            left = unread

        await self._pauses.between_reads(work)
        return left, refused


def _renewals(shard: Shard, pending: Sequence[PendingEntry]) -> Iterator[OwnClaim]:
    """Yield claims that renew the leases of own pending entries.

    The minimum idle time keeps the claims from entries that another consumer has
    claimed just now. An entry with a delivery count of 0 was released without a start.
    It may be started from now on, and too fast for the start to be counted, so its
    count becomes 1.
    """
    for unstarted in (True, False):
        own = [each for each in pending if (each.deliveries == 0) == unstarted]
        if own:
            idle = min(each.idle for each in own)
            ids = [each.id for each in own]
            yield OwnClaim(shard, ids, min_idle=idle, count=1 if unstarted else None)


def _count(pending: PendingEntry, position: Position) -> int:
    """Return the delivery count of an own pending entry.

    An entry that came in a lost reply has certainly not been started.
    """
    if pending.deliveries == 1 and position.unseen(EntryId.parse(pending.id)):
        return 0
    return pending.deliveries
