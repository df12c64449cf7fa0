"""Entries, and what is tracked for each shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from msgspec import Struct

from penstock._core.ledger.failure_policy import Disposition
from penstock._core.ledger.states import (
    QUEUED,
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
# whole has nothing large in it, and measuring each would cost more than booking it.
SIZED_ABOVE: Final = 1024 * 1024

Lane: TypeAlias = tuple[bytes, bytes | None, int]
"""A shard's key, the message's key where that orders too, and which order it was."""


class Entry(Struct, eq=False, gc=False):
    """One entry in hand.

    A msgspec struct, which is made in half the time of a class with slots. It is not
    seen by the garbage collector, whose runs would cost more than making it: the one
    cycle that it is in, by its account, ends when the entry leaves the books.

    Attributes:
        shard_state: The books of its shard.
        id: Its id as the server wrote it.
        fields: Its field list; dropped with the outcome.
        size: Bytes that it holds: its share of the reply that brought it, or of a
            reply above `SIZED_ABOVE` its own.
        deliveries: Which attempt the present one is, or the next one will be; of what
            is POSTPONED, the one that failed.
        leased_at: The earliest time at which the server can have given it to us, or
            renewed its lease, by the ledger's clock: when that was asked for.
        state: Where it is.
        lane: What it has to be run in order with, or None.
        suspected: Whether another process, or an earlier one, had it and may have been
            killed by it: its start is confirmed by the server before it runs.
        probe: Whether it is a suspect on its last allowed attempt: such run alone.
        hangs: Whether a handler has had it for so long that it is known not to kill.
        disposition: What happens to it when its handler has finished, if it is not
            acknowledged; for DEAD, why.
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

    @property
    def shard(self) -> Shard:
        """The shard it came from."""
        return self.shard_state.shard

    @property
    def unconfirmed(self) -> bool:
        """Whether it has an outcome that the server has not confirmed."""
        return self.state in UNCONFIRMED

    def __repr__(self) -> str:
        return f"<Entry {self.id!r} {self.state.name}>"


@dataclass(slots=True)
class ShardState:
    """The books of one shard.

    Attributes:
        shard: The shard.
        entries: All in hand by id, in the order of reading, so the oldest is first.
        settled: Those to be acknowledged.
        dead: Those to be copied to the dead letters.
        deleted_ids: Ids of pending entries that are deleted from the stream, to be
            acknowledged.
        deleted_in_flight: The same until the server has confirmed it.
        still_running: What a handler has by an earlier read than the one in the books.
        deferred: Entries whose turn came while that was so.
        pending_reads: Reads of pending entries, and takeovers, that are under way.
        recently_acked: Ids whose acknowledgement was confirmed since a read of pending
            entries was sent; None while there is no such read.
        set_back: Whether ids have come again, so that an entry of a batch may not be
            the one in the books.
        group_recreated_at: When the group was last made anew, as far as that is known.
        replaced: Whether the stream was recreated since: no entry here is one of the
            present stream, and no outcome of theirs may be sent.
    """

    shard: Shard
    entries: dict[bytes, Entry] = field(default_factory=dict)
    settled: list[Entry] = field(default_factory=list)
    dead: list[Entry] = field(default_factory=list)
    deleted_ids: list[bytes] = field(default_factory=list)
    deleted_in_flight: set[bytes] = field(default_factory=set)
    still_running: dict[bytes, Entry] = field(default_factory=dict)
    deferred: dict[bytes, Entry] = field(default_factory=dict)
    recently_acked: set[bytes] | None = None
    pending_reads: int = 0
    set_back: bool = False
    group_recreated_at: float = 0.0
    replaced: bool = False


class ShardStates(dict[bytes, ShardState]):
    """The state of each shard, by the shard's key."""

    def of(self, shard: Shard) -> ShardState:
        """Return a shard's state; create it if there is none."""
        shard_state = self.get(shard.key)
        if shard_state is None:
            shard_state = self[shard.key] = ShardState(shard)
        return shard_state

    def replace(self, shard: Shard) -> ShardState:
        """Begin a new state for a shard; return the old one."""
        old = self.of(shard)
        old.replaced = True
        self[shard.key] = ShardState(shard)
        return old

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, in the order of reading within each shard."""
        for shard_state in self.values():
            yield from shard_state.entries.values()

    def forget_open(self, end: float) -> None:
        """Remove unsettled entries whose lease is over: it began at `end` or before."""
        for shard_state in self.values():
            ended = [
                entry.id
                for entry in shard_state.entries.values()
                if entry.state is UNSETTLED and entry.leased_at <= end
            ]
            for id_ in ended:
                del shard_state.entries[id_]

    def close(self) -> None:
        """Remove all entries: a state must not keep them alive, see `Entry`."""
        for shard_state in self.values():
            shard_state.entries.clear()
            shard_state.settled.clear()
            shard_state.still_running.clear()


def move(entry: Entry, event: Table) -> None:
    try:
        entry.state = event[entry.state]
    except KeyError:
        raise illegal(entry, event) from None


def move_all(entries: Iterable[Entry], event: Table) -> None:
    for entry in entries:
        try:
            entry.state = event[entry.state]
        except KeyError:
            raise illegal(entry, event) from None


def illegal(entry: Entry, event: Table) -> IllegalTransition:
    name = next(name for name, table in TRANSITIONS.items() if table is event)
    return IllegalTransition(name, entry.state, entry.id)
