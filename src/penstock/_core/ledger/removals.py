"""What leaves without an outcome: dropped by a seek, given back, or lost to others.

It may stand anywhere by then: in the queue, in a lane, among the dead, with a handler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

from penstock._core.ledger.counters import Counters
from penstock._core.ledger.entry import Entry, ShardState, ShardStates, move, move_all
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.states import (
    DEAD_LETTERING,
    DROP,
    FAILED,
    IN_HAND,
    LOSE,
    POSTPONED,
    RELEASE,
    RUNNING,
    TO_ACK,
    TO_DEAD_LETTER,
    UNSETTLED,
    WAITING,
    State,
)
from penstock.message import EntryId, Shard

__all__ = ["Released", "Removals"]

Released: TypeAlias = tuple[Shard, int, list[bytes]]
"""A shard, the delivery count to be set, and the ids of the entries that get it."""


class Removals:
    """Takes entries out of wherever they stand.

    Args:
        shard_states: The books.
        counters: Where it is counted.
        ready_queue: What waits.
        flow: What is held.
        pending_acks: What the server is still to be told.
        on_ready: Rung when an entry may be taken that was held up by one that left.
    """

    __slots__ = (
        "_counters",
        "_flow",
        "_on_ready",
        "_pending_acks",
        "_ready_queue",
        "_shard_states",
    )

    def __init__(
        self,
        shard_states: ShardStates,
        counters: Counters,
        *,
        ready_queue: ReadyQueue,
        flow: FlowControl,
        pending_acks: PendingAcks,
        on_ready: Callable[[], None],
    ) -> None:
        self._shard_states = shard_states
        self._ready_queue = ready_queue
        self._flow = flow
        self._pending_acks = pending_acks
        self._counters = counters
        self._on_ready = on_ready

    def drop(self, shard_state: ShardState) -> int:
        """Forget what waits of a shard, for good; gives how many entries it was."""
        gone = self._withdraw(shard_state)
        move_all(gone, DROP)
        return len(gone)

    def set_back(self, shard_state: ShardState, after: EntryId) -> None:
        """Let no outcome of what was read above an id count: it will be redelivered.

        This is done before the redelivery is read. An acknowledgement that reaches the
        server between the redelivery and our reading of it would acknowledge it unseen.
        """
        again = [e for e in shard_state.entries.values() if EntryId.parse(e.id) > after]
        for entry in again:
            if entry.state in LOSE:
                if entry.state in IN_HAND:
                    shard_state.still_running[entry.id] = entry
                self.supersede(entry)
                del shard_state.entries[entry.id]

    def supersede(self, entry: Entry) -> None:
        """Have an entry that no handler has not count: it has come again since."""
        self._take_out(entry)
        move(entry, LOSE)

    def lose(self, entry: Entry) -> None:
        """Book that an entry is not ours any more, wherever it stands.

        Not so if it was read before the group was made anew: then it is pending for
        nobody, is about to be read again, and stays where it is in the order.
        """
        if entry.state in LOSE and not _outlived(entry):
            self.supersede(entry)
            self._counters.lost += 1
            books = entry.shard_state.entries
            if books.get(entry.id) is entry:  # else it has come again
                del books[entry.id]

    def lose_all_but(self, renewal: LeaseRenewal, ours: Iterable[bytes]) -> list[bytes]:
        """Book which of a renewal's entries are ours still; gives the ids of others."""
        kept = set(ours)
        lost = [
            entry
            for entry in renewal.entries
            if entry.id not in kept and entry.state in LOSE and not _outlived(entry)
        ]
        for entry in lost:
            self.lose(entry)
        if lost:
            self._flow.wake_reader()
        return [entry.id for entry in lost]

    def replace(self, shard: Shard) -> list[bytes]:
        """Lose all entries of a shard: its stream was recreated.

        What a handler has is finished there, and its outcome is dropped. What is on
        its way to the server can't be recalled, but is not sent again.

        Returns:
            The ids of those whose outcome is not sent.
        """
        shard_state = self._shard_states.replace(shard)
        settled = set(self._pending_acks.forget(shard_state))
        lost = [*self._withdraw(shard_state), *settled]
        for entry in shard_state.entries.values():
            if entry.state in LOSE and entry not in settled:
                self._take_out(entry)
                lost.append(entry)
        move_all(lost, LOSE)
        # Those that are on their way leave with their reply.
        shard_state.entries.clear()
        shard_state.still_running.clear()
        shard_state.set_back = True
        self._counters.lost += len(lost)
        self._flow.wake_reader()
        return [entry.id for entry in lost]

    def release(self) -> Iterator[Released]:
        """Let go of all that has no outcome."""
        also = {UNSETTLED, RUNNING, FAILED, TO_DEAD_LETTER, DEAD_LETTERING}
        for shard_state in self._shard_states.values():
            yield from self._give_up(shard_state, also)

    def give_up(self, shard_state: ShardState) -> list[Released]:
        """Let go of a shard's entries, but not of what handlers are at."""
        return list(self._give_up(shard_state, {UNSETTLED}))

    def _give_up(
        self, shard_state: ShardState, also: Collection[State]
    ) -> Iterator[Released]:
        back: dict[int, list[bytes]] = {}
        for entry in self._withdraw(shard_state):
            back.setdefault(_count_of(entry), []).append(entry.id)
            move(entry, RELEASE)
        for entry in [e for e in shard_state.entries.values() if e.state in also]:
            self._take_out(entry)
            back.setdefault(_count_of(entry), []).append(entry.id)
            move(entry, RELEASE)
            del shard_state.entries[entry.id]
        for count, ids in back.items():
            yield shard_state.shard, count, ids

    def release_probes(self, most: int) -> list[Released]:
        """Let go of suspects that wait to run alone, but for the first `most`.

        None where an order would be broken by that.
        """
        back: dict[tuple[Shard, int], list[bytes]] = {}
        for entry in self._ready_queue.spare_probes(most):
            key = entry.shard_state.shard, _count_of(entry)
            back.setdefault(key, []).append(entry.id)
            self._let_go_of(entry)
        return [(shard, count, ids) for (shard, count), ids in back.items()]

    def expire_probes(self, before: float) -> None:
        """Let go of suspects that wait behind others to run alone, since `before`.

        They are not renewed, so that other consumers can claim them.
        """
        for entry in self._ready_queue.spare_probes():
            if entry.leased_at <= before:
                self._let_go_of(entry)

    def _let_go_of(self, entry: Entry) -> None:
        self._take_out(entry)
        move(entry, RELEASE)
        del entry.shard_state.entries[entry.id]

    def _withdraw(self, shard_state: ShardState) -> list[Entry]:
        """Take out of books and queue what waits of a shard."""
        later = [e for e in shard_state.entries.values() if e.state is POSTPONED]
        gone = later + self._ready_queue.withdraw(shard_state, later)
        while shard_state.deferred:
            gone.append(self._not_aside(next(iter(shard_state.deferred.values()))))
        for entry in gone:
            self._flow.let_go(entry)
            shard_state.entries.pop(entry.id, None)
        return gone

    def _not_aside(self, entry: Entry) -> Entry:
        """Take an entry from where it waits for its handler; its lane is free."""
        del entry.shard_state.deferred[entry.id]
        self._ready_queue.free(entry)
        return entry

    def _take_out(self, entry: Entry) -> None:
        state, ready = entry.state, len(self._ready_queue.ready)
        if state in WAITING:
            self._flow.let_go(entry)
            if entry.id in entry.shard_state.deferred:
                self._not_aside(entry)
            else:
                self._ready_queue.remove(entry)
        elif state is POSTPONED:
            self._flow.let_go(entry)
            self._ready_queue.free(entry)
        elif state is TO_DEAD_LETTER or state is DEAD_LETTERING:
            self._flow.let_go(entry)
            self._pending_acks.cancel_dead_letter(entry)
        elif state is TO_ACK:
            self._pending_acks.withdraw(entry)
        if len(self._ready_queue.ready) > ready:
            self._on_ready()  # what its lane held up


def _count_of(entry: Entry) -> int:
    """Return the delivery count of an entry that is released.

    It is one more than the number of starts, and 0 where there certainly was none. A
    handler that is still running was interrupted, which does not count as a start.
    """
    unstarted = entry.state in WAITING or entry.state is RUNNING
    if unstarted and entry.deliveries == 1 and not entry.suspected:
        return 0
    return entry.deliveries + (not unstarted)


def _outlived(entry: Entry) -> bool:
    """Tell whether the group was made anew since an entry was read or renewed."""
    return entry.leased_at < entry.shard_state.group_recreated_at
