"""Moving owned shards: an operator's change of who should own what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock._core.ownership.keys import members_key, news_channel, owner_key
from penstock._core.ownership.reassignment import reassign
from penstock._core.ownership.target import Target, encode
from penstock._core.ownership.tokens import Token
from penstock._core.protocol import commands, ownership_scripts
from penstock.admin._connection import AdminConnection
from penstock.admin._owners import OwnerReader, Row, Snapshot, shard_name
from penstock.errors import ConfigurationError
from penstock.message import Shard

__all__ = ["ShardMove", "ShardMover"]


@dataclass(frozen=True, slots=True)
class ShardMove:
    """What `Admin.move` has changed.

    Attributes:
        shard: The shard that was to be moved.
        to: The name of the member that should own it now.
        changes: The member that should own it now, for each shard for which it is
            another than before; empty if the shard was to be `to`'s already.
        freed: The name of the owner from which the shard was taken; None if that was
            not asked for, or if nobody else had it.
    """

    shard: Shard
    to: str
    changes: Mapping[Shard, str]
    freed: str | None = None


class ShardMover:
    """Moves owned shards; `Admin.move` documents the exceptions.

    Args:
        connection: The connection.
        reader: Reads who owns what.
    """

    def __init__(self, connection: AdminConnection, reader: OwnerReader) -> None:
        self._connection = connection
        self._reader = reader

    async def move(
        self, stream: str, group: str, shard: int, to: str | None, *, force: bool
    ) -> ShardMove:
        """Change the target so that a shard goes to a member."""
        while True:
            found = await self._reader.read(stream, group)
            row = _row(found, stream, group, shard)
            receiver = _receiver(found, group, row, to)
            weights = {name: one.weight for name, one in found.group.members.items()}
            target = reassign(
                found.target, weights, row.number, receiver, found.pending
            )
            changes = {
                each.shard: target[each.number]
                for each in found.rows
                if target.get(each.number) != found.target.get(each.number)
            }
            # If another target was stored meanwhile, this one is computed from that.
            if not changes or await self._assign(stream, group, found, target):
                break
        freed = await self._free(row, group, receiver) if force else None
        # A user who may not publish is no hindrance: then the members look at the
        # target with their next beats.
        news = commands.publish(news_channel(stream.encode(), group), b"")
        await self._connection.calls([news])
        return ShardMove(row.shard, receiver, changes, freed)

    async def _assign(
        self, stream: str, group: str, found: Snapshot, target: Target
    ) -> bool:
        """Store a target; False: another one was stored since the snapshot."""
        command = ownership_scripts.assign(
            members_key(stream.encode(), group),
            seen=found.group.version,
            least=max(row.hash.version for row in found.rows),
            target=encode(target),
        )
        what = f"storing the target of group {group!r:.80}"
        [reply] = await self._connection.call_checked([command], what)
        return bool(reply.stored)

    async def _free(self, row: Row, group: str, receiver: str) -> str | None:
        """Take a shard from its owner; return from whom it was taken.

        If the owner has given it up meanwhile, nobody else loses it.
        """
        key, token = owner_key(row.shard.key, group), row.hash.token
        owner = _member(token)
        while token and owner != receiver and _member(token) == owner:
            what = f"freeing {shard_name(row.shard)}"
            command = ownership_scripts.free(key, token)
            [fenced] = await self._connection.call_checked([command], what)
            if fenced is None:
                return owner
            token = fenced.token
        return None


def _row(found: Snapshot, stream: str, group: str, shard: int) -> Row:
    """Return the row of a shard that members of the group own.

    Raises:
        ConfigurationError: There is no such shard.
    """
    if not found.target:
        raise ConfigurationError(
            f"group {group!r:.80} has no members that own shards of {stream!r:.80}; "
            f"start consumers with ownership= first"
        )
    rows = [row for row in found.rows if row.number in found.target]
    named = [row for row in rows if row.shard.number == shard]
    if type(shard) is not int or not named:
        raise ConfigurationError(
            f"{shard!r:.60} is not a shard that members of group {group!r:.80} own; "
            f"the shards are {_listed(str(row.shard.number) for row in rows)}"
        )
    # The key of the stream's own name is number 0 as well, and comes first.
    return named[-1]


def _receiver(found: Snapshot, group: str, row: Row, to: str | None) -> str:
    """Return the member that gets a shard.

    Raises:
        ConfigurationError: It is not a member, or there is no other one.
    """
    members = found.group.members
    if to is not None:
        if to in members:
            return to
        raise ConfigurationError(
            f"{to!r:.80} is not a member of group {group!r:.80}; the members are "
            f"{_listed(map(repr, sorted(members))) or 'all gone'}"
        )
    present = found.target[row.number]
    owner = row.hash.member if row.hash.token else present
    if owner != present and present in members:
        return present  # it is on its way already
    loads = Counter(found.target.values())
    others = [name for name in members if name not in {present, owner}]
    if not others:
        raise ConfigurationError(
            f"group {group!r:.80} has no other member that could own shard "
            f"{row.shard.number}; start another consumer first"
        )
    return min(others, key=lambda name: (loads[name], name))


def _listed(names: Iterator[str]) -> str:
    return f"{', '.join(names):.200}"


def _member(token: bytes | None) -> str:
    """Return whose token this is; empty if it is none."""
    parsed = Token.parse(token or b"")
    return "" if parsed is None else parsed.member
