"""The books of all shards."""

from __future__ import annotations

from collections.abc import Iterator

from penstock._core.ledger.entry import OPEN, Entry, ShardState
from penstock.message import Shard

__all__ = ["ShardStates"]


class ShardStates(dict[bytes, ShardState]):
    """Each shard's account, by the shard's key."""

    def of(self, shard: Shard) -> ShardState:
        """Give a shard's account; opens one where there is none."""
        account = self.get(shard.key)
        if account is None:
            account = self[shard.key] = ShardState(shard)
        return account

    def replace(self, shard: Shard) -> ShardState:
        """Begin a new account for a shard; returns the old one."""
        old = self.of(shard)
        old.replaced = True
        self[shard.key] = ShardState(shard)
        return old

    def entries(self) -> Iterator[Entry]:
        """Give all that is in the books, in the order of reading within a shard."""
        for account in self.values():
            yield from account.entries.values()

    def forget_open(self, end: float) -> None:
        """Take open entries out whose lease began at `end` or before: it is over."""
        for account in self.values():
            ended = [
                entry.id
                for entry in account.entries.values()
                if entry.state is OPEN and entry.leased_at <= end
            ]
            for id_ in ended:
                del account.entries[id_]

    def close(self) -> None:
        """Let go of all; the books must not keep entries alive, see `Entry`."""
        for account in self.values():
            account.entries.clear()
            account.settled.clear()
            account.twice.clear()
