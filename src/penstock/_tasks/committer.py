"""The committer: sends outcomes in batches, and is the only one who writes them.

It waits for the first outcome, then for the interval to end or as many outcomes as
may wait, whatever comes first; neither messages nor reads have a part in it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio

from penstock._core import commands
from penstock._core.entry import Batch
from penstock._core.ledger import Ledger
from penstock._core.replies import ErrorReply, Trouble
from penstock._core.retry import Backoff
from penstock._link.link import Line
from penstock._tasks.bells import Bell, Rounds
from penstock._tasks.burying import Burial
from penstock._tasks.leases import renew
from penstock._tasks.membership import Membership
from penstock._tasks.sounding import Sounding
from penstock._tasks.telling import id_list
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["Committer"]


class Committer:
    """Tells the server what is done.

    Args:
        line: The command connection.
        ledger: Has the outcomes.
        member: The group's, and whose entries are in the ledger.
        lease: Seconds; leases are looked after six times in it.
        on_renewed: Called after leases were renewed.
        interval: Seconds that the first outcome may wait; None: until it is asked for.
        outcomes: Rung when there is something to look at.
        burial: Writes dead letters, if they are kept.
        sounding: Looks how far the group has come.
        on_event: Told of acknowledgements that the server did not take.
    """

    def __init__(
        self,
        line: Line,
        *,
        ledger: Ledger,
        member: Membership,
        lease: float,
        on_renewed: Callable[[], None],
        interval: float | None,
        outcomes: Bell,
        burial: Burial | None,
        sounding: Sounding,
        on_event: OnEvent,
    ) -> None:
        self._line = line
        self._ledger = ledger
        self._member = member
        self._group = member.group
        # What was told of outcomes that came too late.
        self._late = 0
        self._look_every = lease / 6
        self._look_at = monotonic() + self._look_every
        self._on_renewed = on_renewed
        self._interval = interval
        self._outcomes = outcomes
        self._burial = burial
        self._sounding = sounding
        self._on_event = on_event
        self._backoff = Backoff()
        # Somebody waits for outcomes to be on the server: no interval.
        self._urgent = 0
        self._rounds = Rounds()
        # Called after each round, for those who wait for what it has sent.
        self.on_round: Callable[[], None] = lambda: None
        # Shielded: what cancels whoever holds the consumer must not keep it from being
        # closed in order, which ends this.
        self._scope = anyio.CancelScope(shield=True)
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Send outcomes until stopped, over any number of reconnects."""
        try:
            with self._scope:
                while True:
                    await self._wait()
                    try:
                        self._line.check()
                        await self._renew()
                        await self._round()
                        if self._burial is not None:
                            await self._burial.round()
                    except ConnectionLost as error:
                        await self._line.restore(error.reason)
                    self._tell_late()
                    self._rounds.over()
                    self.on_round()
        finally:
            self._tell_late()
            self._ended.set()
            self._rounds.over()

    async def stop(self) -> None:
        """End it; what is unsent stays in the ledger."""
        self._scope.cancel()
        await self._ended.wait()

    async def flush(self) -> None:
        """Wait until all that is acknowledged by now is on the server."""
        waiting = self._ledger.to_confirm()
        self._urgent += 1
        try:
            while any(entry.untold for entry in waiting):
                self._outcomes.ring()
                await self._rounds.wait()
        finally:
            self._urgent -= 1

    async def settle(self) -> None:
        """Have what is acknowledged by now sent, and wait for that; not on demand only.

        Waits for no more than a reply: the server may refuse it for long.
        """
        if self._interval is None:
            return
        waiting = self._ledger.to_confirm()
        self._urgent += 1
        try:
            # One round may be under way without them.
            for _ in range(2):
                if any(e.untold for e in waiting) and not self._ended.is_set():
                    self._outcomes.ring()
                    await self._rounds.wait()
        finally:
            self._urgent -= 1

    async def _wait(self) -> None:
        """Wait until there is something to send, or leases have to be looked after."""
        while not (self._due or self._letters() == 0.0):
            wait = self._look_at - monotonic()
            if wait <= 0 or self._line.lost or self._ledger.overdue(monotonic()):
                return
            if (letters := self._letters()) is not None:
                wait = min(wait, letters)
            await self._rest(wait)
        if self._ledger.full or self._urgent or self._interval is None:
            return
        self._outcomes.hush()
        await self._rest(self._interval)

    async def _rest(self, longest: float) -> None:
        """Wait for a ring; tell if the event loop did not come back to us in time."""
        due = monotonic() + longest
        with anyio.move_on_after(longest):
            await self._outcomes.wait()
        late = monotonic() - due
        if late > 2 * self._look_every:  # a third of the lease
            facts = {"group": ascii(self._group), "seconds": round(late, 3)}
            facts["lease"] = 6 * self._look_every
            self._on_event(Event("loop_blocked", logging.WARNING, facts))

    @property
    def _due(self) -> bool:
        """Whether there is something to send, if not at once."""
        on_demand = self._interval is None
        return bool(self._ledger.uncommitted and (self._urgent or not on_demand))

    def _letters(self) -> float | None:
        """Give the seconds until dead letters can be written, if there are any."""
        return None if self._burial is None else self._burial.wait()

    async def _renew(self) -> None:
        now = monotonic()
        if now < self._look_at and not self._ledger.overdue(now):
            return
        lost, refused = await renew(self._line, self._ledger, self._member)
        self._look_at = now + self._look_every
        self._on_renewed()
        if refused is not None:
            await self._refused("renewal_refused", refused)
        if lost:
            facts: dict[str, object] = {"group": ascii(self._group)}
            facts |= {"messages": len(lost), "ids": id_list(lost)}
            self._on_event(Event("lease_lost", logging.ERROR, facts))

    def _tell_late(self) -> None:
        """Tell of outcomes that came when their messages were somebody else's."""
        late = self._ledger.totals.late
        if late > self._late:
            facts = {"group": ascii(self._group), "messages": late - self._late}
            self._late = late
            self._on_event(Event("outcome_late", logging.WARNING, facts))

    async def _round(self) -> None:
        if not self._due:
            return
        batches = self._ledger.plan()
        try:
            answers = await self._line.calls(
                [
                    commands.xack(batch.account.shard.key, self._group, batch.ids)
                    for batch in batches
                ]
            )
        except ConnectionLost:
            for batch in batches:
                self._ledger.unsent(batch)
            raise
        refused = [
            reply
            for batch, reply in zip(batches, answers, strict=True)
            if not self._conclude(batch, reply)
        ]
        if refused:
            await self._refused("commit_refused", refused[0])
        else:
            self._backoff.progress()
            await self._sounding.look()

    async def _refused(self, what: str, reply: ErrorReply) -> None:
        """Tell of a refusal that may pass, and wait before the next try."""
        self._on_event(Event(what, facts={"reply": reply.text}))
        # Reads may go well meanwhile, so it is not the link's pace.
        await anyio.sleep(self._backoff.failed(random.random()))  # noqa: S311

    def _conclude(self, batch: Batch, reply: Any) -> bool:
        """Book one shard's reply; False if its batch has to be sent again."""
        sent = len(batch.entries) + len(batch.ghosts)
        if isinstance(reply, ErrorReply):
            # A user who lost a permission may get it back: what is done stays done.
            if reply.trouble not in {Trouble.REPAIR, Trouble.ISOLATE}:
                self._ledger.unsent(batch)
                return False
            self._tell("commit_dropped", batch, lost=sent, reply=reply.text)
        elif reply < len(batch.entries) and not batch.repeated:
            # Somebody else acknowledged them, or the group was made anew. Ghosts don't
            # count: any consumer's takeover lets go of them.
            self._tell("commit_mismatch", batch, sent=sent, acknowledged=reply)
        self._ledger.committed(batch)
        return True

    def _tell(self, name: str, batch: Batch, **facts: object) -> None:
        stream = ascii(batch.account.shard.stream)
        facts = {"stream": stream, "group": ascii(self._group), **facts}
        self._on_event(Event(name, logging.WARNING, facts))
