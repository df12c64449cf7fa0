"""What the server is still to be told: acknowledgements and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from penstock._core.ledger.entry import (
    APPLY,
    BURIED,
    BURY,
    CONDEMN,
    CONFIRM,
    COPIED,
    DEAD,
    LOSE,
    PLAN,
    UNBURIED,
    UNSENT,
    AckBatch,
    Counters,
    Entry,
    ShardState,
    Table,
    illegal,
    move,
    move_all,
)

__all__ = ["PendingAcks"]


class PendingAcks:
    """Outcomes from the handler's end to the server's reply.

    Args:
        accounts: The books, by the shard's key.
        totals: Where it is counted.
        max_pending: Outcomes that are sent without waiting for the interval.
        on_outcomes: Rung when the first one waits, and when as many wait as may.

    Attributes:
        uncommitted: Entries to be acknowledged, and ghosts, until it is confirmed.
        dying: Entries that wait for their dead letter.
    """

    __slots__ = (
        "_accounts",
        "_max_pending",
        "_on_outcomes",
        "_totals",
        "_unsent",
        "dying",
        "uncommitted",
    )

    def __init__(
        self,
        accounts: Mapping[bytes, ShardState],
        totals: Counters,
        max_pending: int,
        on_outcomes: Callable[[], None],
    ) -> None:
        self._accounts = accounts
        self._totals = totals
        self._max_pending = max_pending
        self._on_outcomes = on_outcomes
        # Keys of accounts whose last acknowledgement got no reply.
        self._unsent: set[bytes] = set()
        self.uncommitted = 0
        self.dying = 0

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
        entry.account.settled.append(entry)
        self.add()

    def acknowledge_again(self, account: ShardState, id_: bytes) -> None:
        """Have an id acknowledged that is no entry in hand, or was acknowledged."""
        if id_ not in account.known_ghosts:
            account.ghosts.append(id_)
            account.known_ghosts.add(id_)
            self.add()

    def add(self) -> None:
        """Count one more to be acknowledged."""
        self.uncommitted = waiting = self.uncommitted + 1
        if waiting == 1 or waiting == self._max_pending:  # noqa: PLR1714 - hot
            self._on_outcomes()

    def withdraw(self, entry: Entry) -> None:
        """Have an entry that is settled not acknowledged after all."""
        entry.account.settled.remove(entry)
        self.uncommitted -= 1

    def forget(self, account: ShardState) -> list[Entry]:
        """Withdraw all acknowledgements of a shard; returns the entries."""
        settled = account.settled
        self.uncommitted -= len(settled) + len(account.ghosts)
        account.settled, account.ghosts = [], []
        return settled

    def plan(self) -> list[AckBatch]:
        """Take all acknowledgements for sending, a batch per shard."""
        batches = []
        for key, account in self._accounts.items():
            if not account.settled and not account.ghosts:
                continue
            move_all(account.settled, PLAN)
            repeated = key in self._unsent
            batches.append(AckBatch(account, account.settled, account.ghosts, repeated))
            account.settled, account.ghosts = [], []
        return batches

    def committed(self, batch: AckBatch) -> None:
        """Let a batch go: the server has answered, or has nothing to be told."""
        account = batch.account
        self._unsent.discard(account.shard.key)
        move_all(batch.entries, CONFIRM)
        books, entries = account.entries, batch.entries
        if account.set_back:
            entries = [entry for entry in entries if books.get(entry.id) is entry]
        for entry in entries:
            del books[entry.id]
        if account.lately is not None:  # else the list would be made for nothing
            _note(account, batch.ids)
        account.known_ghosts.difference_update(batch.ghosts)
        self.uncommitted -= len(batch.entries) + len(batch.ghosts)
        self._totals.acked += len(batch.entries)

    def applied(self, entry: Entry) -> None:
        """Let an entry go that the server has acknowledged without being told by us."""
        move(entry, APPLY)
        entry.fields = ()
        books = entry.account.entries
        if books.get(entry.id) is entry:  # else it has left with its lease
            del books[entry.id]
        _note(entry.account, (entry.id,))

    def unsent(self, batch: AckBatch) -> None:
        """Take a batch back: its reply did not come, or asked to try again."""
        account = batch.account
        move_all(batch.entries, UNSENT)
        if account.replaced:
            move_all(batch.entries, LOSE)
            self.uncommitted -= len(batch.entries) + len(batch.ghosts)
            self._totals.lost += len(batch.entries)
            return
        self._unsent.add(account.shard.key)
        account.settled[:0] = batch.entries
        account.ghosts[:0] = batch.ghosts

    # -- dead letters --------------------------------------------------------------

    def condemn(self, entry: Entry) -> None:
        """Have an entry copied to the dead letters."""
        move(entry, CONDEMN)
        entry.account.dead.append(entry)
        self.dying += 1
        self._on_outcomes()

    def pardon(self, entry: Entry) -> None:
        """Have an entry not copied after all: it is not ours any more."""
        if entry.state is DEAD:
            entry.account.dead.remove(entry)
        self.dying -= 1

    def to_bury(self, most: int) -> list[Entry]:
        """Take up to so many of those to be copied, for sending."""
        taken: list[Entry] = []
        for account in self._accounts.values():
            part = account.dead[: most - len(taken)]
            del account.dead[: len(part)]
            taken += part
        move_all(taken, BURY)
        return taken

    def buried(self, entry: Entry, *, ours: bool) -> None:
        """Let an entry go: it is copied and acknowledged, or somebody else's.

        Args:
            entry: The entry.
            ours: Whether it was we who did it.
        """
        move(entry, BURIED)
        self.dying -= 1
        account = entry.account
        if account.entries.get(entry.id) is entry:
            del account.entries[entry.id]
        _note(account, (entry.id,))
        self._totals.dead += ours
        self._totals.lost += not ours

    def copied(self, entry: Entry) -> None:
        """Have an entry acknowledged: its copy is written."""
        move(entry, COPIED)
        self.dying -= 1
        self._totals.dead += 1
        if entry.account.replaced:
            move(entry, LOSE)
        else:
            self.settled(entry)

    def unburied(self, entry: Entry) -> None:
        """Take one back: its reply did not come, or was a refusal."""
        move(entry, UNBURIED)
        entry.account.dead.append(entry)


def _note(account: ShardState, ids: Collection[bytes]) -> None:
    """Keep in mind what was confirmed, while pending entries are being read."""
    if account.lately is not None:
        account.lately.update(ids)
