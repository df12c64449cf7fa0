"""A consumer's life, from the open link to the closed one.

Built in one go, so that nothing in it is ever half there: link, ledger, reader,
committer, and the order in which they end.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
)
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import anyio

from penstock._core import commands
from penstock._core.delay import Delay
from penstock._core.desk import FrontDesk
from penstock._core.ledger import Ledger
from penstock._core.window import Window
from penstock._link.link import Line, Link, open_link
from penstock._link.wire import Wire
from penstock._tasks.assignment import Assignment
from penstock._tasks.bells import Bell
from penstock._tasks.closing import give_back
from penstock._tasks.committer import Committer
from penstock._tasks.hands import Hands, this_task
from penstock._tasks.intake import Intake
from penstock._tasks.leases import Claimer
from penstock._tasks.lifetime import task_group
from penstock._tasks.membership import Membership
from penstock._tasks.plan import Plan
from penstock._tasks.reader import Reader
from penstock._tasks.ripener import ripen
from penstock._tasks.scout import Scout
from penstock._tasks.seeking import seek
from penstock._tasks.sounding import Sounding
from penstock._tasks.worker import HandlerExit, work
from penstock.errors import ConfigurationError, ConnectionLost, UsageError
from penstock.events import Event
from penstock.message import EntryId, Message
from penstock.options import AutoCommit, Mode, Ordering, Start

__all__ = ["Session", "open_session"]

T = TypeVar("T")


class Session(Generic[T]):
    """The running parts of an open consumer.

    Args:
        plan: What it is to be.
        link: The server.
        line: The command connection.
    """

    def __init__(self, plan: Plan[T], link: Link, line: Line) -> None:
        self._plan = plan
        self._link = link
        self._line = line
        self._room = Bell()
        self._outcomes = Bell()
        self.ledger = self._make_ledger()
        self._handed_out = Bell()
        delayed = plan.policy is AutoCommit.DELAYED
        self._delay = Delay(plan.commit_delay) if delayed else None
        self._ripening = anyio.CancelScope(shield=True)
        self.intake = Intake(
            self.ledger, self._outcomes.ring, self._delay, self._handed_out
        )
        self._desk = FrontDesk(self.ledger, plan.codec, no_ack=plan.no_ack)
        self._ack = plan.policy is AutoCommit.PROCESSED
        self.hands = Hands(self.intake, self.ledger, self._desk, ack=self._ack)
        self._scout = Scout(line.calls, plan.on_event)
        self.assignment = Assignment(plan, line, self.ledger, self._scout)
        self._committer = self._make_committer()
        self._claimer: Claimer | None = None
        # The tasks that `run` has handlers in, to see a handler that closes its own
        # consumer; and an event to wait for their end.
        self._workers: set[asyncio.Task[Any]] = set()
        self._runs = 0
        self._ordering = Ordering.NONE
        self._idle = anyio.Event()
        self._closing = False
        self._closed = anyio.Event()

    def _ring_reader(self) -> None:
        self._room.ring()
        self.intake.give_way()
        if self._claimer is not None:
            self._claimer.room_again()

    def _ring_committer(self) -> None:
        self._outcomes.ring()
        self.intake.give_way()

    def _on_ready(self) -> None:
        self.intake.arrived(1)

    def _on_renewed(self) -> None:
        # Workers may have been held up until it was known what is still ours.
        self.intake.arrived(self.ledger.queued)

    def _make_ledger(self) -> Ledger:
        plan = self._plan
        most, pending = plan.prefetch.max_messages, plan.commit_max_pending
        # Under DISABLED it is the user who decides how much waits.
        on_demand = plan.policy is AutoCommit.DISABLED
        return Ledger(
            Window(most, plan.prefetch.max_bytes, plan.max_wait),
            max_pending=pending,
            max_uncommitted=None if on_demand else most + 10 * pending,
            lease=plan.lease,
            acks=plan.acks,
            on_room=self._ring_reader,
            on_outcomes=self._ring_committer,
            on_ready=self._on_ready,
        )

    def _make_committer(self) -> Committer | None:
        plan = self._plan
        if plan.member is None or not plan.acks:
            return None
        on_demand = plan.policy is AutoCommit.DISABLED
        return Committer(
            self._line,
            self._link,
            ledger=self.ledger,
            member=plan.member,
            lease=plan.lease,
            on_renewed=self._on_renewed,
            interval=None if on_demand else plan.commit_interval,
            outcomes=self._outcomes,
            sounding=Sounding(self._line, plan.member, self.assignment.cursor),
            on_event=plan.on_event,
        )

    def _make_claimer(self, member: Membership) -> Claimer:
        plan = self._plan
        return Claimer(
            self._line,
            ledger=self.ledger,
            intake=self.intake,
            member=member,
            cursor=self.assignment.cursor,
            lease=plan.lease,
            interval=plan.claim_interval,
            on_event=plan.on_event,
        )

    async def start(self, group: anyio.abc.TaskGroup) -> None:
        """Fix the position and start the tasks."""
        plan = self._plan
        await self.assignment.open()
        self._reader = Reader(
            await self._link.connect(),
            self._link,
            cursor=self.assignment.cursor,
            ledger=self.ledger,
            intake=self.intake,
            member=plan.member,
            room=self._room,
            unblock=self._unblock,
            on_recovered=self._on_recovered,
            on_event=plan.on_event,
        )
        group.start_soon(self._reader.run)
        if self._committer is not None and plan.member is not None:
            group.start_soon(self._committer.run)
            self._claimer = self._make_claimer(plan.member)
            group.start_soon(self._claimer.run)
        if self._delay is not None:
            group.start_soon(self._ripen, self._delay)
        self.assignment.reader, self.assignment.claimer = self._reader, self._claimer
        group.start_soon(self._scout.run, self.assignment.appeared, self._line.restore)
        if self.assignment.wrong is not None:
            self.intake.fail(self.assignment.wrong)

    def _on_recovered(self) -> None:
        if self._claimer is not None:
            self._claimer.look()

    async def _unblock(self, client: int) -> None:
        """Let the reader's blocked read go."""
        try:
            await self._line.calls([commands.client_unblock(client)])
        except ConnectionLost as error:
            # Then the reader's connection is as good as lost too.
            self._reader.wire.abort(error.reason)

    async def _ripen(self, delay: Delay) -> None:
        with self._ripening:
            await ripen(delay, self.ledger, self._handed_out)

    async def seek(self, place: Start | EntryId, stream: str | None) -> None:
        """Go on at a place."""
        plan, cursor = self._plan, self.assignment.cursor
        if stream is not None and stream not in {s.stream for s in cursor.shards}:
            raise ConfigurationError(
                f"{stream!r:.80} is not read; `consumer.shards` tells what is"
            )
        if plan.mode is Mode.LOAD_BALANCED:
            raise UsageError(
                "seek() would move the position of all consumers of the group; to do "
                "just that, use admin.reset_group(stream, group, to)"
            )

        async def errand(wire: Wire) -> None:
            positions = [
                position
                for position in cursor.positions
                if stream is None or position.shard.stream == stream
            ]
            await seek(wire, self.ledger, plan.member, positions, place)

        await self._reader.between_reads(errand)

    async def run(
        self,
        handler: Callable[[Message[T]], Awaitable[object]],
        concurrency: int,
        ordering: Ordering,
    ) -> None:
        """Have messages handled until the consumer closes."""
        if self._runs and ordering is not self._ordering:
            raise UsageError(
                f"another run() of this consumer orders by {self._ordering.value!r}; "
                f"use the same ordering, or a consumer of its own"
            )
        self.hands.come_back(this_task())
        if not self._runs:
            self._idle = anyio.Event()
            self._ordering = ordering
            self.ledger.order_by(ordering)
        self._runs += 1
        try:
            async with task_group() as workers:
                for _ in range(concurrency):
                    workers.start_soon(self._work, handler)
        except HandlerExit as exit_:
            raise exit_.error from None
        finally:
            self._runs -= 1
            if not self._runs:
                self._idle.set()

    async def _work(self, handler: Callable[[Message[T]], Awaitable[object]]) -> None:
        task = this_task()
        self._workers.add(task)
        try:
            await work(
                handler,
                intake=self.intake,
                ledger=self.ledger,
                desk=self._desk,
                ack=self._ack,
                on_event=self._plan.on_event,
            )
        finally:
            self._workers.discard(task)

    async def commit(self) -> None:
        """Wait until what is acknowledged by now is on the server."""
        if self._committer is not None:
            await self._committer.flush()

    async def close(self, *, clean: bool) -> None:
        """End everything, in order; further calls wait for the first one.

        Args:
            clean: Whether what loops hold counts as processed.
        """
        self.intake.close()
        if asyncio.current_task() in self._workers:
            return  # a handler: `run` returns after it, and the rest follows there
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        try:
            with anyio.CancelScope(shield=True):
                await self._close(clean=clean)
                self._ripening.cancel()
                if self._committer is not None:
                    await self._committer.stop()
        finally:
            self._closed.set()

    async def _close(self, *, clean: bool) -> None:
        deadline = time.monotonic() + self._plan.close_timeout
        # These two see to their own deadlines.
        await self._scout.stop()
        if self._claimer is not None:
            await self._claimer.stop()
        await self._reader.stop()
        with anyio.move_on_after(deadline - time.monotonic()):
            if self._runs:
                await self._idle.wait()
        self.hands.let_go(clean=clean)
        if self._delay is not None:
            # Left cleanly, all that was handed out counts as due.
            for entry in self._delay.ripe(math.inf if clean else time.monotonic()):
                self.ledger.ack(entry)
        with anyio.move_on_after(max(1.0, deadline - time.monotonic())) as late:
            await self._end_group()
        if late.cancelled_caught:
            facts = {"uncommitted": self.ledger.uncommitted}
            self._plan.on_event(Event("close_incomplete", facts=facts))
        if self._plan.noack and self.ledger.queued:
            facts = {"messages": self.ledger.queued}
            self._plan.on_event(Event("dropped", facts=facts))
        self.ledger.close()

    async def _end_group(self) -> None:
        plan, committer = self._plan, self._committer
        if plan.member is None or committer is None:
            return
        await committer.flush()
        stranded = self._reader.stranded or (
            self._claimer is not None and self._claimer.stranded
        )
        await give_back(
            self._line,
            self.ledger.release(),
            plan.member,
            idle=plan.lease,
            strays=self.assignment.cursor.shards if stranded else (),
            on_event=plan.on_event,
        )


@asynccontextmanager
async def open_session(plan: Plan[T]) -> AsyncIterator[Session[T]]:
    """Open a consumer's session and close it again.

    Raises:
        PenstockError: It can't be opened, or reading failed for good and nobody has
            been told yet.
    """
    async with open_link(plan.url, plan.on_event) as link:
        line = Line(link, await link.first(plan.open_timeout))
        try:
            async with task_group() as group:
                session = Session(plan, link, line)
                await session.start(group)
                clean = False
                try:
                    yield session
                    clean = True
                finally:
                    await session.close(clean=clean)
        finally:
            with anyio.CancelScope(shield=True):
                await line.aclose()
    session.intake.raise_untold()
