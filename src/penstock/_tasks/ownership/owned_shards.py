"""The shards that a consumer owns, or has owned: tokens and names for its commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock._core.ledger.entry import Entry
from penstock._core.ownership import keys
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.states import OWNED
from penstock._core.protocol import ownership_scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._tasks.group import Membership
from penstock.message import Shard

__all__ = ["OwnedMembership", "OwnedShards"]


class OwnedShards:
    """Knows the present token of each shard.

    Args:
        group: The group's name.

    Attributes:
        on_fenced: Called with the key of a shard whose token is not the server's any
            more, and with the server's token.
        on_unacknowledged: Called with a shard in which entries may still be pending
            whose outcomes are not sent again.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._shards: dict[bytes, OwnedShard] = {}
        self.on_fenced: Callable[[bytes, bytes], None] = lambda *_: None
        self.on_unacknowledged: Callable[[Shard], None] = lambda _: None

    def add(self, shard: Shard, owned: OwnedShard) -> None:
        """Add a shard, which is not owned yet."""
        self._shards[shard.key] = owned

    def of(self, shard: Shard) -> OwnedShard:
        """Return a shard as the core sees it."""
        return self._shards[shard.key]

    @property
    def number(self) -> int:
        """How many shards are owned now."""
        return sum(owned.state in OWNED for owned in self._shards.values())

    def owner_key(self, shard: Shard) -> bytes:
        """Return the key of the hash that says who owns a shard."""
        return keys.owner_key(shard.key, self._group)

    def guard(
        self,
        shard: Shard,
        *,
        claim: int | None = None,
        commands: Iterable[Command] = (),
    ) -> Command:
        """Return a command that has an effect only under the shard's present token.

        Args:
            shard: The shard.
            claim: See `ownership_scripts.guard`.
            commands: The commands, without the stream and the group.
        """
        owned = self.of(shard)
        return ownership_scripts.guard(
            shard.key,
            self.owner_key(shard),
            self._group,
            owned.token.encode(),
            consumer=owned.consumer,
            claim=claim,
            commands=commands,
        )

    def fence(self, entry: Entry) -> Fence:
        """Return what an entry's outcome is compared with."""
        state = entry.shard_state
        return Fence(self.owner_key(state.shard), state.token)

    def outcome_fenced(self, entry: Entry, reply: Fenced) -> None:
        """Record that the outcome of an entry was refused."""
        self.fenced(entry.shard, entry.shard_state.token, reply)

    def fenced(self, shard: Shard, sent: bytes, reply: Fenced) -> None:
        """Record that a command was refused: its token is not the server's.

        Args:
            shard: The shard.
            sent: The token of the command. One of a former ownership is no news.
            reply: The reply.
        """
        if sent == self.of(shard).token.encode():
            self.on_fenced(shard.key, reply.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedMembership(Membership):
    """A consumer's membership of a group whose members own shards.

    Attributes:
        owned: The shards; each has a consumer's name of its own.
    """

    owned: OwnedShards

    def name_in(self, shard: Shard) -> str:
        """Return the name under which the consumer reads a shard."""
        return self.owned.of(shard).consumer

    @property
    def others_claim(self) -> bool:
        """False: the next owner claims everything when it takes a shard."""
        return False
