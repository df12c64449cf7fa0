"""What the server is still to be told: acknowledgements and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from penstock._core.ledger.counters import Counters
from penstock._core.ledger.entry import Entry, ShardState, illegal, move, move_all
from penstock._core.ledger.states import (
    ACK_CONFIRMED,
    ACK_UNCONFIRMED,
    APPLY,
    DEAD_LETTER,
    DEAD_LETTER_CONFIRMED,
    DEAD_LETTER_UNCONFIRMED,
    DEAD_LETTER_WRITTEN,
    LOSE,
    SEND_ACK,
    SEND_DEAD_LETTER,
    TO_DEAD_LETTER,
    Table,
)

__all__ = ["PendingAcks"]


@dataclass(frozen=True, slots=True)
class AckBatch:
    """What one XACK says.

    Attributes:
        shard_state: The shard's books.
        entries: The entries to acknowledge.
        deleted_ids: Ids to acknowledge that are no entries any more.
        repeated: Whether an earlier try may have reached the server, so that a lower
            count in the reply means nothing.
    """

    shard_state: ShardState
    entries: Sequence[Entry]
    deleted_ids: Sequence[bytes]
    repeated: bool

    @property
    def ids(self) -> list[bytes]:
        """All ids."""
        return [entry.id for entry in self.entries] + list(self.deleted_ids)


class PendingAcks:
    """Outcomes from the handler's end to the server's reply.

    Args:
        shard_states: The books, by the shard's key.
        counters: Where it is counted.
        max_pending: Outcomes that are sent without waiting for the interval.
        on_outcomes: Rung when the first one waits, and when as many wait as may.

    Attributes:
        uncommitted: Entries to be acknowledged, and ghosts, until it is confirmed.
        dead_lettering: Entries that wait for their dead letter.
    """

    __slots__ = (
        "_counters",
        "_max_pending",
        "_on_outcomes",
        "_shard_states",
        "_unsent",
        "dead_lettering",
        "uncommitted",
    )

    def __init__(
        self,
        shard_states: Mapping[bytes, ShardState],
        counters: Counters,
        max_pending: int,
        on_outcomes: Callable[[], None],
    ) -> None:
        self._shard_states = shard_states
        self._counters = counters
        self._max_pending = max_pending
        self._on_outcomes = on_outcomes
        # Keys of accounts whose last acknowledgement got no reply.
        self._unsent: set[bytes] = set()
        self.uncommitted = 0
        self.dead_lettering = 0

    @property
    def full(self) -> bool:
        """Whether as many outcomes wait as may."""
        return self.uncommitted >= self._max_pending

    def settle(self, entry: Entry, event: Table) -> None:
        """Have an entry acknowledged, by the event that says why."""
        # The message keeps the fields as long as its user does.
        entry.fields = ()
        try:
            entry.state = event[entry.state]
        except KeyError:
            raise illegal(entry, event) from None
        self.settled(entry)

    def settled(self, entry: Entry) -> None:
        """Have an entry that is SETTLED acknowledged."""
        entry.shard_state.settled.append(entry)
        self.add()

    def acknowledge_again(self, shard_state: ShardState, id_: bytes) -> None:
        """Have an id acknowledged that is no entry in hand, or was acknowledged."""
        if id_ not in shard_state.deleted_in_flight:
            shard_state.deleted_ids.append(id_)
            shard_state.deleted_in_flight.add(id_)
            self.add()

    def add(self) -> None:
        """Count one more to be acknowledged."""
        self.uncommitted = waiting = self.uncommitted + 1
        if waiting == 1 or waiting == self._max_pending:  # noqa: PLR1714 - hot
            self._on_outcomes()

    def withdraw(self, entry: Entry) -> None:
        """Have an entry that is settled not acknowledged after all."""
        entry.shard_state.settled.remove(entry)
        self.uncommitted -= 1

    def forget(self, shard_state: ShardState) -> list[Entry]:
        """Withdraw all acknowledgements of a shard; returns the entries."""
        settled = shard_state.settled
        self.uncommitted -= len(settled) + len(shard_state.deleted_ids)
        shard_state.settled, shard_state.deleted_ids = [], []
        return settled

    def acks_to_send(self) -> list[AckBatch]:
        """Take all acknowledgements for sending, a batch per shard."""
        batches = []
        for key, shard_state in self._shard_states.items():
            if not shard_state.settled and not shard_state.deleted_ids:
                continue
            move_all(shard_state.settled, SEND_ACK)
            repeated = key in self._unsent
            batches.append(
                AckBatch(
                    shard_state, shard_state.settled, shard_state.deleted_ids, repeated
                )
            )
            shard_state.settled, shard_state.deleted_ids = [], []
        return batches

    def ack_confirmed(self, batch: AckBatch) -> None:
        """Let a batch go: the server has answered, or has nothing to be told."""
        shard_state = batch.shard_state
        self._unsent.discard(shard_state.shard.key)
        move_all(batch.entries, ACK_CONFIRMED)
        books, entries = shard_state.entries, batch.entries
        if shard_state.set_back:
            entries = [entry for entry in entries if books.get(entry.id) is entry]
        for entry in entries:
            del books[entry.id]
        if (
            shard_state.recently_acked is not None
        ):  # else the list would be made for nothing
            _note(shard_state, batch.ids)
        shard_state.deleted_in_flight.difference_update(batch.deleted_ids)
        self.uncommitted -= len(batch.entries) + len(batch.deleted_ids)
        self._counters.acked += len(batch.entries)

    def applied(self, entry: Entry) -> None:
        """Let an entry go that the server has acknowledged without being told by us."""
        move(entry, APPLY)
        entry.fields = ()
        books = entry.shard_state.entries
        if books.get(entry.id) is entry:  # else it has left with its lease
            del books[entry.id]
        _note(entry.shard_state, (entry.id,))

    def ack_unconfirmed(self, batch: AckBatch) -> None:
        """Take a batch back: its reply did not come, or asked to try again."""
        shard_state = batch.shard_state
        move_all(batch.entries, ACK_UNCONFIRMED)
        if shard_state.replaced:
            move_all(batch.entries, LOSE)
            self.uncommitted -= len(batch.entries) + len(batch.deleted_ids)
            self._counters.lost += len(batch.entries)
            return
        self._unsent.add(shard_state.shard.key)
        shard_state.settled[:0] = batch.entries
        shard_state.deleted_ids[:0] = batch.deleted_ids

    # -- dead letters --------------------------------------------------------------

    def dead_letter(self, entry: Entry) -> None:
        """Have an entry copied to the dead letters."""
        move(entry, DEAD_LETTER)
        entry.shard_state.dead.append(entry)
        self.dead_lettering += 1
        self._on_outcomes()

    def cancel_dead_letter(self, entry: Entry) -> None:
        """Have an entry not copied after all: it is not ours any more."""
        if entry.state is TO_DEAD_LETTER:
            entry.shard_state.dead.remove(entry)
        self.dead_lettering -= 1

    def dead_letters_to_send(self, most: int) -> list[Entry]:
        """Take up to so many of those to be copied, for sending."""
        taken: list[Entry] = []
        for shard_state in self._shard_states.values():
            part = shard_state.dead[: most - len(taken)]
            del shard_state.dead[: len(part)]
            taken += part
        move_all(taken, SEND_DEAD_LETTER)
        return taken

    def dead_letter_confirmed(self, entry: Entry, *, ours: bool) -> None:
        """Let an entry go: it is copied and acknowledged, or somebody else's.

        Args:
            entry: The entry.
            ours: Whether it was we who did it.
        """
        move(entry, DEAD_LETTER_CONFIRMED)
        self.dead_lettering -= 1
        shard_state = entry.shard_state
        if shard_state.entries.get(entry.id) is entry:
            del shard_state.entries[entry.id]
        _note(shard_state, (entry.id,))
        self._counters.dead += ours
        self._counters.lost += not ours

    def dead_letter_written(self, entry: Entry) -> None:
        """Have an entry acknowledged: its copy is written."""
        move(entry, DEAD_LETTER_WRITTEN)
        self.dead_lettering -= 1
        self._counters.dead += 1
        if entry.shard_state.replaced:
            move(entry, LOSE)
        else:
            self.settled(entry)

    def dead_letter_unconfirmed(self, entry: Entry) -> None:
        """Take one back: its reply did not come, or was a refusal."""
        move(entry, DEAD_LETTER_UNCONFIRMED)
        entry.shard_state.dead.append(entry)


def _note(shard_state: ShardState, ids: Collection[bytes]) -> None:
    """Keep in mind what was confirmed, while pending entries are being read."""
    if shard_state.recently_acked is not None:
        shard_state.recently_acked.update(ids)
