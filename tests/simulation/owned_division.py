"""Owned division: who owns the shards of a group, and who should, on the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from penstock._core.ownership import keys
from penstock._core.ownership.target import decode, plan
from penstock._core.ownership.tokens import Token
from penstock.message import Shard
from simulation.server.keyspace import Database, Hash

__all__ = ["Division", "Holder", "holder_of"]

_STREAM: Final = "orders"


class Holder(NamedTuple):
    """What the server says of a shard: the token, and when its lease ends."""

    token: bytes
    until: int


def holder_of(database: Database, key: str, group: str) -> Holder | None:
    """Return who owns a shard; None if it is free."""
    found = database.find(keys.owner_key(key.encode(), group))
    if not isinstance(found, Hash) or b"token" not in found:
        return None
    return Holder(found[b"token"], int(found.get(b"until", b"0")))


class Division:
    """The division of a stream's shards among the members of a group.

    Args:
        database: Where they are.
        group: The group.
    """

    def __init__(self, database: Database, group: str) -> None:
        self._database = database
        self._group = group
        found = database.find(keys.members_key(_STREAM.encode(), group))
        facts = found if isinstance(found, Hash) else Hash()
        self._target = decode(facts.get(b"a", b"")) or {}
        self._weights = {
            name[2:].decode(): int(value.split()[1])
            for name, value in facts.items()
            if name.startswith(b"m:")
        }

    def wrong(
        self, names: set[str], shards: Mapping[int, str], *, some: bool
    ) -> Iterator[str]:
        """Yield what is not as it should be when nothing changes any more.

        Args:
            names: The members that there should be.
            shards: The keys of the shards by their numbers.
            some: Whether some of the members may be missing.
        """
        there = self._weights.keys()
        if there - names or (names - there and not some):
            yield f"{self._group}: {sorted(there)} are members, not {sorted(names)}"
        if plan(self._target, self._weights, self._target) != self._target:
            yield f"{self._group}: {self._target} is not balanced"
        for number, key in shards.items():
            shard = Shard(_STREAM, number, key.encode())
            wanted = self._target.get(keys.target_number(shard))
            holder = holder_of(self._database, key, self._group)
            token = Token.parse(holder.token) if holder else None
            owner = token and token.member
            if owner is None or owner != wanted:
                yield f"{self._group}: {key} is {owner}'s and should be {wanted}'s"
