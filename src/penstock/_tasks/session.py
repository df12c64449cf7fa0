"""A consumer's life, from the open link to the closed one.

Built in one go, so that nothing in it is ever half there: link, ledger, reader,
committer, and the order in which they end.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from penstock._connection.connection import Connection
from penstock._connection.reconnect import CommandConnection, Connector, open_connector
from penstock._core.handling.settlement import Settler
from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.removals import Released
from penstock._core.protocol import commands
from penstock._core.reading.cursor import Cursor
from penstock._tasks.clock import now
from penstock._tasks.committing.committer import Committer
from penstock._tasks.committing.dead_letter_writer import DeadLetterWriter
from penstock._tasks.committing.floor_tracker import FloorTracker
from penstock._tasks.committing.ripener import ripen
from penstock._tasks.committing.timers import bring_back
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.group import Membership
from penstock._tasks.handling.abandoned import Abandoned
from penstock._tasks.handling.catch_up import CatchUp
from penstock._tasks.handling.checkouts import Checkouts
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.handling.failures import FailureHandler
from penstock._tasks.handling.poison_guard import poison_guard
from penstock._tasks.handling.transactions import applier
from penstock._tasks.handling.worker import WorkerContext
from penstock._tasks.handling.worker_pool import RunOptions, WorkerPool
from penstock._tasks.leases.claimer import Claimer
from penstock._tasks.leases.delivery_counts import DeliveryCounts
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.release import TOO_LATE, Limits, give_back
from penstock._tasks.lifetime import (
    Lifetime,
    LoopBinding,
    quietly,
    seen_through,
    task_group,
)
from penstock._tasks.reading.assignment import Assignment
from penstock._tasks.reading.reader import Reader
from penstock._tasks.reading.reader_pool import Readers
from penstock._tasks.reading.seek import seek
from penstock._tasks.reading.shard_discovery import ShardDiscovery
from penstock._tasks.reading.silence import SilenceWatch, patience
from penstock._tasks.reporting import paced
from penstock._tasks.startup import patiently
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import (
    ClosedError,
    ConfigurationError,
    ConnectionLost,
    UsageError,
)
from penstock.events import Event
from penstock.message import EntryId, Shard
from penstock.options import AutoCommit, Mode, Start

__all__ = ["Session", "open_session"]

T = TypeVar("T")


class Session(Generic[T]):
    """The running parts of an open consumer.

    Args:
        plan: What it is to be.
        link: The server.
        line: The command connection.
        group: For the tasks.
    """

    def __init__(
        self,
        plan: ConsumerConfig[T],
        link: Connector,
        line: CommandConnection,
        group: anyio.abc.TaskGroup,
    ) -> None:
        self._plan = plan
        self._group = group
        self._link = link
        self._line = line
        self._outcomes = AutoResetEvent()
        # Held while outcomes are on their way to the server, and while none may be.
        self._sending = asyncio.Lock()
        self.ledger = self._make_ledger()
        self._postponed = AutoResetEvent()
        self._handed_out = AutoResetEvent()
        delayed = plan.policy is AutoCommit.DELAYED
        self._delay = DelayedAcks(plan.commit_delay) if delayed else None
        # Of what goes by time, to be ended.
        self._clocks: list[anyio.CancelScope] = []
        self._claims = OwnClaims(plan.member) if plan.member else None
        self._attempts = DeliveryCounts(
            line,
            self._claims,
            self.ledger,
            lease=plan.lease,
            once=plan.retry is not None and plan.retry.max_attempts == 1,
            settle=self._settle,
            on_lost=self._outcomes.ring,
            on_event=plan.on_event,
        )
        line.on_restored = self._on_restored
        self._guard = poison_guard()
        self.intake = EntryQueue(
            self.ledger,
            self._outcomes.ring,
            self._attempts.begin,
            self._guard,
            lease=plan.lease,
            confirms=plan.policy is not AutoCommit.DISABLED,
            delay=self._delay,
            handed_out=self._handed_out,
            check=LoopBinding("consumer").check,
        )
        self._verdicts = FailureHandler(
            self.ledger,
            plan.retry,
            plan.instead,
            on_stop=self.intake.stop,
            on_event=plan.on_event,
        )
        self._applier = applier(plan, line, self.ledger, self._verdicts)
        self._desk = self._make_desk(Settler)
        self._ack = plan.policy is AutoCommit.PROCESSED
        self.hands = self._make_hands()
        self._scout = ShardDiscovery(line.calls, plan.on_event)
        self.assignment = Assignment(plan, line, self.ledger, self._scout, self._claims)
        self.readers = Readers(
            link,
            self.assignment.cursors,
            room=self._room,
            spawn=self._spawn,
            make=self._make_reader,
        )
        self._committer = self._make_committer()
        self._silence = self._make_silence_watch()
        self._claimer: Claimer | None = None
        self._crew: WorkerPool[T] = WorkerPool(plan, self.ledger, self._bench)
        # What `until_caught_up` waits for.
        self._goals: set[CatchUp] = set()
        if self._committer is not None:
            self._committer.on_round = self._on_round
        # How long each step of closing may take; None until it begins.
        self._limits: Limits | None = None
        self._alarm: asyncio.TimerHandle | None = None
        # What was let go and is still to be given back, of shards read no more.
        self._released: list[Released] = []

    def _room(self, now: float, left: int) -> int:
        """Give how many entries may be read now; see `Readers`.

        What was left of the room is filled, though it may be little by now.
        """
        if self._silence is not None and self._silence.holds():
            return 0
        return self.ledger.room(now) or min(left, self.ledger.fits)

    def _ring_readers(self) -> None:
        self.readers.room_again()
        self.intake.give_way()
        if self._claimer is not None:
            self._claimer.room_again()

    def _ring_committer(self) -> None:
        self._outcomes.ring()
        self.intake.give_way()

    def _on_ready(self) -> None:
        self.intake.arrived(1)

    def _on_exhausted(self, entry: Entry) -> None:
        self._verdicts.exhausted(entry)

    def _on_restored(self) -> None:
        self._attempts.restored()
        self.intake.arrived(self.ledger.queued)

    def _on_renewed(self) -> None:
        # Workers may have been held up until it was known what is still ours.
        self.intake.arrived(self.ledger.queued)

    def _make_ledger(self) -> Ledger:
        plan = self._plan
        most, pending = plan.prefetch.max_messages, plan.commit_max_pending
        # Under DISABLED it is the user who decides how much waits.
        on_demand = plan.policy is AutoCommit.DISABLED
        return Ledger(
            PrefetchWindow(most, plan.prefetch.max_bytes, plan.max_wait),
            max_pending=pending,
            max_uncommitted=None if on_demand else most + 10 * pending,
            max_attempts=plan.retry.max_attempts if plan.retry else None,
            lease=plan.lease,
            acks=plan.acks,
            # One consumer, one message after the other: an outage is no reason to
            # hand them out in another order.
            strict=plan.mode is Mode.RESUMABLE,
            on_room=self._ring_readers,
            on_outcomes=self._ring_committer,
            on_ready=self._on_ready,
            on_postponed=self._on_postponed,
            on_exhausted=self._on_exhausted,
        )

    def _on_postponed(self) -> None:
        self._postponed.ring()

    def _make_desk(self, kind: type[Settler[T]]) -> Settler[T]:
        home = threading.get_ident()
        return kind(
            self.ledger,
            self._plan.codec,
            self._verdicts,
            max_message_bytes=self._plan.max_message_bytes,
            no_ack=self._plan.no_ack,
            at_home=lambda: threading.get_ident() == home,
            transactions=self._applier,
        )

    def _make_hands(self) -> Checkouts[T]:
        plan = self._plan
        group = plan.member.group if plan.member else ""
        abandoned = Abandoned(group, plan.lease, plan.on_event)
        return Checkouts(self.intake, self.ledger, self._desk, abandoned, ack=self._ack)

    def _make_committer(self) -> Committer | None:
        plan = self._plan
        claims = self._claims
        if plan.member is None or claims is None or not plan.acks:
            return None
        on_demand = plan.policy is AutoCommit.DISABLED
        return Committer(
            self._line,
            ledger=self.ledger,
            member=plan.member,
            claims=claims,
            lease=plan.lease,
            on_renewed=self._on_renewed,
            interval=None if on_demand else plan.commit_interval,
            outcomes=self._outcomes,
            sending=self._sending,
            burial=self._make_burial(plan.member),
            sounding=FloorTracker(
                self._line,
                plan.member,
                self.assignment.cursors,
                self.readers.room_again,
            ),
            on_event=plan.on_event,
        )

    def _make_silence_watch(self) -> SilenceWatch | None:
        plan = self._plan
        if plan.member is None or not plan.acks:
            return None
        return SilenceWatch(
            self._line,
            plan.member,
            lease=plan.lease,
            on_end=self._ring_readers,
            on_event=plan.on_event,
        )

    def _make_burial(self, member: Membership) -> DeadLetterWriter | None:
        plan = self._plan
        if plan.retry is None or plan.instead is not None:
            return None
        return DeadLetterWriter(
            self._line,
            self.ledger,
            member,
            plan.dead_letters,
            sending=self._sending,
            on_event=plan.on_event,
        )

    def _make_claimer(self, member: Membership, claims: OwnClaims) -> Claimer:
        plan = self._plan
        return Claimer(
            self._line,
            fetch=self.readers.fetch,
            ledger=self.ledger,
            intake=self.intake,
            member=member,
            claims=claims,
            cursors=self.assignment.cursors,
            lease=plan.lease,
            interval=plan.claim_interval,
            on_event=plan.on_event,
        )

    def _make_reader(self, wire: Connection, cursor: Cursor) -> Reader:
        return Reader(
            wire,
            self._link,
            cursor=cursor,
            ledger=self.ledger,
            intake=self.intake,
            member=self._plan.member,
            claims=self._claims,
            lease=self._plan.lease,
            room=self.readers.room,
            part=self.readers.part,
            unblock=self._unblock,
            on_recovered=self._on_recovered,
            on_event=self._plan.on_event,
        )

    async def start(self, deadline: float) -> None:
        """Fix the position and start the tasks.

        Args:
            deadline: Until when it is tried, by the monotonic clock.
        """
        plan = self._plan
        await patiently(self._line, deadline, self.assignment.open)
        wire = await patiently(self._line, deadline, self._link.connect)
        self.readers.start(wire, self.assignment.cursors.all[0])
        if self._committer and plan.member and self._claims:
            self._spawn(self._committer.run)
            self._claimer = self._make_claimer(plan.member, self._claims)
            self._spawn(self._claimer.run)
            again = partial(bring_back, self.ledger, self._postponed)
            self._spawn(
                partial(self._until_closed, partial(again, self.intake.arrived))
            )
        if self._silence is not None:
            self._spawn(partial(self._until_closed, self._silence.run))
        if self._delay is not None:
            due = partial(ripen, self._delay, self.ledger, self._handed_out)
            self._spawn(partial(self._until_closed, due))
        self.assignment.readers, self.assignment.claimer = self.readers, self._claimer
        looks = partial(self._scout.run, self.assignment.appeared, self._line.restore)
        self._spawn(looks)
        if self.assignment.wrong is not None:
            self.intake.fail(self.assignment.wrong)
        self._guard.join(self.intake)

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the background; should it fail, everything is closed."""
        self._group.start_soon(self._in_background, work)

    async def _in_background(self, work: Callable[[], Awaitable[None]]) -> None:
        with quietly():
            try:
                await work()
            except asyncio.CancelledError:
                raise
            # SystemExit too, which would stop the event loop if it got out of a task.
            except BaseException as error:  # noqa: BLE001 - raised to whoever reads
                self.intake.crash(error)
                self._group.cancel_scope.cancel()

    async def _settle(self) -> None:
        if self._committer is not None:
            await self._committer.settle()

    def _on_recovered(self) -> None:
        self._attempts.count_again()
        if self._claimer is not None:
            self._claimer.look()

    async def _unblock(self, client: int) -> None:
        """Let the reader's blocked read go."""
        try:
            await self._line.calls([commands.client_unblock(client)])
        except ConnectionLost as error:
            # Then the readers' connections are as good as lost too.
            self.readers.abort(error.reason)

    async def _until_closed(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something in the background until everything has been closed in order."""
        with anyio.CancelScope(shield=True) as scope:
            self._clocks.append(scope)
            await work()

    async def seek(self, place: Start | EntryId, stream: str | None) -> None:
        """Go on at a place."""
        plan, shards = self._plan, self.assignment.cursors.shards
        if stream is not None and stream not in {shard.stream for shard in shards}:
            raise ConfigurationError(
                f"{stream!r:.80} is not read; `consumer.shards` tells what is"
            )
        if plan.mode is Mode.LOAD_BALANCED:
            raise UsageError(
                "seek() would move the position of all consumers of the group; to do "
                "just that, use admin.reset_group(stream, group, to)"
            )

        async def errand(wire: Connection, cursor: Cursor) -> None:
            positions = [
                position
                for position in cursor.positions
                if stream is None or position.shard.stream == stream
            ]
            describer, member = self.assignment.describer, plan.member
            async with self._sending:
                await seek(
                    wire, self.ledger, member, positions, place, describer=describer
                )

        await self.readers.between_reads(errand)

    async def run(self, job: RunOptions, *, until_caught_up: bool) -> None:
        """Have messages handled until the consumer closes, or all there is now is."""
        self.hands.come_back_here()
        if not until_caught_up:
            await self._crew.run(job)
            return
        async with self.catching_up() as goal:
            await self._crew.run(job, goal)

    @asynccontextmanager
    async def catching_up(self) -> AsyncIterator[CatchUp]:
        """Know in a block whether all that was there when it began has been handled.

        Raises:
            PenstockError: The server refuses to tell.
        """
        goal = self.goal()
        await goal.begin()
        self.watch(goal)
        try:
            yield goal
        finally:
            goal.stop()
        if goal.error is not None:
            raise goal.error

    def goal(self) -> CatchUp:
        """Return a goal that is still to begin."""
        plan = self._plan
        return CatchUp(
            self._line,
            self.ledger,
            self.assignment.cursors,
            plan.member,
            acks=plan.acks,
            on_demand=plan.policy is AutoCommit.DISABLED,
            on_reached=self.intake.wake_all,
        )

    def watch(self, goal: CatchUp) -> None:
        """Watch a goal in the background, until it is reached or stopped."""
        self._goals.add(goal)
        self._group.start_soon(self._watch, goal)

    async def _watch(self, goal: CatchUp) -> None:
        try:
            await goal.watch()
        finally:
            self._goals.discard(goal)

    def _on_round(self) -> None:
        for goal in self._goals:
            goal.look()

    def _bench(self, kind: type[Settler[T]]) -> WorkerContext:
        desk = self._make_desk(kind)
        return WorkerContext(self.intake, self.ledger, desk, self._verdicts, self._ack)

    async def commit(self) -> None:
        """Wait until what is acknowledged by now is on the server."""
        if self._committer is not None:
            await self._committer.flush()

    def shut(self) -> None:
        """Hand out nothing more: loops end, and handlers that have started finish."""
        self.intake.close()

    def close_when_idle(self, leave: Callable[[asyncio.Task[Any]], None]) -> bool:
        """Have a handler that closes its own consumer not wait for itself.

        Args:
            leave: Called with the task that called `run`, when handlers have ended.

        Returns:
            Whether the caller is a handler, or a task or thread that one has started.
        """
        if not self._crew.is_inside():
            return False
        self._crew.on_idle = leave
        return True

    async def close(self, leaving: asyncio.Task[Any] | None) -> None:
        """End everything in order, in `close_timeout`.

        It may be cancelled and called again: it goes on where it was.

        Args:
            leaving: The task that leaves the consumer cleanly; None if it does not.
        """
        self.shut()
        if self._limits is None:
            self._limits = limits = Limits.of(
                time.monotonic(), self._plan.close_timeout
            )
            # Whatever waits for the server then, waits no longer.
            self._alarm = asyncio.get_running_loop().call_later(
                limits.end - time.monotonic(), self._link.abort, TOO_LATE
            )
        try:
            await self._close(leaving, self._limits)
        except asyncio.CancelledError:
            raise  # it will be called again
        except BaseException:
            self._cut()
            raise
        self._cut()

    def closed(self) -> None:
        """Note that the last connection has been closed."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _cut(self) -> None:
        """End what is left in the background."""
        for clock in self._clocks:
            clock.cancel()
        for goal in self._goals:
            goal.stop()
        for each in (self._scout, self._claimer, self.readers, self._committer):
            if each is not None:
                each.cut()
        self._guard.leave(self.intake)
        self.ledger.close()

    async def _close(self, leaving: asyncio.Task[Any] | None, limits: Limits) -> None:
        """End the tasks, in order.

        Args:
            leaving: The task that leaves the consumer cleanly; None if it does not.
            limits: How long each step may take.
        """
        # Leases matter no more, and what is on its way may come through.
        self._line.relax()
        self._scout.cut()
        async with task_group() as both:
            both.start_soon(self._stop_reading, limits)
            both.start_soon(self._crew.dismiss, limits.handlers, limits.cancelled)
        self.hands.let_go(leaving)
        if self._delay is not None:
            # Left cleanly, all that was handed out counts as due.
            for entry in self._delay.ripe(math.inf if leaving else now()):
                self.ledger.ack(entry)
        await self._end_group(limits)
        if self._plan.noack and self.ledger.queued:
            facts = {"messages": self.ledger.queued}
            self._plan.on_event(Event("dropped", facts=facts))

    async def _stop_reading(self, limits: Limits) -> None:
        every: list[Readers | Claimer] = [self.readers]
        every += [self._claimer] if self._claimer is not None else []
        with _until(limits.reading):
            async with task_group() as all_:
                for each in every:
                    all_.start_soon(each.stop)
        with _until(limits.end):
            for each in every:
                each.cut()
                await each.ended()

    async def _end_group(self, limits: Limits) -> None:
        """Send every outcome, and give back the rest; report what could not be sent."""
        plan, committer, claims = self._plan, self._committer, self._claims
        if plan.member is None or committer is None or claims is None:
            return
        committer.hurry()
        if committer.ended:
            # Cancelled beside all other tasks by asyncio.run(), say.
            committer.revive()
            self._spawn(committer.run)
        strays = self._strays()
        if self.ledger.dying or strays:
            # Before the rest is released, and the dying with it; and what is listed as
            # pending then must not be what waits to be acknowledged.
            with _until(limits.letters):
                await self._flush()
        dying = self.ledger.dying
        self._released += self.ledger.release()
        with _until(limits.end):
            # Both write at once, so it takes one round trip.
            async with task_group() as both:
                both.start_soon(self._flush)
                both.start_soon(self._give_back, plan.member, claims, strays)
        self._report(dying)

    async def _flush(self) -> None:
        if self._committer is not None:
            with suppress(ClosedError):  # it has failed, which is raised
                await self._committer.flush()

    def _strays(self) -> Sequence[Shard]:
        """Return the shards of which entries may have come that were never booked."""
        claimer = self._claimer
        if self.readers.stranded or (claimer is not None and claimer.stranded):
            return self.assignment.cursors.shards
        return ()

    async def _give_back(
        self, member: Membership, claims: OwnClaims, strays: Sequence[Shard]
    ) -> None:
        await give_back(
            self._line,
            claims,
            self._released,
            member,
            idle=self._plan.lease,
            strays=strays,
            on_event=self._plan.on_event,
        )
        self._released.clear()

    def _report(self, dying: int) -> None:
        tell, uncommitted = self._plan.on_event, self.ledger.uncommitted
        if uncommitted or dying:
            facts: dict[str, object] = {"uncommitted": uncommitted, "dying": dying}
            tell(Event("close_incomplete", facts=facts))
        if self._released:
            messages = sum(len(ids) for _, _, ids in self._released)
            facts = {"messages": messages, "reason": TOO_LATE}
            tell(Event("not_given_back", facts=facts))
            self._released.clear()


def _until(deadline: float) -> anyio.CancelScope:
    """Bound a block by a time of the monotonic clock."""
    return anyio.move_on_after(deadline - time.monotonic())


@asynccontextmanager
async def open_session(
    plan: ConsumerConfig[T], lifetime: Lifetime[Session[T]]
) -> AsyncIterator[Session[T]]:
    """Open a consumer's session and close it again.

    Raises:
        PenstockError: It can't be opened, or reading failed for good and nobody has
            been told yet.
    """
    plan = replace(plan, on_event=paced(plan.on_event))
    deadline = time.monotonic() + plan.open_timeout
    async with open_connector(plan.url, plan.on_event) as link:
        bearable = patience(plan.lease) if plan.acks else math.inf
        line = CommandConnection(link, await link.first(plan.open_timeout), bearable)
        try:
            async with task_group() as group:
                session = Session(plan, link, line, group)
                await session.start(deadline)
                try:
                    yield session
                finally:
                    end = partial(session.close, lifetime.leaving)
                    await seen_through(end)
        finally:
            with anyio.CancelScope(shield=True):
                await line.aclose()
        session.closed()
    session.intake.raise_untold()
