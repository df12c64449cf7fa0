"""Outcomes that the server does not know yet: acknowledgements and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from penstock._core.ledger.entry import Entry, ShardState, illegal, move, move_all
from penstock._core.ledger.failure_policy import DeadLettered
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

__all__ = ["AckBatch", "PendingAcks"]


@dataclass(frozen=True, slots=True)
class AckBatch:
    """The contents of one XACK.

    Attributes:
        shard_state: The state of the shard.
        entries: The entries to acknowledge.
        deleted_ids: Ids to acknowledge whose entries are deleted.
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
    """Tracks outcomes from the handler's end to the server's reply.

    Args:
        shards: The states of the shards, by key.
        max_pending: Outcomes that are sent without waiting for the interval.
        on_outcomes: Called when the first one waits, and when `max_pending` wait.

    Attributes:
        uncommitted: Entries that are acknowledged and not confirmed by the server,
            pending ids of deleted entries included.
        dead_lettering: Entries that wait for their dead letter to be written.
        observer: Called with entries whose outcome the server has confirmed; for tests.
    """

    __slots__ = (
        "_max_pending",
        "_on_outcomes",
        "_shards",
        "_unconfirmed",
        "dead_lettering",
        "observer",
        "uncommitted",
    )

    def __init__(
        self,
        shards: Mapping[bytes, ShardState],
        max_pending: int,
        on_outcomes: Callable[[], None],
    ) -> None:
        self._shards = shards
        self._max_pending = max_pending
        self._on_outcomes = on_outcomes
        # Keys of shards whose last acknowledgement got no reply.
        self._unconfirmed: set[bytes] = set()
        self.uncommitted = 0
        self.dead_lettering = 0
        self.observer: Callable[[Sequence[Entry]], None] | None = None

    @property
    def full(self) -> bool:
        """Whether `max_pending` outcomes wait."""
        return self.uncommitted >= self._max_pending

    # -- acknowledgements ----------------------------------------------------------

    def settle(self, entry: Entry, event: Table) -> None:
        """Have an entry acknowledged, because of an event."""
        # The message keeps the fields as long as its user keeps the message.
        entry.fields = ()
        try:
            entry.state = event[entry.state]
        except KeyError:
            raise illegal(entry, event) from None
        self.enqueue(entry)

    def enqueue(self, entry: Entry) -> None:
        """Queue an entry that is TO_ACK."""
        entry.shard_state.to_ack.append(entry)
        self.add()

    def acknowledge_deleted(self, state: ShardState, id_: bytes) -> None:
        """Have an id acknowledged whose entry is deleted, or was acknowledged."""
        if id_ not in state.deleted_in_flight:
            state.deleted_ids.append(id_)
            state.deleted_in_flight.add(id_)
            self.add()

    def add(self) -> None:
        """Count one more id to be acknowledged."""
        self.uncommitted = waiting = self.uncommitted + 1
        if waiting == 1 or waiting == self._max_pending:  # noqa: PLR1714 - hot
            self._on_outcomes()

    def withdraw(self, entry: Entry) -> None:
        """Cancel the acknowledgement of an entry that is TO_ACK."""
        entry.shard_state.to_ack.remove(entry)
        self.uncommitted -= 1

    def withdraw_all(self, state: ShardState) -> list[Entry]:
        """Cancel all acknowledgements of a shard; return its entries."""
        entries = state.to_ack
        self.uncommitted -= len(entries) + len(state.deleted_ids)
        state.to_ack, state.deleted_ids = [], []
        return entries

    def to_send(self) -> list[AckBatch]:
        """Take all acknowledgements for sending, a batch for each shard."""
        batches = []
        for key, state in self._shards.items():
            if not state.to_ack and not state.deleted_ids:
                continue
            move_all(state.to_ack, SEND_ACK)
            repeated = key in self._unconfirmed
            batches.append(AckBatch(state, state.to_ack, state.deleted_ids, repeated))
            state.to_ack, state.deleted_ids = [], []
        return batches

    def confirmed(self, batch: AckBatch) -> None:
        """Remove a batch: the server has answered, or need not be told."""
        state = batch.shard_state
        self._unconfirmed.discard(state.shard.key)
        move_all(batch.entries, ACK_CONFIRMED)
        known, entries = state.entries, batch.entries
        if state.redelivered:
            entries = [entry for entry in entries if known.get(entry.id) is entry]
        for entry in entries:
            del known[entry.id]
        if state.recently_acked is not None:  # else the list would be built in vain
            _note(state, batch.ids)
        state.deleted_in_flight.difference_update(batch.deleted_ids)
        self.uncommitted -= len(batch.entries) + len(batch.deleted_ids)
        state.counters.acked += len(batch.entries)
        self._observe(batch.entries)

    def _observe(self, entries: Sequence[Entry]) -> None:
        if self.observer is not None:
            self.observer(entries)

    def unconfirmed(self, batch: AckBatch) -> None:
        """Take a batch back: no reply came, or the reply asks to try again."""
        state = batch.shard_state
        move_all(batch.entries, ACK_UNCONFIRMED)
        if state.replaced:
            move_all(batch.entries, LOSE)
            self.uncommitted -= len(batch.entries) + len(batch.deleted_ids)
            state.counters.lost += len(batch.entries)
            return
        self._unconfirmed.add(state.shard.key)
        state.to_ack[:0] = batch.entries
        state.deleted_ids[:0] = batch.deleted_ids

    def applied(self, entry: Entry) -> None:
        """Remove an entry that a transaction has acknowledged on the server."""
        move(entry, APPLY)
        entry.fields = ()
        known = entry.shard_state.entries
        if known.get(entry.id) is entry:  # else it has left with its lease
            del known[entry.id]
        _note(entry.shard_state, (entry.id,))
        self._observe((entry,))

    # -- dead letters --------------------------------------------------------------

    def dead_letter(self, entry: Entry) -> None:
        """Have an entry copied to the dead letters."""
        move(entry, DEAD_LETTER)
        entry.shard_state.to_dead_letter.append(entry)
        self.dead_lettering += 1
        self._on_outcomes()

    def cancel_dead_letter(self, entry: Entry) -> None:
        """Have an entry not copied: it is not this consumer's any more."""
        if entry.state is TO_DEAD_LETTER:
            entry.shard_state.to_dead_letter.remove(entry)
        self.dead_lettering -= 1

    def dead_letters_to_send(self, most: int) -> list[Entry]:
        """Take up to `most` entries to be copied, for sending."""
        taken: list[Entry] = []
        for state in self._shards.values():
            part = state.to_dead_letter[: most - len(taken)]
            del state.to_dead_letter[: len(part)]
            taken += part
        move_all(taken, SEND_DEAD_LETTER)
        return taken

    def dead_letter_confirmed(self, entry: Entry, *, ours: bool) -> None:
        """Remove a dead-lettered entry, or one that another consumer has claimed.

        Args:
            entry: The entry.
            ours: Whether this consumer has dead-lettered it.
        """
        move(entry, DEAD_LETTER_CONFIRMED)
        self.dead_lettering -= 1
        state = entry.shard_state
        if state.entries.get(entry.id) is entry:
            del state.entries[entry.id]
        _note(state, (entry.id,))
        if ours:
            _count_dead_letter(entry)
            self._observe((entry,))
        else:
            state.counters.lost += 1

    def dead_letter_written(self, entry: Entry) -> None:
        """Have an entry acknowledged whose copy is written."""
        move(entry, DEAD_LETTER_WRITTEN)
        self.dead_lettering -= 1
        _count_dead_letter(entry)
        if entry.shard_state.replaced:
            move(entry, LOSE)
        else:
            self.enqueue(entry)

    def dead_letter_unconfirmed(self, entry: Entry) -> None:
        """Take an entry back: no reply came, or the reply was an error."""
        move(entry, DEAD_LETTER_UNCONFIRMED)
        entry.shard_state.to_dead_letter.append(entry)


def _count_dead_letter(entry: Entry) -> None:
    assert isinstance(entry.disposition, DeadLettered)  # noqa: S101 - it is why
    entry.shard_state.counters.count_dead_letter(entry.handler, entry.disposition.cause)


def _note(state: ShardState, ids: Collection[bytes]) -> None:
    """Remember confirmed ids while pending entries are being read."""
    if state.recently_acked is not None:
        state.recently_acked.update(ids)
