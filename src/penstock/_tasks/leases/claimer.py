"""The claimer: claims entries whose lease has ended, and removes dead consumers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import anyio

from penstock import _chance, _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.replies import Claimed, ErrorReply, PendingEntry, RawEntry
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.group import Membership
from penstock._tasks.handling.waiters import Waiters
from penstock._tasks.leases.dead_consumers import reap
from penstock._tasks.leases.own_claims import (
    OwnClaim,
    OwnClaims,
    ask_owners,
    min_idle,
)
from penstock._tasks.leases.pending_bodies import OnEntries
from penstock._tasks.leases.release import channel, release_entries
from penstock._tasks.reporting import ShardReporter, id_list, report_deleted
from penstock._tasks.task_scopes import StoppableTask
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ClosedError, ConnectionLost
from penstock.events import OnEvent
from penstock.message import Shard

__all__ = ["Claimer"]

FetchEntries: TypeAlias = Callable[
    [Shard, Sequence[bytes], OnEntries],
    Awaitable[tuple[Sequence[bytes], ErrorReply | None]],
]

# For a page of XAUTOCLAIM the server looks at up to ten times as many entries, and a
# million pending entries must not block it (chrisguidry/docket#463).
_PAGE: Final = 100
_PAGES: Final = 10
# The most probes (possible poison messages that run alone) that may wait here.
_PROBES: Final = 16
# The most seconds between two searches if notifications of released entries can't be
# received.
_SEARCH_EVERY: Final = 0.9
# The seconds between two looks for dead consumers where nothing is searched for.
_REAP_EVERY: Final = 30.0
# The least seconds between two searches, however many notifications arrive.
_LEAST_PAUSE: Final = 0.1


def _presence(shard: Shard, member: Membership) -> bytes:
    """Return the channel to which only the consumer with this name listens."""
    words = (b"penstock:consumer", shard.key, member.group.encode())
    return b":".join((*words, member.name.encode()))


def _counts(
    ids: Iterable[bytes], answers: Iterable[Sequence[PendingEntry] | ErrorReply]
) -> dict[bytes, int]:
    """Return the delivery counts of claimed entries, without those lost since.

    Where the server refuses to tell the count, it is assumed to be 1: the entry may
    have been started.
    """
    counts = {}
    for id_, answer in zip(ids, answers, strict=True):
        if isinstance(answer, ErrorReply):
            counts[id_] = 1
        else:
            counts |= {pending.id: pending.deliveries for pending in answer}
    return counts


def _fresh(counts: Mapping[bytes, int]) -> list[bytes]:
    return [id_ for id_, count in counts.items() if not count]


class Claimer(StoppableTask):
    """Claims entries of other consumers whose leases have ended, as many as fit.

    Entries of a claim whose reply was lost, or during which the claimer was cut, are
    pending and unknown: their shards are `stranded`.

    Args:
        connection: The command connection.
        fetch: Reads entries on the connection of their shard's reader. The command
            connection has subscribed to channels, and the server closes it as soon as
            32 MB of output wait on it.
        ledger: The ledger in which claimed entries are recorded.
        waiters: Are notified of new entries.
        claims: Claims the consumer's own entries.
        cursors: The positions in the shards to search.
        interval: The seconds between two searches; None for no searches: nothing is
            claimed, and dead consumers are removed all the same.
        on_event: Receives claims and refusals.
    """

    def __init__(
        self,
        connection: CommandConnection,
        *,
        fetch: FetchEntries,
        ledger: Ledger,
        waiters: Waiters,
        claims: OwnClaims,
        cursors: SlotCursors,
        interval: float | None,
        on_event: OnEvent,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._fetch = fetch
        self._ledger = ledger
        self._waiters = waiters
        self._member = claims.member
        self._claims = claims
        self._slot_cursors = cursors
        # The seconds of idle time after which an entry may be claimed.
        self._lease = ledger.leases.terms.seconds
        self._searches = interval is not None
        self._interval = _REAP_EVERY if interval is None else interval
        self._on_event = on_event
        self._report = ShardReporter(claims.member.group, on_event).report
        # The id at which the next search of each shard begins. A search may end before
        # the pending list does.
        self._cursors: defaultdict[bytes, bytes] = defaultdict(lambda: b"0-0")
        self._released = AutoResetEvent()
        # The number of the connection that listens for notifications, the keys of the
        # shards for which it does, and whether that is permitted.
        self._listening_on: int | None = None
        self._listening_to: set[bytes] = set()
        self._can_listen = True
        # Whether the last search ended because no more entries fit.
        self._cut_short = False
        # Whether it ended because it had looked at enough pages.
        self._unfinished = False
        self._may_reap = True
        self._reaped_at = _clock.boottime()
        # The shard of a claim under way, whose entries a cancellation could strand; and
        # when the replies to claims were lost, by their shards.
        self._claiming: Shard | None = None
        self._lost_at: dict[Shard, float] = {}

    @property
    def stranded(self) -> Sequence[Shard]:
        """The shards of which claimed entries may be pending and unknown.

        When their lease has ended, others can claim them.
        """
        end = self._ledger.leases.ended(_clock.boottime())
        lost = [shard for shard, lost_at in self._lost_at.items() if lost_at > end]
        claiming = [] if self._claiming is None else [self._claiming]
        return list(dict.fromkeys(lost + claiming))

    async def run(self) -> None:
        """Search, wait, and search again, until stopped."""
        with self._until_cut():
            while not self._stopping:
                await self._round()

    def search_now(self) -> None:
        """Search now, because there are shards that were not searched before."""
        self._released.set()

    def resume(self) -> None:
        """Continue a search that ended because no more entries fitted."""
        if self._cut_short:
            self._released.set()

    async def stop(self) -> None:
        """Stop searching; a claim under way is completed.

        The server may take any time for that, so set a timeout and then call `cut`.
        """
        self._stopping = True
        if self._claiming is None or self._connection.lost:
            self.cut()
        await self.ended()

    async def _round(self) -> None:
        try:
            await self._listen()
            self._cut_short = self._unfinished = False
            for position in self._slot_cursors.positions if self._searches else ():
                # The reader recovers this consumer's own pending entries. If both read
                # them, they would count as delivered twice.
                if not position.recovering and position.broken is None:
                    await self._search(position.shard)
            await self._reap()
        except ConnectionLost as error:
            if self._stopping:
                return
            self._claim_lost()
            await self._connection.restore(error.reason)
            return
        except ClosedError:
            # The reader has ended. The claimed entries are released on closing.
            self._stopping = True
        if not self._stopping:
            if not self._cut_short:
                await anyio.sleep(_LEAST_PAUSE)
            if self._unfinished:
                return
            with anyio.move_on_after(self._pause()):
                await self._released.wait()

    def _claim_lost(self) -> None:
        """Record that the reply to a claim was lost, if one was under way.

        Its entries are found when their lease has ended.
        """
        if self._claiming is not None:
            self._lost_at[self._claiming] = _clock.boottime()
            self._claiming = None

    def _pause(self) -> float:
        interval = (
            self._interval if self._can_listen else min(_SEARCH_EVERY, self._interval)
        )
        return interval * (0.75 + _chance.fraction() / 2)

    async def _listen(self) -> None:
        first = self._listening_on is None
        if self._listening_on != self._connection.number:
            self._listening_to.clear()
        shards = [
            s for s in self._slot_cursors.shards if s.key not in self._listening_to
        ]
        if not self._can_listen or not shards:
            return
        if first:
            await self._check_name_in_use(shards)
        number = self._connection.number
        channels = [channel(shard, self._member.group) for shard in shards]
        channels += [_presence(shard, self._member) for shard in shards]
        self._can_listen = await self._connection.listen(channels, self._released.set)
        self._listening_on = number
        self._listening_to.update(shard.key for shard in shards)

    async def _check_name_in_use(self, shards: Sequence[Shard]) -> None:
        """Report another consumer with this name: each would claim all entries."""
        channels = [_presence(shard, self._member) for shard in shards]
        [reply] = await self._connection.calls([commands.pubsub_numsub(channels)])
        if not isinstance(reply, ErrorReply) and any(reply):
            self._report("name_in_use", shards[0], consumer=self._member.name)

    async def _search(self, shard: Shard) -> None:
        """Search a shard's pending list, from where the last search ended."""
        for _ in range(_PAGES):
            budget = self._ledger.flow.claim_budget(_clock.boottime())
            if not budget or self._stopping:
                self._cut_short = True
                return
            command = commands.xautoclaim(
                shard.key,
                self._member.group,
                self._member.name,
                idle=int(self._lease * 1000),
                cursor=self._cursors[shard.key],
                count=min(budget, _PAGE),
            )
            self._claiming = shard
            asked = _clock.boottime()
            # An entry that was this consumer's before, and that is acknowledged between
            # the claim and its recording, is done.
            with self._ledger.deliveries.recovering(shard):
                [reply] = await self._connection.calls([command])
                if isinstance(reply, ErrorReply):
                    self._claiming = None
                    self._report("claim_refused", shard, reply=reply.text)
                    return
                page: Claimed = reply
                self._cursors[shard.key] = page.cursor
                left = await self._record(shard, page, asked)
                if left:
                    await self._release_rest(shard, left, asked)
            self._claiming = None
            if left or self._cursors[shard.key] == b"0-0":
                report_deleted(self._ledger, self._member.group, self._on_event)
                return
        self._unfinished = True

    async def _record(
        self, shard: Shard, page: Claimed, asked: float
    ) -> dict[bytes, int]:
        """Read and record claimed entries.

        Returns:
            The delivery counts of the entries that did not fit, before the claim.
        """
        ledger, member, ids = self._ledger, self._member, page.ids
        # Deleted entries that the ledger has were read before, and are handled anyway.
        in_hand = ledger.shards.ids(shard)
        ledger.deliveries.deleted(
            shard, [id_ for id_ in page.deleted if id_ not in in_hand]
        )
        if not ids:
            return {}
        pending = await self._connection.calls(ask_owners(member, shard, ids))
        counts = _counts(ids, pending)
        await self._count_fresh(shard, counts)
        taken = 0
        here: list[bytes] = []

        def record(entries: Sequence[RawEntry]) -> None:
            nonlocal taken
            new = ledger.deliveries.recovered(
                shard, entries, asked, counts, claimed=True
            )
            taken += new
            here.extend(id_ for id_, fields in entries if fields)
            self._waiters.notify_ready(new)

        try:
            left, refused = await self._fetch(shard, list(counts), record)
        except ClosedError:
            # The reader has ended. Nobody has started these, so they count as before.
            unread = {id_: n for id_, n in counts.items() if id_ not in in_hand}
            if unread:
                await self._release_rest(shard, unread, asked)
            raise
        ledger.shards.of(shard).counters.claimed += taken
        await self._release_probes()
        if taken:
            self._report("claimed", shard, messages=taken, ids=id_list(here))
        if refused is not None:
            # The entries are this consumer's, and are found again when their lease has
            # ended.
            self._report("claim_refused", shard, reply=refused.text)
        return {id_: counts[id_] for id_ in left}

    async def _release_rest(
        self, shard: Shard, left: Mapping[bytes, int], asked: float
    ) -> None:
        """Release claimed entries that did not fit, so that they can be claimed now.

        Args:
            shard: Their shard.
            left: Their delivery counts before the claim.
            asked: When the claim was sent.
        """
        self._cut_short = True
        self._cursors[shard.key] = next(iter(left))
        waited = min_idle(_clock.boottime() - asked, self._lease)
        idle, fresh = int(self._lease * 1000), _fresh(left)
        others = [id_ for id_, count in left.items() if count]
        claims = [
            # Their lease has begun anew with their count.
            OwnClaim(shard, fresh, count=0, idle=idle),
            OwnClaim(shard, others, waited, idle=idle),
        ]
        await self._claims.claim(self._connection, [c for c in claims if c.ids])

    async def _count_fresh(self, shard: Shard, counts: Mapping[bytes, int]) -> None:
        """Set the counts of entries that were certainly not started, which are 0, to 1.

        They may be started as soon as they are recorded. A count that came later could
        take back that of the start.
        """
        if fresh := _fresh(counts):
            await self._claims.claim(
                self._connection, [OwnClaim(shard, fresh, count=1)]
            )

    async def _release_probes(self) -> None:
        """Release excess probes.

        They run one after the other, so only a few of them can run in time. Other
        consumers may have the rest.
        """
        if released := self._ledger.removals.release_probes(_PROBES):
            await release_entries(
                self._connection,
                self._claims,
                released,
                self._member,
                idle=self._lease,
                on_event=self._on_event,
            )

    async def _reap(self) -> None:
        """Remove dead consumers, no more often than the interval."""
        if not self._may_reap or _clock.boottime() - self._reaped_at < self._interval:
            return
        self._reaped_at = _clock.boottime()
        for shard in self._slot_cursors.shards:
            refused = await reap(self._connection, self._member, shard, self._lease)
            if refused is not None:
                self._may_reap = False
                self._report("reaping_refused", shard, reply=refused.text)
                return
