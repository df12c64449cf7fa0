"""Parts of a consumer: what its assembly makes, and its session starts and closes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.ledger import Ledger
from penstock._tasks.committing.committer import Committer
from penstock._tasks.group import Membership
from penstock._tasks.handling.checkouts import Checkouts
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.handling.failures import FailureHandler
from penstock._tasks.handling.worker_pool import WorkerPool
from penstock._tasks.leases.claimer import Claimer
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.ownership.owned_streams import OwnedStreams
from penstock._tasks.reading.assignment import Assignment
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock._tasks.reading.shard_records import ShardRecords
from penstock._tasks.reading.silence import SilenceWatch
from penstock._tasks.signals import Signals
from penstock._tasks.wakeups import AutoResetEvent

__all__ = ["GroupParts", "Parts"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GroupParts:
    """What only a consumer has that acknowledges.

    Attributes:
        member: What it is in its group.
        claims: Claims entries that are its own.
        committer: Sends outcomes.
        claimer: Claims entries of dead consumers; None where shards are owned.
        silence: Stops reading while the command connection does not answer; None where
            shards are owned.
        postponed: Set when the next retry is due earlier than before.
    """

    member: Membership
    claims: OwnClaims
    committer: Committer
    claimer: Claimer | None
    silence: SilenceWatch | None
    postponed: AutoResetEvent


@dataclass(frozen=True, slots=True)
class Parts(Generic[T]):
    """The parts of a consumer.

    Attributes:
        ledger: Holds the entries.
        failures: Decides about entries whose handlers failed.
        entry_queue: Where workers and calls get entries.
        checkouts: Entries that calls and loops of the user have.
        worker_pool: Runs handlers.
        shard_records: Finds shards.
        assignment: Which shards are read.
        readers: Read them.
        send_lock: Held while outcomes are on their way to the server, and while none
            may be sent.
        signals: Who is woken by what.
        delayed_acks: Entries that are acknowledged by time alone, under DELAYED.
        handed_out: Set when one of those was handed out.
        group: What only a consumer has that acknowledges; None for all others.
        streams: Own shards of each stream; None where shards are shared.
    """

    ledger: Ledger
    failures: FailureHandler
    entry_queue: EntryQueue
    checkouts: Checkouts[T]
    worker_pool: WorkerPool[T]
    shard_records: ShardRecords
    assignment: Assignment
    readers: ReaderPool
    send_lock: asyncio.Lock
    signals: Signals
    delayed_acks: DelayedAcks | None
    handed_out: AutoResetEvent
    group: GroupParts | None
    streams: OwnedStreams | None
