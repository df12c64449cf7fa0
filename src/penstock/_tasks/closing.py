"""Closing of a consumer: its parts end in order, within `close_timeout`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._connection.reconnect import Connector
from penstock._core.ledger.removals import Released
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.leases.claimer import Claimer
from penstock._tasks.leases.release import TOO_LATE, CloseDeadlines, release_entries
from penstock._tasks.ownership.owned_streams import OwnedStreams
from penstock._tasks.parts import GroupParts, Parts
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock._tasks.task_scopes import task_group
from penstock.errors import ClosedError
from penstock.events import Event
from penstock.message import Shard

__all__ = ["Closing"]

T = TypeVar("T")


class Closing(Generic[T]):
    """Ends the parts of a consumer in order.

    Args:
        config: How the consumer is configured.
        parts: The parts.
        connector: Its connections are aborted when the time is over.
        connection: The command connection.
        spawn: Runs a task in the background.
    """

    def __init__(
        self,
        config: ConsumerConfig[T],
        parts: Parts[T],
        connector: Connector,
        connection: CommandConnection,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._config = config
        self._parts = parts
        self._connector = connector
        self._connection = connection
        self._spawn = spawn
        # The deadline of each step; None until closing begins.
        self._deadlines: CloseDeadlines | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        # Entries that were released here, and that the server is still to be told.
        self._released: list[Released] = []

    async def run(self, leaving: asyncio.Task[Any] | None) -> None:
        """End the parts in order.

        It may be cancelled and called again: it goes on where it was.

        Args:
            leaving: The task that leaves the consumer cleanly; None if it does not.
        """
        deadlines = self._begin()
        parts = self._parts
        # Leases matter no more, and what is on its way may come through.
        self._connection.lift_patience()
        parts.shard_records.cut()
        if parts.streams is not None:
            parts.streams.close()
        async with task_group() as all_:
            all_.start_soon(self._stop_reading, deadlines)
            all_.start_soon(
                parts.worker_pool.stop, deadlines.handlers, deadlines.cancelled
            )
            if parts.streams is not None:
                all_.start_soon(self._wait_for_callers, parts.streams, leaving)
        parts.checkouts.close(leaving)
        if parts.delayed_acks is not None:
            # If it is left cleanly, all entries that were handed out count as due.
            due = math.inf if leaving else _clock.boottime()
            for entry in parts.delayed_acks.take_due(due):
                parts.ledger.ack(entry)
        if parts.group is not None:
            await self._end_group(parts.group, deadlines)
        dropped = parts.ledger.work.length
        if self._config.noack and dropped:
            self._config.on_event(Event("dropped", facts={"messages": dropped}))

    def _begin(self) -> CloseDeadlines:
        """Divide the time, once; when it is over, connections are aborted."""
        if self._deadlines is None:
            began = _clock.monotonic()
            self._deadlines = CloseDeadlines.of(began, self._config.close_timeout)
            self._abort_timer = asyncio.get_running_loop().call_later(
                self._deadlines.end - began, self._connector.abort, TOO_LATE
            )
        return self._deadlines

    def closed(self) -> None:
        """Record that the last connection has been closed."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    async def _stop_reading(self, deadlines: CloseDeadlines) -> None:
        group = self._parts.group
        every: list[ReaderPool | Claimer] = [self._parts.readers]
        if group is not None and group.claimer is not None:
            every.append(group.claimer)
        with _until(deadlines.reading):
            async with task_group() as all_:
                for each in every:
                    all_.start_soon(each.stop)
        with _until(deadlines.end):
            for each in every:
                each.cut()
                await each.ended()

    async def _wait_for_callers(
        self, streams: OwnedStreams, leaving: asyncio.Task[Any] | None
    ) -> None:
        """Wait until other callers have finished their messages of owned shards.

        The next owner of a shard starts its messages as soon as the shard is free. When
        a shard is given up all the same, its messages are lost here.
        """
        in_progress = partial(self._parts.checkouts.in_progress, leaving)
        with _until(self._begin().handlers):
            await streams.wait_while(in_progress)

    async def _end_group(self, group: GroupParts, deadlines: CloseDeadlines) -> None:
        """Send every outcome, release the rest, and report what could not be sent."""
        ledger, committer = self._parts.ledger, group.committer
        committer.hurry()
        if committer.has_ended:
            # Cancelled beside all other tasks, for example by asyncio.run().
            committer.revive()
            self._spawn(committer.run)
        stranded = self._stranded_shards(group)
        if ledger.acks.dead_lettering or stranded:
            # Before the rest is released, and entries that are being dead-lettered with
            # it. And what is listed as pending then must not be what waits to be
            # acknowledged.
            with _until(deadlines.dead_letters):
                await _flush(group)
        dead_lettering = ledger.acks.dead_lettering
        self._released += ledger.removals.release()
        with _until(deadlines.end):
            # Both write at once, so it takes one round trip.
            async with task_group() as both:
                both.start_soon(_flush, group)
                both.start_soon(self._release, group, stranded)
            if self._parts.streams is not None:
                await self._parts.streams.closed()
        self._report(dead_lettering)

    def _stranded_shards(self, group: GroupParts) -> Sequence[Shard]:
        """Return the shards of which entries may be pending that are unknown here."""
        if group.claimer is None:
            return ()  # what is pending is the next owner's, whatever its name
        found = [*group.claimer.stranded, *self._parts.readers.stranded]
        return list(dict.fromkeys(found))

    async def _release(self, group: GroupParts, stranded: Sequence[Shard]) -> None:
        given_back = await release_entries(
            self._connection,
            group.claims,
            self._released,
            group.member,
            idle=self._config.lease,
            stranded=stranded,
            on_event=self._config.on_event,
        )
        self._config.meter.given_back += given_back
        self._config.meter.left += _number_of(self._released) - given_back
        self._released.clear()

    def _report(self, dead_lettering: int) -> None:
        on_event, uncommitted = (
            self._config.on_event,
            self._parts.ledger.acks.uncommitted,
        )
        self._config.meter.left += uncommitted + _number_of(self._released)
        if uncommitted or dead_lettering:
            facts: dict[str, object] = {"uncommitted": uncommitted}
            facts["dying"] = dead_lettering
            on_event(Event("close_incomplete", facts=facts))
        if self._released:
            facts = {"messages": _number_of(self._released), "reason": TOO_LATE}
            on_event(Event("not_given_back", facts=facts))
            self._released.clear()
        if self._parts.streams is not None:
            self._parts.streams.report_unfreed()


def _number_of(released: Iterable[Released]) -> int:
    return sum(len(ids) for _, _, ids in released)


async def _flush(group: GroupParts) -> None:
    with suppress(ClosedError):  # it has failed, which is raised
        await group.committer.flush()


def _until(deadline: float) -> anyio.CancelScope:
    """Return a scope that ends at a time of the monotonic clock."""
    return anyio.move_on_after(deadline - _clock.monotonic())
