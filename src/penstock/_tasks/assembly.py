"""Assembly of a consumer: its parts, and the signals between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, TypeVar

from penstock._connection.command_connection import CommandConnection
from penstock._connection.connection import Connection
from penstock._connection.reading_connection import ReadingConnection
from penstock._connection.reconnect import Connector
from penstock._core.handling.settlement import Identity, Settler
from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.limits import LedgerLimits, LedgerSignals
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.protocol import commands
from penstock._core.reading.cursor import Cursor
from penstock._tasks.committing.acks import Acks, PlainAcks
from penstock._tasks.committing.committer import CommitPace, Committer
from penstock._tasks.committing.dead_letter_writer import DeadLetterWriter
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.fencing import SHARED, Fencing
from penstock._tasks.group import FloorTracker, Membership
from penstock._tasks.handling.abandoned import Abandoned
from penstock._tasks.handling.batch_relay import create_batch_relay
from penstock._tasks.handling.checkouts import Checkouts
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.handling.failures import FailureHandler
from penstock._tasks.handling.poison_guard import poison_guard
from penstock._tasks.handling.transactions import Applier, create_applier
from penstock._tasks.handling.worker import WorkerContext
from penstock._tasks.handling.worker_pool import WorkerPool
from penstock._tasks.leases.claimer import Claimer
from penstock._tasks.leases.delivery_counts import DeliveryCounts
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.loop_binding import LoopBinding
from penstock._tasks.ownership.assembly import (
    OwnershipParts,
    make_owned_streams,
    with_owned_shards,
)
from penstock._tasks.ownership.guarded_writes import GuardedAcks, GuardedClaims
from penstock._tasks.ownership.owned_shards import OwnedMembership
from penstock._tasks.ownership.owned_streams import OwnedStreams
from penstock._tasks.parts import GroupParts, Parts
from penstock._tasks.reading.assignment import Assignment
from penstock._tasks.reading.read_budget import ReadBudget
from penstock._tasks.reading.read_fence import ReadFence
from penstock._tasks.reading.reader import Reader, ReaderHooks
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock._tasks.reading.shard_records import ShardRecords
from penstock._tasks.reading.silence import SilenceWatch
from penstock._tasks.signals import Signals
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ConnectionLost
from penstock.message import Shard
from penstock.options import AutoCommit, Mode

__all__ = ["assemble"]

T = TypeVar("T")


def assemble(
    config: ConsumerConfig[T],
    connector: Connector,
    connection: CommandConnection,
    spawn: Callable[[Callable[[], Awaitable[None]]], None],
) -> Parts[T]:
    """Make the parts of a consumer, and connect their signals.

    Args:
        config: How the consumer is configured.
        connector: Makes connections for reading.
        connection: The command connection.
        spawn: Runs a task in the background.
    """
    return _Assembler(config, connector, connection, spawn).parts()


class _Assembler(Generic[T]):
    """Makes the parts one after the other; see `assemble`."""

    def __init__(
        self,
        config: ConsumerConfig[T],
        connector: Connector,
        connection: CommandConnection,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._config = config = with_owned_shards(config)
        self._connector = connector
        self._connection = connection
        self._on_demand = config.policy is AutoCommit.DISABLED
        self._signals = Signals()
        self._outcomes = AutoResetEvent()
        self._handed_out = AutoResetEvent()
        self._send_lock = asyncio.Lock()
        self._claims = _claims_of(config.member)
        self._streams: OwnedStreams | None = None
        self._committer: Committer | None = None
        self._silence: SilenceWatch | None = None
        self._delayed_acks: DelayedAcks | None = None
        if config.policy is AutoCommit.DELAYED:
            self._delayed_acks = DelayedAcks(config.commit_delay, self._handed_out.set)
        self._ledger = self._make_ledger()
        self._counts = self._make_counts()
        self._entry_queue = self._make_entry_queue()
        self._failures = FailureHandler(
            self._ledger,
            config.retry,
            config.dead_letter_policy,
            at_most_once=config.noack,
            delays=config.nack_delays,
            on_stop=self._entry_queue.gate.stop,
            on_event=config.on_event,
        )
        self._applier: Applier | None = create_applier(
            config,
            connection,
            self._ledger,
            self._failures,
            on_gone=self._on_gone,
            fencing=_fencing_of(config.member),
            server=connector.address.endpoint.place,
        )
        self._batches = create_batch_relay(
            config,
            connection,
            self._ledger,
            on_gone=self._on_gone,
            fencing=_fencing_of(config.member),
        )
        self._shard_records = ShardRecords(
            connection.calls,
            config.on_event,
            search=config.search,
            create=config.member is None or config.member.mkstream,
        )
        self._assignment = Assignment(
            config, connection, self._ledger, self._shard_records, self._claims
        )
        self._read_budget = ReadBudget(self._ledger.flow, self._is_suspended)
        self._readers = ReaderPool(
            connector,
            self._assignment.cursors,
            spawn=spawn,
            make=self._make_reader,
        )

    def parts(self) -> Parts[T]:
        """Make what is left, and connect the signals."""
        group = self._make_group()
        if group is not None:
            self._streams = self._make_streams(group)
        self._connect(group)
        self._assignment.readers = self._readers
        self._assignment.claimer = group.claimer if group else None
        return Parts(
            ledger=self._ledger,
            failures=self._failures,
            entry_queue=self._entry_queue,
            checkouts=self._make_checkouts(),
            worker_pool=WorkerPool(self._config, self._ledger, self._make_context),
            shard_records=self._shard_records,
            assignment=self._assignment,
            readers=self._readers,
            send_lock=self._send_lock,
            signals=self._signals,
            delayed_acks=self._delayed_acks,
            handed_out=self._handed_out,
            group=group,
            streams=self._streams,
        )

    def _connect(self, group: GroupParts | None) -> None:
        signals, queue = self._signals, self._entry_queue

        def look() -> None:
            # Callers may have been held until it was known what is still ours.
            queue.waiters.notify_ready(self._ledger.work.length)

        signals.capacity.connect(self._read_budget.resume, queue.end_turn)
        signals.outcomes.connect(self._outcomes.set, queue.end_turn)
        signals.ready.connect(lambda: queue.waiters.notify_ready(1))
        signals.restored.connect(self._counts.restored, look)
        signals.renewed.connect(look)
        signals.recovered.connect(self._counts.count_again)
        self._connection.on_restored = signals.restored
        if group is not None:
            if group.claimer is not None:
                signals.capacity.connect(group.claimer.resume)
                signals.recovered.connect(group.claimer.search_now)
            signals.postponed.connect(group.postponed.set)
            group.committer.on_round = signals.sent

    def _make_ledger(self) -> Ledger:
        config, signals = self._config, self._signals
        most, pending = config.prefetch.max_messages, config.commit_max_pending
        return Ledger(
            PrefetchWindow(most, config.prefetch.max_bytes, config.max_wait),
            LedgerLimits(
                max_pending=pending,
                # Under DISABLED it is the user who decides how much waits.
                max_uncommitted=None if self._on_demand else most + 10 * pending,
                max_attempts=config.retry.max_attempts if config.retry else None,
                # An owned shard has a lease, its entries have none.
                lease=config.lease if config.ownership is None else inf,
                acknowledges=config.acknowledges,
                # One consumer, one message after the other: an outage is no reason to
                # hand them out in another order.
                strict=config.mode is Mode.RESUMABLE,
            ),
            LedgerSignals(
                on_capacity=signals.capacity,
                on_outcomes=signals.outcomes,
                on_ready=signals.ready,
                on_postponed=signals.postponed,
                on_exhausted=self._exhausted,
            ),
        )

    def _exhausted(self, entry: Entry) -> None:
        self._failures.exhausted(entry)

    def _make_counts(self) -> DeliveryCounts:
        config = self._config

        async def settle() -> None:
            if self._committer is not None:
                await self._committer.flush_once()

        return DeliveryCounts(
            self._connection,
            self._claims,
            self._ledger,
            single_attempt=config.retry is not None and config.retry.max_attempts == 1,
            settle=settle,
            on_lost=self._outcomes.set,
            on_event=config.on_event,
        )

    def _make_entry_queue(self) -> EntryQueue:
        config = self._config
        return EntryQueue(
            self._ledger,
            self._outcomes.set,
            self._counts.begin,
            poison_guard(),
            lease=config.lease,
            confirms=not self._on_demand,
            delay=self._delayed_acks,
            check=LoopBinding("consumer").check,
        )

    def _make_settler(self, kind: type[Settler[T]]) -> Settler[T]:
        thread = threading.get_ident()
        return kind(
            self._ledger,
            self._config.codec,
            self._failures,
            max_message_bytes=self._config.max_message_bytes,
            why_no_ack=self._config.why_no_ack,
            on_loop_thread=lambda: threading.get_ident() == thread,
            transactions=self._applier,
            field=self._config.payload_field,
            batches=self._batches,
            identity=self._identity(),
        )

    def _identity(self) -> Identity:
        member = self._config.member
        host, port = self._connector.address.endpoint.place or ("", 0)
        return Identity(
            member.group if member else "",
            member.name if member else "",
            host,
            port,
        )

    def _make_checkouts(self) -> Checkouts[T]:
        config = self._config
        group = config.member.group if config.member else ""
        over = [self._streams.abandoned] if self._streams else []
        return Checkouts(
            self._entry_queue,
            self._ledger,
            self._make_settler(Settler),
            Abandoned(group, config.lease, config.on_event, *over),
            ack=config.policy is AutoCommit.PROCESSED,
            meter=config.meter,
        )

    def _make_context(self, kind: type[Settler[T]]) -> WorkerContext:
        return WorkerContext(
            self._entry_queue,
            self._ledger,
            self._make_settler(kind),
            self._failures,
            self._config.policy is AutoCommit.PROCESSED,
        )

    def _is_suspended(self) -> bool:
        return self._silence is not None and self._silence.is_suspended()

    def _make_reader(self, connection: Connection, cursor: Cursor) -> Reader:
        config = self._config
        return Reader(
            ReadingConnection(connection, self._connector, self._unblock),
            self._connector,
            cursor=cursor,
            ledger=self._ledger,
            entry_queue=self._entry_queue,
            claims=self._claims,
            budget=self._read_budget,
            hooks=ReaderHooks(
                split_by_slot=self._readers.split_by_slot,
                on_recovered=self._signals.recovered,
            ),
            on_event=config.on_event,
            fence=self._fence_of(cursor),
        )

    def _fence_of(self, cursor: Cursor) -> ReadFence | None:
        if self._streams is None:
            return None
        [shard] = cursor.shards
        return self._streams.owner_of(shard).fence()

    async def _unblock(self, client: int) -> None:
        """End a reader's blocked read."""
        try:
            await self._connection.calls([commands.client_unblock(client)])
        except ConnectionLost as error:
            # Then the readers' connections are as good as lost too.
            self._readers.abort(error.reason)

    def _make_group(self) -> GroupParts | None:
        config, member, claims = self._config, self._config.member, self._claims
        if member is None or claims is None or not config.acknowledges:
            return None
        self._committer = committer = self._make_committer(member, claims)
        if config.ownership is not None:
            return GroupParts(member, claims, committer, None, None, AutoResetEvent())
        self._silence = silence = SilenceWatch(
            self._connection,
            member,
            lease=config.lease,
            on_end=self._signals.capacity,
            on_event=config.on_event,
        )
        claimer = Claimer(
            self._connection,
            fetch=self._readers.fetch,
            ledger=self._ledger,
            waiters=self._entry_queue.waiters,
            claims=claims,
            cursors=self._assignment.cursors,
            interval=config.claim_interval,
            on_event=config.on_event,
        )
        return GroupParts(member, claims, committer, claimer, silence, AutoResetEvent())

    def _make_streams(self, group: GroupParts) -> OwnedStreams | None:
        return make_owned_streams(
            self._config,
            OwnershipParts(
                connector=self._connector,
                connection=self._connection,
                ledger=self._ledger,
                claims=group.claims,
                committer=group.committer,
                assignment=self._assignment,
                readers=self._readers,
                signals=self._signals,
                stop=self._entry_queue.gate.stop,
            ),
        )

    def _make_committer(self, member: Membership, claims: OwnClaims) -> Committer:
        config = self._config
        return Committer(
            self._connection,
            ledger=self._ledger,
            claims=claims,
            acks=_acks_of(member),
            pace=CommitPace(
                interval=None if self._on_demand else config.commit_interval,
                outcomes=self._outcomes,
                send_lock=self._send_lock,
            ),
            on_renewed=self._signals.renewed,
            dead_letter_writer=self._make_dead_letter_writer(member),
            floor_tracker=self._make_floor_tracker(member),
            on_event=config.on_event,
        )

    def _make_floor_tracker(self, member: Membership) -> FloorTracker:
        cursors, resume = self._assignment.cursors, self._readers.resume
        tracker = FloorTracker(self._connection, member, cursors, resume)
        self._refused = tracker.refused
        return tracker

    def _on_gone(self, shard: Shard) -> None:
        self._refused(shard)

    def _make_dead_letter_writer(self, member: Membership) -> DeadLetterWriter | None:
        config = self._config
        if config.retry is None or config.dead_letter_policy is not None:
            return None
        return DeadLetterWriter(
            self._connection,
            self._ledger,
            member,
            config.dead_letters,
            retention=config.dead_letter_retention,
            send_lock=self._send_lock,
            on_event=config.on_event,
            fencing=_fencing_of(member),
            on_written=self._failures.watches.written,
        )


def _fencing_of(member: Membership | None) -> Fencing:
    if isinstance(member, OwnedMembership):
        return Fencing(member.owned.fence, member.owned.outcome_fenced)
    return SHARED


def _claims_of(member: Membership | None) -> OwnClaims | None:
    if isinstance(member, OwnedMembership):
        return GuardedClaims(member)
    return None if member is None else OwnClaims(member)


def _acks_of(member: Membership) -> Acks:
    if isinstance(member, OwnedMembership):
        return GuardedAcks(member.owned)
    return PlainAcks(member.group)
