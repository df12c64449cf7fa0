"""Removals: entries that leave without an outcome.

They are dropped by a seek, released to other consumers, or lost to them. An entry may
be anywhere at that moment: in the queue, in a lane, with a handler, or waiting for its
dead letter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

from penstock._core.ledger.entry import Entry, ShardState, ShardStates, move, move_all
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.states import (
    DEAD_LETTERING,
    DROP,
    FAILED,
    LOSE,
    POSTPONED,
    RELEASE,
    RUNNING,
    TO_ACK,
    TO_DEAD_LETTER,
    UNSETTLED,
    WAITING,
    WITH_HANDLER,
    State,
)
from penstock.message import EntryId, Shard

__all__ = ["Released", "Removals"]

Released: TypeAlias = tuple[Shard, int, list[bytes]]
"""A shard, the delivery count to set, and the ids of the entries that get it."""


class Removals:
    """Removes entries from wherever they are.

    Args:
        shards: The states of the shards.
        ready_queue: The entries that wait.
        flow: What is held.
        acks: The outcomes that wait for the server.
        on_ready: Called when an entry may be taken that a removed one had held up.
    """

    __slots__ = ("_acks", "_flow", "_on_ready", "_ready_queue", "_shards")

    def __init__(
        self,
        shards: ShardStates,
        *,
        ready_queue: ReadyQueue,
        flow: FlowControl,
        acks: PendingAcks,
        on_ready: Callable[[], None],
    ) -> None:
        self._shards = shards
        self._ready_queue = ready_queue
        self._flow = flow
        self._acks = acks
        self._on_ready = on_ready

    def drop(self, shard: Shard) -> int:
        """Drop the entries of a shard that wait; return how many there were."""
        gone = self._withdraw(self._shards.of(shard))
        move_all(gone, DROP)
        return len(gone)

    def rewind(self, shard: Shard, after: EntryId) -> None:
        """Let no outcome of an entry above an id count: it will be delivered again.

        The entries that wait were dropped before, and no outcome of the shard is on its
        way to the server. This is done before the entries are delivered again. An
        acknowledgement that reaches the server between that delivery and our reading
        of it would acknowledge it unseen.
        """
        state = self._shards.of(shard)
        for entry in list(state.entries.values()):
            if entry.state in LOSE and EntryId.parse(entry.id) > after:
                if entry.state in WITH_HANDLER:
                    state.still_running[entry.id] = entry
                self.supersede(entry)
                del state.entries[entry.id]
        self._flow.wake_reader()

    def supersede(self, entry: Entry) -> None:
        """Let an entry not count any more: there is a later delivery of it."""
        self._take_out(entry)
        move(entry, LOSE)

    def lose(self, entry: Entry) -> None:
        """Record that an entry belongs to another consumer, whatever its state.

        Not so if it was read before the group was recreated: then it is pending for
        nobody, will be read again, and keeps its place in the order.
        """
        if not entry.shard_state.precedes_group(entry):
            self._lose(entry)

    def abandon(self, entry: Entry) -> None:
        """Lose an entry that nobody here will settle, so that it is delivered again.

        Also if it was read before the group was recreated: a later delivery of it may
        have been ignored, because the entry was here.
        """
        self._lose(entry)

    def fenced(self, entry: Entry) -> None:
        """Lose an entry whose outcome was refused: its shard has another owner.

        Its id is not noted as answered. It is pending still, and may be recovered here
        under the next ownership.
        """
        if entry.state is DEAD_LETTERING:
            self._acks.dead_letter_unconfirmed(entry)
        self._lose(entry)

    def _lose(self, entry: Entry) -> None:
        if entry.state not in LOSE:
            return
        self.supersede(entry)
        entry.shard_state.counters.lost += 1
        known = entry.shard_state.entries
        if known.get(entry.id) is entry:  # else it was delivered again
            del known[entry.id]
        # Its handler may have finished, so nothing else says that there is space.
        self._flow.wake_reader()

    def lose_all_but(
        self,
        renewal: LeaseRenewal,
        ours: Iterable[bytes],
        others: Collection[bytes] = (),
    ) -> list[bytes]:
        """Record which entries of a renewal are ours still; return the ids of the lost.

        Args:
            renewal: The entries.
            ours: The ids of those that are pending for this consumer.
            others: The ids of those that are known to be pending for other consumers.
        """
        kept, precedes = set(ours), renewal.shard_state.precedes_group
        lost = [
            entry
            for entry in renewal.entries
            if entry.id not in kept
            and entry.state in LOSE
            and (entry.id in others or not precedes(entry))
        ]
        for entry in lost:
            self._lose(entry)
        return [entry.id for entry in lost]

    def lose_shard(self, shard: Shard) -> list[bytes]:
        """Lose all entries of a shard: they are another owner's, or do not exist.

        If the stream was recreated, ids that are delivered from now on are those of new
        messages, even if they are equal. Handlers that run are let finish, and their
        outcomes are dropped. What is on its way to the server can't be recalled, but is
        not sent again.

        Returns:
            The ids of entries whose outcome is not sent.
        """
        state = self._shards.replace(shard)
        to_ack = dict.fromkeys(self._acks.withdraw_all(state))
        lost = [*self._withdraw(state), *to_ack]
        for entry in state.entries.values():
            if entry.state in LOSE and entry not in to_ack:
                self._take_out(entry)
                lost.append(entry)
        move_all(lost, LOSE)
        # Those that are on their way leave with their reply.
        state.entries.clear()
        state.still_running.clear()
        state.redelivered = True
        state.counters.lost += len(lost)
        self._flow.wake_reader()
        return [entry.id for entry in lost]

    def release(self) -> Iterator[Released]:
        """Release all entries without an outcome; yield what the server is to be told.

        The count to set is one more than the number of handler starts. Waiting here is
        no start, and neither is a handler that closing has interrupted.
        """
        also = {UNSETTLED, RUNNING, FAILED, TO_DEAD_LETTER, DEAD_LETTERING}
        for state in self._shards.values():
            yield from self._release(state, also)

    def release_shard(self, shard: Shard) -> list[Released]:
        """Release a shard's entries, except those that handlers are running."""
        return list(self._release(self._shards.of(shard), {UNSETTLED}))

    def release_waiting(self, shard: Shard) -> list[Released]:
        """Release the entries of a shard that no handler and no user has."""
        return list(self._release(self._shards.of(shard), ()))

    def _release(
        self, state: ShardState, also: Collection[State]
    ) -> Iterator[Released]:
        released: dict[int, list[bytes]] = {}
        for entry in self._withdraw(state):
            released.setdefault(_count_of(entry), []).append(entry.id)
            move(entry, RELEASE)
        for entry in [e for e in state.entries.values() if e.state in also]:
            self._take_out(entry)
            released.setdefault(_count_of(entry), []).append(entry.id)
            move(entry, RELEASE)
            del state.entries[entry.id]
        for count, ids in released.items():
            yield state.shard, count, ids

    def release_probes(self, most: int) -> list[Released]:
        """Release entries that wait to run alone, except for the first `most`.

        Other consumers of the group can try them meanwhile. None are released if that
        would break an order.
        """
        released: dict[tuple[Shard, int], list[bytes]] = {}
        for entry in self._ready_queue.spare_probes(most):
            key = entry.shard_state.shard, _count_of(entry)
            released.setdefault(key, []).append(entry.id)
            self._release_one(entry)
        if released:
            self._flow.wake_reader()
        return [(shard, count, ids) for (shard, count), ids in released.items()]

    def expire_probes(self, before: float) -> None:
        """Release entries that have waited behind others to run alone since `before`.

        Their leases are not renewed, so that other consumers can claim them.
        """
        for entry in self._ready_queue.spare_probes():
            if entry.leased_at <= before:
                self._release_one(entry)
                self._flow.wake_reader()

    def _release_one(self, entry: Entry) -> None:
        self._take_out(entry)
        move(entry, RELEASE)
        del entry.shard_state.entries[entry.id]

    def _withdraw(self, state: ShardState) -> list[Entry]:
        """Remove the entries of a shard that wait, and return them."""
        later = [e for e in state.entries.values() if e.state is POSTPONED]
        gone = later + self._ready_queue.withdraw(state, later)
        while state.deferred:
            gone.append(self._take_deferred(next(iter(state.deferred.values()))))
        for entry in gone:
            self._flow.release(entry)
            state.entries.pop(entry.id, None)
        return gone

    def _take_deferred(self, entry: Entry) -> Entry:
        """Remove an entry that waits for the handler of its earlier delivery."""
        del entry.shard_state.deferred[entry.id]
        self._ready_queue.free(entry)
        return entry

    def _take_out(self, entry: Entry) -> None:
        state, ready = entry.state, len(self._ready_queue.ready)
        if state in WAITING:
            self._flow.release(entry)
            if entry.id in entry.shard_state.deferred:
                self._take_deferred(entry)
            else:
                self._ready_queue.remove(entry)
        elif state is POSTPONED:
            self._flow.release(entry)
            self._ready_queue.free(entry)
        elif state is TO_DEAD_LETTER or state is DEAD_LETTERING:
            self._flow.release(entry)
            self._acks.cancel_dead_letter(entry)
        elif state is TO_ACK:
            self._acks.withdraw(entry)
        if len(self._ready_queue.ready) > ready:
            self._on_ready()  # the next of its lane


def _count_of(entry: Entry) -> int:
    """Return the delivery count of an entry that is released.

    It is one more than the number of starts, and 0 where there certainly was none. A
    handler that is still running was interrupted, which does not count as a start.
    """
    unstarted = entry.state in WAITING or entry.state is RUNNING
    if unstarted and entry.deliveries == 1 and not entry.suspected:
        return 0
    return entry.deliveries + (not unstarted)
