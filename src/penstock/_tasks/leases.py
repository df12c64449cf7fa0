"""Leases: kept on what we have, taken over on what nobody answers for."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import anyio

from penstock._core import commands, replies
from penstock._core.commands import Command
from penstock._core.cursors import Cursors
from penstock._core.entry import Renewal
from penstock._core.ledger import Ledger
from penstock._core.replies import Claimed, ErrorReply, Trouble
from penstock._link.link import Line
from penstock._tasks.attempts import renewal
from penstock._tasks.bells import Bell
from penstock._tasks.intake import Intake
from penstock._tasks.membership import Membership
from penstock._tasks.reaping import reap
from penstock._tasks.telling import id_list, tell_of_deleted
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["Claimer", "channel", "renew"]

# A page of XAUTOCLAIM has the server look at ten times as many entries; a million
# pending ones must not hold it up (chrisguidry/docket#463).
_PAGE: Final = 100
_PAGES: Final = 10
# Where nobody can tell us what was given back, we look this often; in seconds.
_LOOK: Final = 0.9
# However often we are told, we search no more often; in seconds.
_PACE: Final = 0.1


def channel(shard: Shard, group: str) -> bytes:
    """Name the channel on which a consumer that closes says that it gave back."""
    return b"penstock:released:" + shard.key + b":" + group.encode()


def _presence(shard: Shard, member: Membership) -> bytes:
    """Name the channel to which only the consumer of a name listens."""
    words = (b"penstock:consumer", shard.key, member.group.encode())
    return b":".join((*words, member.name.encode()))


async def renew(
    line: Line, ledger: Ledger, member: Membership
) -> tuple[list[bytes], ErrorReply | None]:
    """Renew what has used up a third of its lease.

    Where so much time has passed that others may have taken over, it is asked first:
    to claim would be to take it back.

    Returns:
        The ids of what we have lost, and a refusal that may pass.

    Raises:
        ConnectionLost: The connection ended before the replies.
    """
    now = monotonic()
    renewals = ledger.to_renew(now)
    late = [due for due in renewals if due.late]
    kept = [due for due in renewals if not due.late]
    lost: list[bytes] = []
    refused: ErrorReply | None = None
    questions = [_ask(member, due) for due in late]
    asked = iter(await line.calls([each for asks in questions for each in asks]))
    for due, asks in zip(late, questions, strict=True):
        answers = [next(asked) for _ in asks]
        error = next((each for each in answers if isinstance(each, ErrorReply)), None)
        if error is None:
            ours = [pending.id for page in answers for pending in page]
            lost += ledger.lose_all_but(due, ours)
        elif not _is_gone(error):
            refused = error
            continue  # it may be others', and is not taken back unasked
        kept.append(due)
    kept = [due for due in kept if due.ids]
    answers = await line.calls([renewal(member, due) for due in kept])
    for due, reply in zip(kept, answers, strict=True):
        if not isinstance(reply, ErrorReply):
            lost += ledger.lose_all_but(due, reply)
            ledger.renewed(due, now)
        elif _is_gone(reply):
            # Nobody else can have it. It is handled here, though it may come again.
            ledger.renewed(due, now)
        else:
            refused = reply
    return lost, refused


def _is_gone(reply: ErrorReply) -> bool:
    """Tell whether there is no group any more in which something could be whose."""
    return reply.trouble in {Trouble.REPAIR, Trouble.ISOLATE}


def _ask(member: Membership, renewal: Renewal) -> list[Command]:
    """Ask for each entry whether it is ours still.

    Not for all from the first to the last: any number of ours may lie between them that
    nobody here knows of, for example those whose acknowledgement was dropped because
    their key was of another type for a while.
    """
    key, group, name = renewal.account.shard.key, member.group, member.name
    return [
        commands.xpending_between(key, group, name, low=id_, high=id_, count=1)
        for id_ in renewal.ids
    ]


class Claimer:
    """Takes over, as far as there is room, what others left longer than the lease.

    Args:
        line: The command connection.
        ledger: Where it is booked.
        intake: Told what there is.
        member: Whose it becomes.
        cursors: Have the shards to look at.
        lease: Seconds after which it may be taken.
        interval: Seconds between two searches.
        on_event: Told of takeovers, and of what is refused.
    """

    def __init__(
        self,
        line: Line,
        *,
        ledger: Ledger,
        intake: Intake,
        member: Membership,
        cursors: Cursors,
        lease: float,
        interval: float,
        on_event: OnEvent,
    ) -> None:
        self._line = line
        self._ledger = ledger
        self._intake = intake
        self._member = member
        self._reads = cursors
        self._lease = lease
        self._interval = interval
        self._on_event = on_event
        # Where each shard's search goes on; a search may end before the list does.
        self._cursors: defaultdict[bytes, bytes] = defaultdict(lambda: b"0-0")
        self._released = Bell()
        # The connection on which we listen, if we may, and to what.
        self._listening_on: int | None = None
        self._heard: set[bytes] = set()
        self._may_listen = True
        # The last search ended because there was no room for more.
        self._cut_short = False
        # Or because it was long enough for now: the list goes on.
        self._unfinished = False
        self._may_reap = True
        self._reaped_at = monotonic()
        self._stopping = False
        # A takeover is under way: cancelling now could strand what it brings.
        self._asking = False
        # Shielded: what cancels whoever holds the consumer must not keep it from being
        # closed in order, which ends this.
        self._scope = anyio.CancelScope(shield=True)
        self._ended = anyio.Event()

    @property
    def stranded(self) -> bool:
        """Whether a takeover was given up that may have brought entries unseen."""
        return self._asking

    async def run(self) -> None:
        """Search, wait, and search again, until stopped."""
        try:
            with self._scope:
                while not self._stopping:
                    await self._round()
        finally:
            self._ended.set()

    def look(self) -> None:
        """Search now: there are shards that were not searched before."""
        self._released.ring()

    def room_again(self) -> None:
        """Go on with a search that ended for want of room."""
        if self._cut_short:
            self._released.ring()

    async def stop(self) -> None:
        """End it; a takeover under way is seen through.

        That may take a server's time without end: bound it, and then call `cut`.
        """
        self._stopping = True
        if not self._asking or self._line.lost:
            self.cut()
        await self._ended.wait()

    def cut(self) -> None:
        """End it now; what a takeover under way may bring is `stranded`."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Wait until it has ended: it books nothing more then."""
        await self._ended.wait()

    async def _round(self) -> None:
        try:
            await self._listen()
            self._cut_short = self._unfinished = False
            for position in self._reads.positions:
                # What we have left pending ourselves the reader finds; both of us
                # would count it as two deliveries.
                if not position.recovering and position.broken is None:
                    await self._search(position.shard)
            await self._reap()
        except ConnectionLost as error:
            if self._stopping:
                return
            await self._line.restore(error.reason)
            # What a lost reply took over is ours unseen, until its lease has ended.
            self._asking = False
            return
        if not self._stopping:
            if not self._cut_short:
                await anyio.sleep(_PACE)
            if self._unfinished:
                return
            with anyio.move_on_after(self._pause()):
                await self._released.wait()

    def _pause(self) -> float:
        interval = self._interval if self._may_listen else min(_LOOK, self._interval)
        return interval * (0.75 + random.random() / 2)  # noqa: S311 - only jitter

    async def _listen(self) -> None:
        first = self._listening_on is None
        if self._listening_on != self._line.number:
            self._heard.clear()
        shards = [s for s in self._reads.shards if s.key not in self._heard]
        if not self._may_listen or not shards:
            return
        if first:
            await self._look_for_namesakes(shards)
        number = self._line.number
        channels = [channel(shard, self._member.group) for shard in shards]
        channels += [_presence(shard, self._member) for shard in shards]
        self._may_listen = await self._line.listen(channels, self._released.ring)
        self._listening_on = number
        self._heard.update(shard.key for shard in shards)

    async def _look_for_namesakes(self, shards: Sequence[Shard]) -> None:
        """Warn of a consumer of our name: each would take the other's entries anew."""
        channels = [_presence(shard, self._member) for shard in shards]
        [reply] = await self._line.calls([commands.pubsub_numsub(channels)])
        if not isinstance(reply, ErrorReply) and any(reply):
            self._tell("name_in_use", shards[0], consumer=ascii(self._member.name))

    async def _search(self, shard: Shard) -> None:
        """Look through a shard's pending list, from where the last search ended."""
        for _ in range(_PAGES):
            room = self._ledger.spare(monotonic())
            if not room or self._stopping:
                self._cut_short = True
                return
            command = commands.xautoclaim(
                shard.key,
                self._member.group,
                self._member.name,
                idle=int(self._lease * 1000),
                cursor=self._cursors[shard.key],
                count=min(room, _PAGE),
            )
            self._asking = True
            # What was ours, and is acknowledged between its takeover and its booking,
            # is done.
            with self._ledger.recovering(shard):
                [reply] = await self._line.calls([command])
                if isinstance(reply, ErrorReply):
                    self._asking = False
                    self._tell("claim_refused", shard, reply=reply.text)
                    return
                page: Claimed = reply
                self._cursors[shard.key] = page.cursor
                await self._book(shard, page)
            self._asking = False
            if page.cursor == b"0-0":
                return
        self._unfinished = True

    async def _book(self, shard: Shard, page: Claimed) -> None:
        ledger, member, ids = self._ledger, self._member, page.ids
        # What is in hand was read whole, and is handled all the same.
        in_hand = ledger.in_hand(shard)
        ledger.deleted(shard, [id_ for id_ in page.deleted if id_ not in in_hand])
        if not ids:
            tell_of_deleted(ledger, member.group, self._on_event)
            return
        ask = commands.xpending_between(
            shard.key,
            member.group,
            member.name,
            low=ids[0],
            high=ids[-1],
            count=10 * _PAGE,
        )
        bodies = [commands.xrange_one(shard.key, id_) for id_ in ids]
        counts, *found = await self._line.calls([ask, *bodies])
        refused = next((r for r in found if isinstance(r, ErrorReply)), None)
        if refused is not None:
            self._tell("claim_refused", shard, reply=refused.text)
            return  # they are ours, and found again when their lease has ended
        attempts = dict.fromkeys(ids, 1)
        if not isinstance(counts, ErrorReply):
            attempts |= {p.id: p.deliveries for p in counts}
        entries = replies.bodies(ids, found)
        taken = ledger.came_back(shard, entries, monotonic(), attempts, claimed=True)
        ledger.totals.claimed += taken
        self._intake.arrived(taken)
        tell_of_deleted(ledger, member.group, self._on_event)
        if taken:
            here = [id_ for id_, fields in entries if fields]
            self._tell("claimed", shard, messages=taken, ids=id_list(here))

    async def _reap(self) -> None:
        """Remove dead consumers, no more often than the interval."""
        if not self._may_reap or monotonic() - self._reaped_at < self._interval:
            return
        self._reaped_at = monotonic()
        for shard in self._reads.shards:
            refused = await reap(self._line, self._member, shard, self._lease)
            if refused is not None:
                self._may_reap = False
                self._tell("reaping_refused", shard, reply=refused.text)
                return

    def _tell(self, name: str, shard: Shard, **facts: Any) -> None:
        names: dict[str, object] = {"stream": ascii(shard.stream)}
        names |= {"shard": shard.number, "group": ascii(self._member.group)}
        self._on_event(Event(name, facts={**names, **facts}))
