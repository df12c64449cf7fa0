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
from penstock._core.ledger.limits import Limits as LedgerLimits
from penstock._core.ledger.limits import Signals
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.removals import Released
from penstock._core.protocol import commands
from penstock._core.reading.cursor import Cursor
from penstock._tasks.clock import now
from penstock._tasks.committing.committer import Committer
from penstock._tasks.committing.dead_letter_writer import DeadLetterWriter
from penstock._tasks.committing.timers import ack_when_due, retry_when_due
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.group import FloorTracker, Membership
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
from penstock._tasks.leases.release import TOO_LATE, Limits, release_entries
from penstock._tasks.lifetime import (
    Lifetime,
    LoopBinding,
    quietly,
    shielded_until_done,
    task_group,
)
from penstock._tasks.reading.assignment import Assignment
from penstock._tasks.reading.reader import Reader
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock._tasks.reading.seek import seek
from penstock._tasks.reading.shard_discovery import ShardDiscovery
from penstock._tasks.reading.silence import SilenceWatch, patience
from penstock._tasks.reporting import paced
from penstock._tasks.startup import retrying
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
        connector: The server.
        connection: The command connection.
        group: For the tasks.
    """

    def __init__(
        self,
        config: ConsumerConfig[T],
        connector: Connector,
        connection: CommandConnection,
        group: anyio.abc.TaskGroup,
    ) -> None:
        self._config = config
        self._group = group
        self._connector = connector
        self._connection = connection
        self._outcomes = AutoResetEvent()
        # Held while outcomes are on their way to the server, and while none may be.
        self._sending = asyncio.Lock()
        self.ledger = self._make_ledger()
        self._postponed = AutoResetEvent()
        self._handed_out = AutoResetEvent()
        delayed = config.policy is AutoCommit.DELAYED
        self._delayed_acks = DelayedAcks(config.commit_delay) if delayed else None
        # Of what goes by time, to be ended.
        self._clocks: list[anyio.CancelScope] = []
        self._claims = OwnClaims(config.member) if config.member else None
        self._attempts = DeliveryCounts(
            connection,
            self._claims,
            self.ledger,
            lease=config.lease,
            once=config.retry is not None and config.retry.max_attempts == 1,
            settle=self._settle,
            on_lost=self._outcomes.ring,
            on_event=config.on_event,
        )
        connection.on_restored = self._on_restored
        self._guard = poison_guard()
        self.entry_queue = EntryQueue(
            self.ledger,
            self._outcomes.ring,
            self._attempts.begin,
            self._guard,
            lease=config.lease,
            confirms=config.policy is not AutoCommit.DISABLED,
            delay=self._delayed_acks,
            handed_out=self._handed_out,
            check=LoopBinding("consumer").check,
        )
        self._failure_handler = FailureHandler(
            self.ledger,
            config.retry,
            config.instead,
            on_stop=self.entry_queue.stop,
            on_event=config.on_event,
        )
        self._applier = applier(config, connection, self.ledger, self._failure_handler)
        self._settler = self._make_settler(Settler)
        self._ack = config.policy is AutoCommit.PROCESSED
        self.checkouts = self._make_checkouts()
        self._discovery = ShardDiscovery(connection.calls, config.on_event)
        self.assignment = Assignment(
            config, connection, self.ledger, self._discovery, self._claims
        )
        self.readers = ReaderPool(
            connector,
            self.assignment.cursors,
            budget=self._read_budget,
            spawn=self._spawn,
            make=self._make_reader,
        )
        self._committer = self._make_committer()
        self._silence = self._make_silence_watch()
        self._claimer: Claimer | None = None
        self._worker_pool: WorkerPool[T] = WorkerPool(
            config, self.ledger, self._context
        )
        # What `until_caught_up` waits for.
        self._goals: set[CatchUp] = set()
        if self._committer is not None:
            self._committer.on_round = self._on_round
        # How long each step of closing may take; None until it begins.
        self._limits: Limits | None = None
        self._alarm: asyncio.TimerHandle | None = None
        # What was let go and is still to be given back, of shards read no more.
        self._released: list[Released] = []

    def _read_budget(self, now: float, left: int) -> int:
        """Give how many entries may be read now; see `ReaderPool`.

        What was left of the room is filled, though it may be little by now.
        """
        if self._silence is not None and self._silence.is_suspended():
            return 0
        return self.ledger.flow.read_budget(now) or min(left, self.ledger.flow.fits)

    def _wake_readers(self) -> None:
        self.readers.resume()
        self.entry_queue.give_way()
        if self._claimer is not None:
            self._claimer.resume()

    def _wake_committer(self) -> None:
        self._outcomes.ring()
        self.entry_queue.give_way()

    def _on_ready(self) -> None:
        self.entry_queue.arrived(1)

    def _on_exhausted(self, entry: Entry) -> None:
        self._failure_handler.exhausted(entry)

    def _on_restored(self) -> None:
        self._attempts.restored()
        self.entry_queue.arrived(self.ledger.work.length)

    def _on_renewed(self) -> None:
        # Workers may have been held up until it was known what is still ours.
        self.entry_queue.arrived(self.ledger.work.length)

    def _make_ledger(self) -> Ledger:
        config = self._config
        most, pending = config.prefetch.max_messages, config.commit_max_pending
        # Under DISABLED it is the user who decides how much waits.
        on_demand = config.policy is AutoCommit.DISABLED
        return Ledger(
            PrefetchWindow(most, config.prefetch.max_bytes, config.max_wait),
            LedgerLimits(
                max_pending=pending,
                max_uncommitted=None if on_demand else most + 10 * pending,
                max_attempts=config.retry.max_attempts if config.retry else None,
                lease=config.lease,
                acks=config.acks,
                # One consumer, one message after the other: an outage is no reason to
                # hand them out in another order.
                strict=config.mode is Mode.RESUMABLE,
            ),
            Signals(
                on_capacity=self._wake_readers,
                on_outcomes=self._wake_committer,
                on_ready=self._on_ready,
                on_postponed=self._on_postponed,
                on_exhausted=self._on_exhausted,
            ),
        )

    def _on_postponed(self) -> None:
        self._postponed.ring()

    def _make_settler(self, kind: type[Settler[T]]) -> Settler[T]:
        home = threading.get_ident()
        return kind(
            self.ledger,
            self._config.codec,
            self._failure_handler,
            max_message_bytes=self._config.max_message_bytes,
            why_no_ack=self._config.why_no_ack,
            on_loop_thread=lambda: threading.get_ident() == home,
            transactions=self._applier,
        )

    def _make_checkouts(self) -> Checkouts[T]:
        config = self._config
        group = config.member.group if config.member else ""
        abandoned = Abandoned(group, config.lease, config.on_event)
        return Checkouts(
            self.entry_queue, self.ledger, self._settler, abandoned, ack=self._ack
        )

    def _make_committer(self) -> Committer | None:
        config = self._config
        claims = self._claims
        if config.member is None or claims is None or not config.acks:
            return None
        on_demand = config.policy is AutoCommit.DISABLED
        return Committer(
            self._connection,
            ledger=self.ledger,
            member=config.member,
            claims=claims,
            lease=config.lease,
            on_renewed=self._on_renewed,
            interval=None if on_demand else config.commit_interval,
            outcomes=self._outcomes,
            sending=self._sending,
            dead_letter_writer=self._make_dead_letter_writer(config.member),
            floor_tracker=FloorTracker(
                self._connection,
                config.member,
                self.assignment.cursors,
                self.readers.resume,
            ),
            on_event=config.on_event,
        )

    def _make_silence_watch(self) -> SilenceWatch | None:
        config = self._config
        if config.member is None or not config.acks:
            return None
        return SilenceWatch(
            self._connection,
            config.member,
            lease=config.lease,
            on_end=self._wake_readers,
            on_event=config.on_event,
        )

    def _make_dead_letter_writer(self, member: Membership) -> DeadLetterWriter | None:
        config = self._config
        if config.retry is None or config.instead is not None:
            return None
        return DeadLetterWriter(
            self._connection,
            self.ledger,
            member,
            config.dead_letters,
            sending=self._sending,
            on_event=config.on_event,
        )

    def _make_claimer(self, member: Membership, claims: OwnClaims) -> Claimer:
        config = self._config
        return Claimer(
            self._connection,
            fetch=self.readers.fetch,
            ledger=self.ledger,
            entry_queue=self.entry_queue,
            member=member,
            claims=claims,
            cursors=self.assignment.cursors,
            lease=config.lease,
            interval=config.claim_interval,
            on_event=config.on_event,
        )

    def _make_reader(self, connection: Connection, cursor: Cursor) -> Reader:
        return Reader(
            connection,
            self._connector,
            cursor=cursor,
            ledger=self.ledger,
            entry_queue=self.entry_queue,
            member=self._config.member,
            claims=self._claims,
            lease=self._config.lease,
            budget=self.readers.budget,
            split_by_slot=self.readers.split_by_slot,
            unblock=self._unblock,
            on_recovered=self._on_recovered,
            on_event=self._config.on_event,
        )

    async def start(self, deadline: float) -> None:
        """Fix the position and start the tasks.

        Args:
            deadline: Until when it is tried, by the monotonic clock.
        """
        config = self._config
        await retrying(self._connection, deadline, self.assignment.open)
        connection = await retrying(self._connection, deadline, self._connector.connect)
        self.readers.start(connection, self.assignment.cursors.all[0])
        if self._committer and config.member and self._claims:
            self._spawn(self._committer.run)
            self._claimer = self._make_claimer(config.member, self._claims)
            self._spawn(self._claimer.run)
            again = partial(retry_when_due, self.ledger, self._postponed)
            self._spawn(
                partial(self._until_closed, partial(again, self.entry_queue.arrived))
            )
        if self._silence is not None:
            self._spawn(partial(self._until_closed, self._silence.run))
        if self._delayed_acks is not None:
            due = partial(ack_when_due, self._delayed_acks, self.ledger)
            self._spawn(partial(self._until_closed, partial(due, self._handed_out)))
        self.assignment.readers, self.assignment.claimer = self.readers, self._claimer
        looks = partial(
            self._discovery.run, self.assignment.add_found, self._connection.restore
        )
        self._spawn(looks)
        if self.assignment.error is not None:
            self.entry_queue.fail(self.assignment.error)
        self._guard.join(self.entry_queue)

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
                self.entry_queue.crash(error)
                self._group.cancel_scope.cancel()

    async def _settle(self) -> None:
        if self._committer is not None:
            await self._committer.flush_once()

    def _on_recovered(self) -> None:
        self._attempts.count_again()
        if self._claimer is not None:
            self._claimer.search_now()

    async def _unblock(self, client: int) -> None:
        """Let the reader's blocked read go."""
        try:
            await self._connection.calls([commands.client_unblock(client)])
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
        config, shards = self._config, self.assignment.cursors.shards
        if stream is not None and stream not in {shard.stream for shard in shards}:
            raise ConfigurationError(
                f"{stream!r:.80} is not read; `consumer.shards` tells what is"
            )
        if config.mode is Mode.LOAD_BALANCED:
            raise UsageError(
                "seek() would move the position of all consumers of the group; to do "
                "just that, use admin.reset_group(stream, group, to)"
            )

        async def work(connection: Connection, cursor: Cursor) -> None:
            positions = [
                position
                for position in cursor.positions
                if stream is None or position.shard.stream == stream
            ]
            inspector, member = self.assignment.inspector, config.member
            async with self._sending:
                await seek(
                    connection,
                    self.ledger,
                    member,
                    positions,
                    place,
                    inspector=inspector,
                )

        await self.readers.between_reads(work)

    async def run(self, job: RunOptions, *, until_caught_up: bool) -> None:
        """Have messages handled until the consumer closes, or all there is now is."""
        self.checkouts.check_in_here()
        if not until_caught_up:
            await self._worker_pool.run(job)
            return
        async with self.catching_up() as goal:
            await self._worker_pool.run(job, goal)

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
        config = self._config
        return CatchUp(
            self._connection,
            self.ledger,
            self.assignment.cursors,
            config.member,
            acks=config.acks,
            on_demand=config.policy is AutoCommit.DISABLED,
            on_reached=self.entry_queue.wake_all,
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

    def _context(self, kind: type[Settler[T]]) -> WorkerContext:
        settler = self._make_settler(kind)
        return WorkerContext(
            self.entry_queue, self.ledger, settler, self._failure_handler, self._ack
        )

    async def commit(self) -> None:
        """Wait until what is acknowledged by now is on the server."""
        if self._committer is not None:
            await self._committer.flush()

    def shut(self) -> None:
        """Hand out nothing more: loops end, and handlers that have started finish."""
        self.entry_queue.close()

    def close_when_idle(self, leave: Callable[[asyncio.Task[Any]], None]) -> bool:
        """Have a handler that closes its own consumer not wait for itself.

        Args:
            leave: Called with the task that called `run`, when handlers have ended.

        Returns:
            Whether the caller is a handler, or a task or thread that one has started.
        """
        if not self._worker_pool.is_inside():
            return False
        self._worker_pool.on_idle = leave
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
                time.monotonic(), self._config.close_timeout
            )
            # Whatever waits for the server then, waits no longer.
            self._alarm = asyncio.get_running_loop().call_later(
                limits.end - time.monotonic(), self._connector.abort, TOO_LATE
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
        for each in (self._discovery, self._claimer, self.readers, self._committer):
            if each is not None:
                each.cut()
        self._guard.leave(self.entry_queue)
        self.ledger.close()

    async def _close(self, leaving: asyncio.Task[Any] | None, limits: Limits) -> None:
        """End the tasks, in order.

        Args:
            leaving: The task that leaves the consumer cleanly; None if it does not.
            limits: How long each step may take.
        """
        # Leases matter no more, and what is on its way may come through.
        self._connection.relax()
        self._discovery.cut()
        async with task_group() as both:
            both.start_soon(self._stop_reading, limits)
            both.start_soon(self._worker_pool.stop, limits.handlers, limits.cancelled)
        self.checkouts.let_go(leaving)
        if self._delayed_acks is not None:
            # Left cleanly, all that was handed out counts as due.
            for entry in self._delayed_acks.take_due(math.inf if leaving else now()):
                self.ledger.ack(entry)
        await self._end_group(limits)
        if self._config.noack and self.ledger.work.length:
            facts = {"messages": self.ledger.work.length}
            self._config.on_event(Event("dropped", facts=facts))

    async def _stop_reading(self, limits: Limits) -> None:
        every: list[ReaderPool | Claimer] = [self.readers]
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
        config, committer, claims = self._config, self._committer, self._claims
        if config.member is None or committer is None or claims is None:
            return
        committer.hurry()
        if committer.has_ended:
            # Cancelled beside all other tasks by asyncio.run(), say.
            committer.revive()
            self._spawn(committer.run)
        strays = self._strays()
        if self.ledger.acks.dead_lettering or strays:
            # Before the rest is released, and the dying with it; and what is listed as
            # pending then must not be what waits to be acknowledged.
            with _until(limits.dead_letters):
                await self._flush()
        dead_lettering = self.ledger.acks.dead_lettering
        self._released += self.ledger.removals.release()
        with _until(limits.end):
            # Both write at once, so it takes one round trip.
            async with task_group() as both:
                both.start_soon(self._flush)
                both.start_soon(self._release_entries, config.member, claims, strays)
        self._report(dead_lettering)

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

    async def _release_entries(
        self, member: Membership, claims: OwnClaims, strays: Sequence[Shard]
    ) -> None:
        await release_entries(
            self._connection,
            claims,
            self._released,
            member,
            idle=self._config.lease,
            stranded=strays,
            on_event=self._config.on_event,
        )
        self._released.clear()

    def _report(self, dead_lettering: int) -> None:
        tell, uncommitted = self._config.on_event, self.ledger.acks.uncommitted
        if uncommitted or dead_lettering:
            facts: dict[str, object] = {
                "uncommitted": uncommitted,
                "dying": dead_lettering,
            }
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
    config: ConsumerConfig[T], lifetime: Lifetime[Session[T]]
) -> AsyncIterator[Session[T]]:
    """Open a consumer's session and close it again.

    Raises:
        PenstockError: It can't be opened, or reading failed for good and nobody has
            been told yet.
    """
    config = replace(config, on_event=paced(config.on_event))
    deadline = time.monotonic() + config.open_timeout
    async with open_connector(config.url, config.on_event) as connector:
        bearable = patience(config.lease) if config.acks else math.inf
        connection = CommandConnection(
            connector, await connector.first(config.open_timeout), bearable
        )
        try:
            async with task_group() as group:
                session = Session(config, connector, connection, group)
                await session.start(deadline)
                try:
                    yield session
                finally:
                    end = partial(session.close, lifetime.leaving)
                    await shielded_until_done(end)
        finally:
            with anyio.CancelScope(shield=True):
                await connection.aclose()
        session.closed()
    session.entry_queue.raise_unreported()
