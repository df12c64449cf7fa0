"""Owners: which member of a group owns which shard, and which should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from penstock._core.messages import shard_keys
from penstock._core.ownership.keys import (
    OWN_KEY,
    members_key,
    owner_key,
    target_number,
)
from penstock._core.ownership.target import Target, decode
from penstock._core.protocol import commands
from penstock._core.protocol.ownership_hashes import (
    GroupHash,
    OwnerHash,
    read_group_hash,
    read_owner,
    read_owner_hash,
)
from penstock._core.protocol.replies import ErrorReply
from penstock.admin._connection import AdminConnection
from penstock.errors import CommandError, StreamMissing
from penstock.message import Shard

__all__ = [
    "GroupMember",
    "OwnedShard",
    "OwnerReader",
    "Owners",
    "Row",
    "Snapshot",
    "shard_name",
]

# The number of shards that are read with one write.
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class OwnedShard:
    """A shard of a group whose members own shards.

    Attributes:
        shard: The shard.
        target: The name of the member that should own it; None if nobody should.
        owner: The name of the member that owns it; None if it is free.
        epoch: The number of the last ownership, which is `message.epoch` of the
            messages that are handled under it; 0 if nobody has owned the shard yet.
        lease_left: The seconds until the owner's lease ends, by the server's clock.
            Negative if the lease has ended: the owner keeps the shard until the member
            that should own it takes it. None if the shard is free.
        pending: The number of entries delivered and not acknowledged.
    """

    shard: Shard
    target: str | None
    owner: str | None
    epoch: int
    lease_left: float | None
    pending: int

    @property
    def lapsed(self) -> bool:
        """Whether there is an owner whose lease has ended."""
        return self.lease_left is not None and self.lease_left <= 0


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group whose members own shards.

    Attributes:
        name: Its name.
        beat_age: The seconds since its last beat, by the server's clock. A member beats
            every fifth of its lease, and is removed by the others when it has been
            silent for a lease.
        weight: Its weight.
        assigned: The number of shards that it should own.
        owned: The number of shards that it owns.
    """

    name: str
    beat_age: float
    weight: int
    assigned: int
    owned: int


@dataclass(frozen=True, slots=True)
class Owners:
    """The members of a group, and the shards that they own.

    The facts are those of one moment for each shard, and not of one for all.

    Attributes:
        shards: The shards by number.
        members: The members by name; empty if the group has none, because its
            consumers share the shards or are all closed. An owner that is no member
            is leaving, or was removed because it was silent.
    """

    shards: tuple[OwnedShard, ...]
    members: tuple[GroupMember, ...]


class Row(NamedTuple):
    """What is known of a shard.

    Attributes:
        shard: The shard.
        hash: Its hash.
        read_at: When the hash was read, by the server's clock in milliseconds.
        pending: The number of pending entries; None if the shard has no such group.
    """

    shard: Shard
    hash: OwnerHash
    read_at: int
    pending: int | None

    @property
    def number(self) -> int:
        """The number by which a target names the shard."""
        return target_number(self.shard)


class Snapshot(NamedTuple):
    """What the hashes of a group and of its shards say.

    Attributes:
        group: The group's hash.
        target: The target in it; empty if there is none.
        read_at: When the group's hash was read.
        rows: The shards by number.
    """

    group: GroupHash
    target: Target
    read_at: int
    rows: Sequence[Row]

    @property
    def pending(self) -> Mapping[int, int]:
        """The number of pending entries by the number of the shard in a target."""
        return {row.number: row.pending or 0 for row in self.rows}


class OwnerReader:
    """Reads who owns what; `Admin.owners` documents the exceptions.

    Args:
        connection: The connection.
        shards: Finds the shards of a stream, also those that do not exist yet.
    """

    def __init__(
        self,
        connection: AdminConnection,
        shards: Callable[[str], Awaitable[list[Shard]]],
    ) -> None:
        self._connection = connection
        self._shards = shards

    async def owners(self, stream: str, group: str) -> Owners:
        """Return which members a group has, and which shards they own."""
        return _owners(await self.read(stream, group))

    async def read(self, stream: str, group: str) -> Snapshot:
        """Return what the hashes of a group and of its shards say."""
        recorded = await self._shards(stream)
        key = members_key(stream.encode(), group)
        now, fields = await self._connection.call_checked(
            [commands.time(), commands.hgetall(key)], f"HGETALL of {key!a:.80}"
        )
        group_hash = read_group_hash(fields)
        target = decode(group_hash.target or b"") or {}
        rows: list[Row] = []
        shards = _with_those_of(target, stream, recorded)
        for start in range(0, len(shards), _PAGE):
            rows += await self._rows(shards[start : start + _PAGE], group)
        if not fields and all(row.pending is None for row in rows):
            raise await self._missing(stream, shards, group)
        return Snapshot(group_hash, target, now, rows)

    async def _rows(self, shards: Sequence[Shard], group: str) -> list[Row]:
        ask = [commands.time()]
        for shard in shards:
            ask.append(read_owner(owner_key(shard.key, group)))
            ask.append(commands.xpending_summary(shard.key, group))
        now, *rest = await self._connection.calls(ask)
        answers = iter(rest)
        return [
            self._one_row(shard, now, owner, summary)
            for shard, owner, summary in zip(shards, answers, answers, strict=True)
        ]

    def _one_row(self, shard: Shard, now: Any, owner: Any, summary: Any) -> Row:
        if isinstance(summary, ErrorReply) and summary.code == "NOGROUP":
            summary = None
        for reply in (now, owner, summary):
            if isinstance(reply, ErrorReply):
                what = f"reading the owner of {shard_name(shard)}"
                raise self._connection.refusal(what, reply)
        pending = None if summary is None else summary.number
        return Row(shard, read_owner_hash(owner), now, pending)

    async def _missing(
        self, stream: str, shards: Sequence[Shard], group: str
    ) -> CommandError:
        """Return the error for a group that no shard has."""
        described = await self._connection.calls(
            [commands.xinfo_groups(shard.key) for shard in shards]
        )
        hint = "open a consumer of that group first"
        if all(
            isinstance(reply, ErrorReply) and "no such key" in reply.text
            for reply in described
        ):
            return StreamMissing(stream, "XINFO GROUPS", hint)
        what = f"stream {stream!r} has no group {group!r:.80}"
        return CommandError("XPENDING", "NOGROUP", what, hint)


def _with_those_of(
    target: Target, stream: str, recorded: Sequence[Shard]
) -> list[Shard]:
    """Return the shards of a stream and of a target, by number.

    The key of the stream's own name comes first.
    """
    shards = {target_number(shard): shard for shard in recorded}
    for number in target.keys() - shards.keys():
        shards[number] = (
            shard_keys.single(stream)
            if number == OWN_KEY
            else shard_keys.numbered(stream, number)
        )
    return sorted(shards.values(), key=lambda shard: (shard.number, shard.key))


def _owners(found: Snapshot) -> Owners:
    assigned = Counter(found.target.values())
    owned = Counter(row.hash.member for row in found.rows)
    members = (
        GroupMember(
            name,
            max(0, found.read_at - member.at) / 1000,
            member.weight,
            assigned[name],
            owned[name],
        )
        for name, member in sorted(found.group.members.items())
    )
    shards = (_owned_shard(row, found.target) for row in found.rows)
    return Owners(tuple(shards), tuple(members))


def _owned_shard(row: Row, target: Target) -> OwnedShard:
    free = row.hash.token is None
    return OwnedShard(
        row.shard,
        target.get(row.number),
        None if free else row.hash.member,
        row.hash.number,
        None if free else (row.hash.until - row.read_at) / 1000,
        row.pending or 0,
    )


def shard_name(shard: Shard) -> str:
    """Return the key of a shard, for a message."""
    return f"{shard.key.decode('utf-8', 'surrogateescape')!a:.80}"
