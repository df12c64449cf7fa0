"""Recovery: a consumer's own pending entries, read page by page with their bodies.

Entries are pending for this consumer and unknown here after a restart under the same
name, and after a lost reply. They are not read by XREADGROUP, because that counts a
delivery of each entry, also of those that are in progress here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from penstock import _clock
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands, replies
from penstock._core.protocol.replies import ErrorReply, PendingEntry, RawEntry
from penstock._core.reading.cursor import Cursor, Position, ReadPending
from penstock._core.reading.request_size import RequestSize
from penstock._tasks.group import Membership
from penstock._tasks.leases.own_claims import CommandSender, OwnClaim, OwnClaims
from penstock._tasks.leases.pending_bodies import Ask, BodyReader, loss_recorded
from penstock.message import EntryId, Shard

__all__ = ["OnRecovered", "PendingRecovery"]

# Seconds for which a page of pending entries is believed: other consumers may claim
# what it lists.
_FRESH: Final = 0.25

OnRecovered: TypeAlias = Callable[
    [Shard, Sequence[RawEntry], float, Mapping[bytes, int]], None
]
"""Records entries: their shard, when they were listed, and their delivery counts."""


class PendingRecovery:
    """Reads the pending entries of one consumer.

    Args:
        request: Sends commands on the reader's connection.
        cursor: The reader's positions.
        ledger: The consumer's ledger.
        member: The consumer's place in the group.
        claims: Renews the leases of the entries.
        bodies: Reads the entries.
        page_size: Bounds how many pending entries one request lists.
    """

    def __init__(
        self,
        request: Ask,
        *,
        cursor: Cursor,
        ledger: Ledger,
        member: Membership,
        claims: OwnClaims,
        bodies: BodyReader,
        page_size: RequestSize,
    ) -> None:
        self._request = request
        self._cursor = cursor
        self._ledger = ledger
        self._member = member
        self._claims = claims
        self._bodies = bodies
        self._page_size = page_size

    async def read_page(
        self, sender: CommandSender, read: ReadPending, on_entries: OnRecovered
    ) -> ErrorReply | None:
        """Read one page of pending entries, or as much of it as there is space for.

        Args:
            sender: The reader's connection.
            read: The page.
            on_entries: Called with the entries, some at a time. Deleted entries have
                None for fields, and those that the ledger has have none.

        Returns:
            What the server refused, if it refused something.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        listed_at, shard = _clock.boottime(), read.position.shard
        pending = await self._list(read)
        if isinstance(pending, ErrorReply):
            return pending
        left = pending
        # There was space for one entry when this began.
        least = 1
        while left and (least or _clock.boottime() - listed_at < _FRESH):
            chunk = self._chunk(shard, left, least)
            if not chunk:
                break
            entries = await self._read(sender, shard, chunk)
            if isinstance(entries, ErrorReply):
                return entries
            counts = {each.id: _count(each, read.position) for each in chunk}
            on_entries(shard, entries, listed_at, counts)
            self._cursor.recovered_up_to(read, chunk[-1].id)
            left, least = left[len(chunk) :], 0
        if not left:
            self._cursor.recovered(read, [(each.id, None) for each in pending])
        return None

    async def _list(self, read: ReadPending) -> Sequence[PendingEntry] | ErrorReply:
        group, name, position = self._member.group, self._member.name, read.position
        key = position.shard.key
        batch = [commands.xpending_page(key, group, name, position.after, read.count)]
        if position.until is None:
            batch.append(commands.xpending_summary(key, group))
        with loss_recorded(self._page_size, read.count):
            reply, *summary = await self._request(batch)
        if isinstance(reply, ErrorReply):
            return reply
        if summary:
            position.recovery_began(replies.highest_pending(summary[0]))
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
        self, sender: CommandSender, shard: Shard, pending: Sequence[PendingEntry]
    ) -> list[RawEntry] | ErrorReply:
        """Renew the leases of pending entries that are unknown here, and read them."""
        in_ledger = self._ledger.shards.ids(shard)
        unknown = [each for each in pending if each.id not in in_ledger]
        known: list[RawEntry] = [(p.id, ()) for p in pending if p.id in in_ledger]
        if not unknown:
            return known
        owned: set[bytes] = set()
        for reply in await self._claims.claim(sender, [*_renewals(shard, unknown)]):
            if isinstance(reply, ErrorReply):
                return reply
            owned.update(reply)
        ids = [each.id for each in unknown]
        entries = await self._bodies.read(self._request, shard, ids)
        if isinstance(entries, ErrorReply):
            return entries
        # A deleted entry may not be pending any more. Another consumer has claimed the
        # entries that this one does not own.
        return known + [each for each in entries if each[1] is None or each[0] in owned]


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
