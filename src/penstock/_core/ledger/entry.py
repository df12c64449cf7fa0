"""Entries, and what is tracked for each shard."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, TypeAlias

from msgspec import Struct

from penstock._core.ledger.counters import Counters
from penstock._core.ledger.failure_policy import Disposition
from penstock._core.ledger.states import (
    QUEUED,
    TO_ACK,
    TRANSITIONS,
    UNCONFIRMED,
    UNSETTLED,
    IllegalTransition,
    State,
    Table,
)
from penstock.message import Shard

__all__ = [
    "SIZED_ABOVE",
    "Entry",
    "Lane",
    "ShardState",
    "ShardStates",
    "illegal",
    "move",
    "move_all",
]

# Bytes of a reply above which its entries know their own size. What is smaller as a
# whole has nothing large in it, and measuring each would cost more than recording it.
SIZED_ABOVE: Final = 1024 * 1024

Lane: TypeAlias = tuple[bytes, bytes | None, int]
"""A shard's key, the message's key where that orders too, and which order it was."""


class Entry(Struct, eq=False, gc=False):
    """One entry that the consumer holds.

    A msgspec struct, which is created in half the time of a class with slots. The
    garbage collector does not see it: its runs would cost more than creating it. The
    one cycle that it is in, by its shard's state, ends when it leaves the ledger.

    Attributes:
        shard_state: The state of its shard.
        id: Its id as the server wrote it.
        fields: Its field list; dropped with the outcome.
        size: Its bytes: its share of the reply that brought it, or its own size if the
            reply was larger than `SIZED_ABOVE`.
        deliveries: The number of the present attempt, or of the next one if no handler
            has it; for POSTPONED, of the one that failed.
        leased_at: The earliest time at which the server can have delivered it to us, or
            renewed its lease: when that was asked for, by the ledger's clock.
        state: Its state.
        lane: The entries that it has to be handled in order with; None for no order.
        suspected: Whether it is a possible poison message: another process, or an
            earlier one, had it, and its handler may have killed that process. The
            server has to confirm its start before it runs.
        probe: Whether it is suspected and on its last allowed attempt, which runs
            alone.
        hangs: Whether a handler has had it for so long that it is known not to kill.
        disposition: What becomes of it when its handler has finished, if it is not
            acknowledged; for TO_DEAD_LETTER, why.
        handler: The name of the handler that failed or refused it, where that is known.
        began_at: When the present attempt began, by the monotonic clock, if attempts
            are timed and its user has it; 0 otherwise.
    """

    shard_state: ShardState
    id: bytes
    fields: Sequence[bytes]
    size: int
    deliveries: int
    leased_at: float
    state: State = QUEUED
    lane: Lane | None = None
    suspected: bool = False
    probe: bool = False
    hangs: bool = False
    disposition: Disposition | None = None
    handler: str = ""
    began_at: float = 0.0

    @property
    def shard(self) -> Shard:
        """The shard it is from."""
        return self.shard_state.shard

    @property
    def epoch(self) -> int:
        """The number of the ownership of its shard; 0 if the shard is not owned."""
        return self.shard_state.epoch

    @property
    def unconfirmed(self) -> bool:
        """Whether it has an outcome that the server has not confirmed."""
        return self.state in UNCONFIRMED

    def __repr__(self) -> str:
        return f"<Entry {self.id!r} {self.state.name}>"


@dataclass(slots=True)
class ShardState:
    """What the ledger knows of one shard.

    Attributes:
        shard: The shard.
        entries: All entries that are held, by id, in the order of reading: the oldest
            is first.
        to_ack: Entries that are TO_ACK.
        to_dead_letter: Entries that are TO_DEAD_LETTER.
        deleted_ids: Pending ids whose entry is deleted from the stream, and that are to
            be acknowledged.
        deleted_in_flight: The same ids, until the server has confirmed that.
        still_running: Entries that a handler is running, and of which `entries` has a
            later delivery, by id.
        deferred: Those later deliveries, once it would have been their turn.
        pending_reads: Reads of pending entries, and claims, that are in progress.
        recently_acked: Ids whose acknowledgement was confirmed since such a read began;
            None while there is no such read.
        redelivered: Whether ids were delivered again, so that `entries` may have
            another entry of an id than a batch that was sent.
        group_recreated_at: When the group was last recreated, as far as that is known.
        undelivered: Ids of entries that were read before that, and that the new group
            has not delivered to this consumer, as far as is known.
        replaced: Whether the stream was recreated since, or the shard is not owned any
            more: no outcome of an entry here may be sent.
        epoch: The number of the ownership under which the entries were read; 0 if the
            shard is not owned.
        token: The token of that ownership; empty if the shard is not owned.
        owned_until: When the lease of the shard ends, if it is owned.
        counters: What has happened to the entries of the shard's stream.
    """

    shard: Shard
    entries: dict[bytes, Entry] = field(default_factory=dict)
    to_ack: list[Entry] = field(default_factory=list)
    to_dead_letter: list[Entry] = field(default_factory=list)
    deleted_ids: list[bytes] = field(default_factory=list)
    deleted_in_flight: set[bytes] = field(default_factory=set)
    still_running: dict[bytes, Entry] = field(default_factory=dict)
    deferred: dict[bytes, Entry] = field(default_factory=dict)
    recently_acked: set[bytes] | None = None
    pending_reads: int = 0
    redelivered: bool = False
    group_recreated_at: float = 0.0
    undelivered: set[bytes] = field(default_factory=set)
    replaced: bool = False
    epoch: int = 0
    token: bytes = b""
    owned_until: float = inf
    counters: Counters = field(default_factory=Counters)

    def awaits_any(self, deleted: Collection[bytes]) -> bool:
        """Return whether the server has not confirmed all of these deleted ids."""
        return not (self.replaced or self.deleted_in_flight.isdisjoint(deleted))

    def precedes_group(self, entry: Entry) -> bool:
        """Return whether an entry was read before the group was recreated.

        Then it is pending for nobody, unless the new group has delivered it as well.
        """
        before = entry.leased_at < self.group_recreated_at
        return before or entry.id in self.undelivered


class ShardStates(dict[bytes, ShardState]):
    """The state of each shard, by the shard's key.

    Attributes:
        counters: What has happened to the entries of each stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counters: dict[str, Counters] = {}

    def _new(self, shard: Shard, epoch: int = 0, token: bytes = b"") -> ShardState:
        counters = self.counters.setdefault(shard.stream, Counters())
        state = ShardState(shard, epoch=epoch, token=token, counters=counters)
        self[shard.key] = state
        return state

    def of(self, shard: Shard) -> ShardState:
        """Return a shard's state; create it if there is none."""
        state = self.get(shard.key)
        if state is None:
            state = self._new(shard)
        return state

    def ids(self, shard: Shard) -> Collection[bytes]:
        """Return the ids of a shard that are held."""
        return self.of(shard).entries.keys()

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, in the order of reading within each shard."""
        for state in self.values():
            yield from state.entries.values()

    def to_ack(self, shard: Shard, id_: bytes) -> bool:
        """Return whether an entry has an acknowledgement that was not sent."""
        entry = self.of(shard).entries.get(id_)
        return entry is not None and entry.state is TO_ACK

    def unconfirmed(self) -> list[Entry]:
        """List the entries whose outcome the server has not confirmed."""
        return [entry for entry in self.entries() if entry.unconfirmed]

    def deleted_in_flight(self) -> list[tuple[ShardState, Collection[bytes]]]:
        """List the deleted ids that the server has not confirmed, by shard."""
        return [
            (state, frozenset(state.deleted_in_flight))
            for state in self.values()
            if state.deleted_in_flight
        ]

    def group_recreated(self, shard: Shard, now: float) -> None:
        """Record that a shard's group is recreated: no entry is pending any more."""
        state = self.of(shard)
        state.group_recreated_at = now
        state.undelivered = set(state.entries)

    def replace(self, shard: Shard) -> ShardState:
        """Begin a new state for a shard; return the old one."""
        old = self.of(shard)
        old.replaced = True
        self._new(shard, old.epoch, old.token)
        return old

    def own(self, shard: Shard, epoch: int, token: bytes) -> None:
        """Begin the state of an ownership; the former one has no entries."""
        self._new(shard, epoch, token)

    def forget_unsettled(self, end: float) -> None:
        """Remove unsettled entries whose lease is over: it began at `end` or before."""
        for state in self.values():
            ended = [
                entry.id
                for entry in state.entries.values()
                if entry.state is UNSETTLED and entry.leased_at <= end
            ]
            for id_ in ended:
                del state.entries[id_]

    def close(self) -> None:
        """Remove all entries: a state must not keep them alive, see `Entry`."""
        for state in self.values():
            state.entries.clear()
            state.to_ack.clear()
            state.still_running.clear()


def move(entry: Entry, event: Table) -> None:
    """Move an entry to the state to which an event leads.

    Raises:
        IllegalTransition: The event is not possible in its state.
    """
    try:
        entry.state = event[entry.state]
    except KeyError:
        raise illegal(entry, event) from None


def move_all(entries: Iterable[Entry], event: Table) -> None:
    """Move several entries, see `move`."""
    for entry in entries:
        try:
            entry.state = event[entry.state]
        except KeyError:
            raise illegal(entry, event) from None


def illegal(entry: Entry, event: Table) -> IllegalTransition:
    """Return the error for an event that is not possible in an entry's state."""
    name = next(name for name, table in TRANSITIONS.items() if table is event)
    return IllegalTransition(name, entry.state, entry.id)
