"""Attempts: the server's delivery counter is kept to what handlers have started.

A read counts a delivery for all that it brings. What comes to no handler is counted
down while it waits, as far as that costs little; and what is not counted is counted
before its handler starts. So a process that dies leaves behind who had been tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from penstock._core import commands
from penstock._core.entry import Entry, Renewal
from penstock._core.ledger import Ledger
from penstock._core.replies import ErrorReply
from penstock._link.link import Line
from penstock._tasks.membership import Membership
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["Attempts", "renewal"]


def renewal(member: Membership, due: Renewal) -> commands.Command:
    """Word a renewal."""
    shard, count = due.account.shard, due.count
    return commands.xclaim_renew(
        shard.key, member.group, member.name, due.ids, deliveries=count
    )


class Attempts:
    """Counts starts of handlers on the server.

    Args:
        line: The command connection.
        ledger: Has the entries.
        member: Whose they are.
        settle: Has outcomes sent and confirmed.
        on_lost: Rung when the connection is lost: somebody has to restore it.
        on_event: Told when the server does not let us count.
    """

    def __init__(
        self,
        line: Line,
        ledger: Ledger,
        member: Membership | None,
        *,
        settle: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None],
        on_event: OnEvent,
    ) -> None:
        self._line = line
        self._ledger = ledger
        self._member = member
        self._settle = settle
        self._on_lost = on_lost
        self._on_event = on_event
        self._refused = False

    async def begin(self, entry: Entry) -> bool:
        """Count the attempt that is about to start; False if it is not to start.

        Of a suspect the count is awaited, since its start may be the end of this
        process. Cancelling it leaves the entry where it was.
        """
        if entry.suspect:
            return await self._counted(entry)
        self._line.tell([self._count(entry)])
        try:
            # uvloop writes at the end of the turn.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._ledger.put_back(entry)
            raise
        return self._still_ours(entry)

    async def _counted(self, entry: Entry) -> bool:
        try:
            # Should it end this process, what was done before must not come back with
            # an attempt more, every time, and be given up in the end.
            await self._settle()
            [reply] = await self._line.calls([self._count(entry)])
        except ConnectionLost:
            # Not tried before it can be counted: it may take others with it.
            self._ledger.lock_suspects(locked=True)
            self._ledger.put_back(entry)
            self._on_lost()
            return False
        except asyncio.CancelledError:
            self._ledger.put_back(entry)
            raise
        if isinstance(reply, ErrorReply):
            self._tell_refused(entry, reply)
        elif not reply:
            self._ledger.lose(entry)
        return self._still_ours(entry)

    def _still_ours(self, entry: Entry) -> bool:
        if self._ledger.may_start(entry):
            return True
        self._ledger.finish(entry, ack=False)
        return False

    def _count(self, entry: Entry) -> commands.Command:
        assert self._member is not None  # noqa: S101 - only groups count
        return commands.xclaim_renew(
            entry.shard.key,
            self._member.group,
            self._member.name,
            [entry.id],
            deliveries=entry.deliveries,
        )

    def restored(self) -> None:
        """Let suspects be taken again: there is a connection."""
        self.count_again()
        self._ledger.lock_suspects(locked=False)

    def count_again(self) -> None:
        """Tell the server all counts: after an outage it may have others."""
        if self._member is not None:
            due = self._ledger.to_count_again(monotonic())
            self._line.tell([renewal(self._member, each) for each in due])

    async def mark(self) -> None:
        """Count down what waits, once those who wait for work have had theirs."""
        if self._member is None:
            return
        await asyncio.sleep(0)
        waiting = self._ledger.to_mark(monotonic())
        if waiting:
            self._line.tell([renewal(self._member, due) for due in waiting])

    def _tell_refused(self, entry: Entry, reply: ErrorReply) -> None:
        if not self._refused:
            self._refused = True
            facts = {"stream": ascii(entry.shard.stream), "reply": reply.text}
            self._on_event(Event("count_refused", facts=facts))
