"""Session: a consumer from the open connection to the closed one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector, open_connector
from penstock._core.protocol.commands import Command
from penstock._core.reading.cursor import Cursor
from penstock._tasks.assembly import assemble
from penstock._tasks.closing import Closing
from penstock._tasks.committing.timers import ack_when_due, retry_when_due
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.handling.catch_up import CatchUp
from penstock._tasks.handling.worker_pool import RunOptions
from penstock._tasks.lifetime import Lifetime
from penstock._tasks.ownership.choice import with_ownership
from penstock._tasks.reading.seek import seek
from penstock._tasks.reading.silence import patience
from penstock._tasks.reporting import rate_limited
from penstock._tasks.startup import retrying
from penstock._tasks.task_scopes import quietly, shielded_until_done, task_group
from penstock.durations import seconds
from penstock.errors import ConfigurationError, UsageError
from penstock.options import AutoCommit, Mode, StartAt

__all__ = ["Session", "observers", "open_session"]

T = TypeVar("T")

observers: list[Callable[[Session[Any]], None]] = []
"""Called with each new session; `penstock.testing` records outcomes."""


class Session(Generic[T]):
    """The running parts of an open consumer.

    Args:
        config: How the consumer is configured.
        connector: Makes connections to the server.
        connection: The command connection.
        group: The task group of the consumer's tasks.

    Attributes:
        gate: Whether messages are handed out, and why no more come.
        parts: Its parts.
        ledger: The ledger.
        checkouts: Entries that calls and loops of the user have.
        assignment: Which shards are read.
        readers: Read the shards.
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
        self.parts = parts = assemble(config, connector, connection, self._spawn)
        self.gate = parts.entry_queue.gate
        self.ledger = parts.ledger
        self.checkouts = parts.checkouts
        self.assignment = parts.assignment
        self.readers = parts.readers
        self._closing = Closing(config, parts, connector, connection, self._spawn)
        # Scopes of tasks that go by time, which end last.
        self._clocks: list[anyio.CancelScope] = []
        # The goals of `until_caught_up` calls.
        # In the order in which they were set, unlike a set of objects.
        self._goals: dict[CatchUp, None] = {}
        parts.signals.sent.connect(self._on_sent)
        config.meter.opened(self.ledger, self.checkouts.held)
        for observe in observers:
            observe(self)

    async def start(self, deadline: float) -> None:
        """Fix the position and start the tasks.

        Args:
            deadline: The time until which it is tried, by the monotonic clock.
        """
        parts, assignment = self.parts, self.assignment
        await retrying(self._connection, deadline, assignment.open)
        if parts.streams is None:
            connect = self._connector.connect
            connection = await retrying(self._connection, deadline, connect)
            parts.readers.start(connection, assignment.cursors.all[0])
        if parts.group is not None:
            self._spawn(parts.group.committer.run)
            if parts.group.claimer is not None:
                self._spawn(parts.group.claimer.run)
            if parts.group.silence is not None:
                self._spawn_clock(parts.group.silence.run)
            self._spawn_clock(
                partial(
                    retry_when_due,
                    parts.ledger,
                    parts.group.postponed,
                    parts.entry_queue.waiters.notify_ready,
                )
            )
        if parts.delayed_acks is not None:
            self._spawn_clock(
                partial(
                    ack_when_due, parts.delayed_acks, parts.ledger, parts.handed_out
                )
            )
        self._spawn(
            partial(
                parts.shard_records.run, assignment.add_found, self._connection.restore
            )
        )
        if assignment.error is not None:
            parts.entry_queue.gate.fail(assignment.error)
        parts.entry_queue.guard_member.join()
        if parts.streams is not None:
            self._spawn(parts.streams.run)
            join = partial(parts.streams.open, assignment.found)
            await retrying(self._connection, deadline, join)

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the background; if it fails, everything is closed."""
        self._group.start_soon(self._in_background, work)

    def _spawn_clock(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the background until everything has been closed in order."""

        async def until_closed() -> None:
            with anyio.CancelScope(shield=True) as scope:
                self._clocks.append(scope)
                await work()

        self._spawn(until_closed)

    async def _in_background(self, work: Callable[[], Awaitable[None]]) -> None:
        with quietly():
            try:
                await work()
            except asyncio.CancelledError:
                raise
            # SystemExit too, which would stop the event loop if it got out of a task.
            except BaseException as error:  # noqa: BLE001 - raised to whoever reads
                self.gate.abort(error)
                self._group.cancel_scope.cancel()

    @property
    def silent_for(self) -> float:
        """Seconds for which the server has owed an answer; 0 if it owes none."""
        now = _clock.monotonic()
        return max(self.readers.silent_for(now), self._connection.silent_for(now))

    @property
    def server_version(self) -> str:
        """The version of the server; empty if it is not known."""
        return self._connector.server_version

    async def seek(self, place: StartAt, stream: str | None) -> None:
        """Go on at another place."""
        config, assignment = self._config, self.assignment
        shards = assignment.cursors.shards
        if config.mode is Mode.LOAD_BALANCED:
            raise UsageError(
                "seek() would move the position of all consumers of the group; if "
                "that is intended, use admin.reset_group(stream, group, to)"
            )
        if stream is not None and stream not in {shard.stream for shard in shards}:
            raise ConfigurationError(
                f"this consumer does not read {stream!r:.80}; `consumer.shards` lists "
                f"what it reads"
            )

        async def work(connection: Connection, cursor: Cursor) -> None:
            positions = [
                position
                for position in cursor.positions
                if stream is None or position.shard.stream == stream
            ]
            async with self.parts.send_lock:
                await seek(
                    connection,
                    self.ledger,
                    config.member,
                    positions,
                    place,
                    inspector=assignment.inspector,
                )

        await self.readers.between_reads(work)

    async def run(self, job: RunOptions, *, until_caught_up: bool) -> None:
        """Handle messages until the consumer closes, or has caught up."""
        self.checkouts.check_in_running_task()
        if not until_caught_up:
            await self.parts.worker_pool.run(job)
            return
        async with self.catching_up() as goal:
            await self.parts.worker_pool.run(job, goal)

    @asynccontextmanager
    async def catching_up(self) -> AsyncIterator[CatchUp]:
        """Watch in a block whether all messages that were there have been handled.

        Raises:
            PenstockError: The server refuses to say.
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
        """Return a goal that has not begun."""
        config, streams = self._config, self.parts.streams
        return CatchUp(
            self._connection,
            self.ledger,
            self.assignment.cursors,
            config.member,
            ownable=frozenset() if streams is None else streams.shards,
            acknowledges=config.acknowledges,
            replies_recorded=self.readers.replies_recorded,
            on_demand=config.policy is AutoCommit.DISABLED,
            on_reached=self.parts.entry_queue.waiters.wake_all,
        )

    def watch(self, goal: CatchUp) -> None:
        """Watch a goal in the background, until it is reached or stopped."""
        if not goal.reached:  # as it is if the consumer has closed meanwhile
            self._goals[goal] = None
            self._group.start_soon(self._watch, goal)

    async def _watch(self, goal: CatchUp) -> None:
        try:
            await goal.watch()
        finally:
            self._goals.pop(goal, None)

    def _on_sent(self) -> None:
        for goal in self._goals:
            goal.check_soon()

    @property
    def owns_shards(self) -> bool:
        """Whether shards are owned, and not shared."""
        return self.parts.streams is not None

    @property
    def owned(self) -> int:
        """How many shards the consumer owns."""
        streams = self.parts.streams
        return 0 if streams is None else streams.number

    async def ask(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands on the connection that acknowledges, and return the replies.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        return await self._connection.calls(batch)

    async def commit(self) -> None:
        """Wait until all that is acknowledged by now is on the server."""
        if self.parts.group is not None:
            await self.parts.group.committer.flush()

    def close_when_idle(self, leave: Callable[[asyncio.Task[Any]], None]) -> bool:
        """Close when handlers have ended, if one of them asks for it.

        A handler that closes its own consumer must not wait for itself.

        Args:
            leave: Called with the task that called `run`, when handlers have ended.

        Returns:
            Whether the caller is a handler, or a task or thread that one has started.
        """
        pool = self.parts.worker_pool
        if not pool.is_inside():
            return False
        pool.on_idle = leave
        return True

    async def close(self, leaving: asyncio.Task[Any] | None) -> None:
        """End everything in order, in `close_timeout`.

        It may be cancelled and called again: it goes on where it was.

        Args:
            leaving: The task that leaves the consumer cleanly; None if it does not.
        """
        self.gate.close()
        try:
            await self._closing.run(leaving)
        except asyncio.CancelledError:
            raise  # it will be called again
        except BaseException:
            self.cut()
            raise
        self.cut()

    def closed(self) -> None:
        """Record that the last connection has been closed."""
        self._closing.closed()

    def cut(self) -> None:
        """End what is left in the background."""
        parts = self.parts
        for clock in self._clocks:
            clock.cancel()
        for goal in self._goals:
            goal.stop()
        parts.shard_records.cut()
        parts.readers.cut()
        if parts.streams is not None:
            parts.streams.cut()
        if parts.group is not None:
            if parts.group.claimer is not None:
                parts.group.claimer.cut()
            parts.group.committer.cut()
        parts.entry_queue.guard_member.leave()
        parts.ledger.close()


@asynccontextmanager
async def open_session(
    config: ConsumerConfig[T], lifetime: Lifetime[Session[T]]
) -> AsyncIterator[Session[T]]:
    """Open a consumer's session and close it again.

    Raises:
        PenstockError: It can't be opened, or reading failed for good and that has not
            been raised yet.
    """
    config = replace(config, on_event=rate_limited(config.on_event))
    deadline = _clock.monotonic() + config.open_timeout
    owner = config.owner
    async with open_connector(
        config.url, config.on_event, config.credentials, **owner
    ) as connector:
        lease = config.lease
        if config.ownership is not None:
            lease = seconds(config.ownership.options.lease, "Owned(lease)")
        bearable = patience(lease) if config.acknowledges else math.inf
        connection = CommandConnection(
            connector, await connector.first(config.open_timeout), bearable
        )
        try:
            choose = partial(with_ownership, config, connection)
            config = await retrying(connection, deadline, choose)
            async with task_group() as group:
                session = Session(config, connector, connection, group)
                try:
                    await session.start(deadline)
                except BaseException:
                    session.cut()
                    raise
                try:
                    yield session
                finally:
                    end = partial(session.close, lifetime.closing_task)
                    await shielded_until_done(end)
        finally:
            with anyio.CancelScope(shield=True):
                await connection.aclose()
        session.closed()
    session.gate.raise_unreported()
