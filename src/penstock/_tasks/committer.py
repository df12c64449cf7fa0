"""The committer: sends outcomes in batches, and is the only one who writes them.

It waits for the first outcome, then for the interval to end or as many outcomes as
may wait, whatever comes first; neither messages nor reads have a part in it.
"""

from __future__ import annotations

import logging
from typing import Any

import anyio

from penstock._core import commands
from penstock._core.ledger import Batch, Ledger
from penstock._core.replies import ErrorReply, Trouble
from penstock._link.link import Line, Link
from penstock._tasks.bells import Bell, Rounds
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["Committer"]


class Committer:
    """Tells the server what is done.

    Args:
        line: The command connection.
        link: Paces what is tried again.
        ledger: Has the outcomes.
        group: The group's name.
        interval: Seconds that the first outcome may wait; None: until it is asked for.
        outcomes: Rung when there is something to look at.
        on_event: Told of acknowledgements that the server did not take.
    """

    def __init__(
        self,
        line: Line,
        link: Link,
        *,
        ledger: Ledger,
        group: str,
        interval: float | None,
        outcomes: Bell,
        on_event: OnEvent,
    ) -> None:
        self._line = line
        self._link = link
        self._ledger = ledger
        self._group = group
        self._interval = interval
        self._outcomes = outcomes
        self._on_event = on_event
        # Somebody waits for outcomes to be on the server: no interval.
        self._urgent = 0
        self._rounds = Rounds()
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Send outcomes until stopped, over any number of reconnects."""
        try:
            with self._scope:
                while True:
                    await self._wait()
                    await self._round()
                    self._rounds.over()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End it; what is unsent stays in the ledger."""
        self._scope.cancel()
        await self._ended.wait()

    async def flush(self) -> None:
        """Wait until all that is acknowledged by now is on the server."""
        waiting = self._ledger.to_confirm()
        self._urgent += 1
        try:
            while any(entry.uncommitted for entry in waiting):
                self._outcomes.ring()
                await self._rounds.wait()
        finally:
            self._urgent -= 1

    async def _wait(self) -> None:
        on_demand = self._interval is None
        while not self._ledger.uncommitted or (on_demand and not self._urgent):
            await self._outcomes.wait()
        if self._ledger.full or self._urgent:
            return
        self._outcomes.hush()
        with anyio.move_on_after(self._interval):
            await self._outcomes.wait()

    async def _round(self) -> None:
        batches = self._ledger.plan()
        try:
            answers = await self._line.calls(
                [
                    commands.xack(batch.account.shard.key, self._group, batch.ids)
                    for batch in batches
                ]
            )
        except ConnectionLost as error:
            for batch in batches:
                self._ledger.unsent(batch)
            await self._line.restore(error.reason)
            return
        refused = [
            reply
            for batch, reply in zip(batches, answers, strict=True)
            if not self._conclude(batch, reply)
        ]
        if refused:
            self._on_event(Event("commit_refused", facts={"reply": refused[0].text}))
            await self._link.pause()

    def _conclude(self, batch: Batch, reply: Any) -> bool:
        """Book one shard's reply; False if its batch has to be sent again."""
        sent = len(batch.entries) + len(batch.ghosts)
        if isinstance(reply, ErrorReply):
            # A user who lost a permission may get it back: what is done stays done.
            if reply.trouble not in {Trouble.REPAIR, Trouble.ISOLATE}:
                self._ledger.unsent(batch)
                return False
            self._tell("commit_dropped", batch, lost=sent, reply=reply.text)
        elif reply < sent and not batch.repeated:
            # Somebody else acknowledged them, or the group was made anew.
            self._tell("commit_mismatch", batch, sent=sent, acknowledged=reply)
        self._ledger.committed(batch)
        return True

    def _tell(self, name: str, batch: Batch, **facts: object) -> None:
        stream = ascii(batch.account.shard.stream)
        facts = {"stream": stream, "group": ascii(self._group), **facts}
        self._on_event(Event(name, logging.WARNING, facts))
