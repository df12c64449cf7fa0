"""What leaves without an outcome: dropped by a seek, given back, or lost to others.

It may stand anywhere by then: in the queue, in a lane, among the dead, with a handler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

from penstock._core.ledger.accounts import ShardStates
from penstock._core.ledger.entry import (
    BURYING,
    DEAD,
    DROP,
    FAILED,
    IN_HAND,
    LOSE,
    OPEN,
    POSTPONED,
    RELEASE,
    RUNNING,
    SETTLED,
    WAITING,
    Counters,
    Entry,
    LeaseRenewal,
    ShardState,
    State,
    move,
    move_all,
)
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.ledger.pending_acks import PendingAcks
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock.message import EntryId, Shard

__all__ = ["Released", "Removals"]

Released: TypeAlias = tuple[Shard, int, list[bytes]]
"""A shard, the delivery count to be set, and the ids of the entries that get it."""


class Removals:
    """Takes entries out of wherever they stand.

    Args:
        accounts: The books.
        totals: Where it is counted.
        lanes: What waits.
        room: What is held.
        outcomes: What the server is still to be told.
        on_ready: Rung when an entry may be taken that was held up by one that left.
    """

    __slots__ = ("_accounts", "_lanes", "_on_ready", "_outcomes", "_room", "_totals")

    def __init__(
        self,
        accounts: ShardStates,
        totals: Counters,
        *,
        lanes: ReadyQueue,
        room: FlowControl,
        outcomes: PendingAcks,
        on_ready: Callable[[], None],
    ) -> None:
        self._accounts = accounts
        self._lanes = lanes
        self._room = room
        self._outcomes = outcomes
        self._totals = totals
        self._on_ready = on_ready

    def drop(self, account: ShardState) -> int:
        """Forget what waits of a shard, for good; gives how many entries it was."""
        gone = self._withdraw(account)
        move_all(gone, DROP)
        return len(gone)

    def set_back(self, account: ShardState, after: EntryId) -> None:
        """Let no outcome of what was read above an id count: it will be redelivered.

        This is done before the redelivery is read. An acknowledgement that reaches the
        server between the redelivery and our reading of it would acknowledge it unseen.
        """
        again = [e for e in account.entries.values() if EntryId.parse(e.id) > after]
        for entry in again:
            if entry.state in LOSE:
                if entry.state in IN_HAND:
                    account.twice[entry.id] = entry
                self.supersede(entry)
                del account.entries[entry.id]

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
            self._totals.lost += 1
            books = entry.account.entries
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
            self._room.look_again()
        return [entry.id for entry in lost]

    def replace(self, shard: Shard) -> list[bytes]:
        """Lose all entries of a shard: its stream was recreated.

        What a handler has is finished there, and its outcome is dropped. What is on
        its way to the server can't be recalled, but is not sent again.

        Returns:
            The ids of those whose outcome is not sent.
        """
        account = self._accounts.replace(shard)
        settled = set(self._outcomes.forget(account))
        lost = [*self._withdraw(account), *settled]
        for entry in account.entries.values():
            if entry.state in LOSE and entry not in settled:
                self._take_out(entry)
                lost.append(entry)
        move_all(lost, LOSE)
        # Those that are on their way leave with their reply.
        account.entries.clear()
        account.twice.clear()
        account.set_back = True
        self._totals.lost += len(lost)
        self._room.look_again()
        return [entry.id for entry in lost]

    def release(self) -> Iterator[Released]:
        """Let go of all that has no outcome."""
        also = {OPEN, RUNNING, FAILED, DEAD, BURYING}
        for account in self._accounts.values():
            yield from self._give_up(account, also)

    def give_up(self, account: ShardState) -> list[Released]:
        """Let go of a shard's entries, but not of what handlers are at."""
        return list(self._give_up(account, {OPEN}))

    def _give_up(
        self, account: ShardState, also: Collection[State]
    ) -> Iterator[Released]:
        back: dict[int, list[bytes]] = {}
        for entry in self._withdraw(account):
            back.setdefault(_count_of(entry), []).append(entry.id)
            move(entry, RELEASE)
        for entry in [e for e in account.entries.values() if e.state in also]:
            self._take_out(entry)
            back.setdefault(_count_of(entry), []).append(entry.id)
            move(entry, RELEASE)
            del account.entries[entry.id]
        for count, ids in back.items():
            yield account.shard, count, ids

    def release_probes(self, most: int) -> list[Released]:
        """Let go of suspects that wait to run alone, but for the first `most`.

        None where an order would be broken by that.
        """
        back: dict[tuple[Shard, int], list[bytes]] = {}
        for entry in self._lanes.spare_probes(most):
            key = entry.account.shard, _count_of(entry)
            back.setdefault(key, []).append(entry.id)
            self._let_go_of(entry)
        return [(shard, count, ids) for (shard, count), ids in back.items()]

    def expire_probes(self, before: float) -> None:
        """Let go of suspects that wait behind others to run alone, since `before`.

        They are not renewed, so that other consumers can claim them.
        """
        for entry in self._lanes.spare_probes():
            if entry.leased_at <= before:
                self._let_go_of(entry)

    def _let_go_of(self, entry: Entry) -> None:
        self._take_out(entry)
        move(entry, RELEASE)
        del entry.account.entries[entry.id]

    def _withdraw(self, account: ShardState) -> list[Entry]:
        """Take out of books and queue what waits of a shard."""
        later = [e for e in account.entries.values() if e.state is POSTPONED]
        gone = later + self._lanes.withdraw(account, later)
        while account.aside:
            gone.append(self._not_aside(next(iter(account.aside.values()))))
        for entry in gone:
            self._room.let_go(entry)
            account.entries.pop(entry.id, None)
        return gone

    def _not_aside(self, entry: Entry) -> Entry:
        """Take an entry from where it waits for its handler; its lane is free."""
        del entry.account.aside[entry.id]
        self._lanes.free(entry)
        return entry

    def _take_out(self, entry: Entry) -> None:
        state, ready = entry.state, len(self._lanes.ready)
        if state in WAITING:
            self._room.let_go(entry)
            if entry.id in entry.account.aside:
                self._not_aside(entry)
            else:
                self._lanes.remove(entry)
        elif state is POSTPONED:
            self._room.let_go(entry)
            self._lanes.free(entry)
        elif state is DEAD or state is BURYING:
            self._room.let_go(entry)
            self._outcomes.pardon(entry)
        elif state is SETTLED:
            self._outcomes.withdraw(entry)
        if len(self._lanes.ready) > ready:
            self._on_ready()  # what its lane held up


def _count_of(entry: Entry) -> int:
    """Return the delivery count of an entry that is released.

    It is one more than the number of starts, and 0 where there certainly was none. A
    handler that is still running was interrupted, which does not count as a start.
    """
    unstarted = entry.state in WAITING or entry.state is RUNNING
    if unstarted and entry.deliveries == 1 and not entry.suspect:
        return 0
    return entry.deliveries + (not unstarted)


def _outlived(entry: Entry) -> bool:
    """Tell whether the group was made anew since an entry was read or renewed."""
    return entry.leased_at < entry.account.anew
