"""Deletion of groups, of consumers and of single entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock._core.protocol import commands, scripts
from penstock._core.protocol.replies import ErrorReply
from penstock.admin._connection import AdminConnection
from penstock.admin._group_facts import GroupFacts, in_use, raw, text
from penstock.admin._ownership_removal import delete_ownership_of_group
from penstock.errors import CommandError
from penstock.message import EntryId, Shard

__all__ = ["EntryLosses", "GroupChanges"]


@dataclass(frozen=True, slots=True)
class EntryLosses:
    """What a deletion of single entries would do.

    Attributes:
        entries: The number of entries that exist.
        groups: The number of entries that a group has not acknowledged, by its name;
            only groups that would lose any.
        missing: The ids without an entry.
    """

    entries: int
    groups: Mapping[str, int]
    missing: tuple[EntryId, ...]


class GroupChanges:
    """Deletes groups, consumers and entries; `Admin` documents the exceptions.

    Args:
        connection: The connection.
        facts: Reads who is in a group.
    """

    def __init__(self, connection: AdminConnection, facts: GroupFacts) -> None:
        self._connection = connection
        self._facts = facts

    async def delete_group(self, stream: str, group: str, *, force: bool) -> None:
        """Delete a group from all shards of a stream."""
        members = await self._facts.consumers(stream, group)
        live = [one.name for one in members if one.live]
        owners = await self._facts.owned(stream, group)
        live += sorted(set(owners.values()) - set(live))
        if live and not force:
            raise in_use("XGROUP DESTROY", stream, group, live)
        shards = await self._facts.shards(stream)
        await self._connection.call_checked(
            [commands.xgroup_destroy(shard.key, raw(group)) for shard in shards],
            f"XGROUP DESTROY on {stream!r}",
        )
        await delete_ownership_of_group(self._connection, stream, group, shards)

    async def delete_consumer(self, stream: str, group: str, consumer: str) -> bool:
        """Delete a consumer that has nothing pending from all shards of a stream."""
        consumers = await self._facts.consumers(stream, group)
        pending = sum(one.pending for one in consumers if one.name == consumer)
        if pending:
            raise _has_pending(consumer, f"{pending:,} pending entries")
        existed = any(one.name == consumer for one in consumers)
        for shard in await self._facts.shards(stream):
            remove = scripts.remove_empty_consumer(shard.key, raw(group), raw(consumer))
            [reply] = await self._connection.calls([remove])
            if isinstance(reply, ErrorReply):
                if reply.code != "NOGROUP":
                    what = f"XGROUP DELCONSUMER on {stream!r}"
                    raise self._connection.refusal(what, reply)
            elif reply == -1:
                raise _has_pending(consumer, "entries that it was just given")
        return existed

    async def find_entries(
        self, stream: str, ids: Sequence[EntryId], shard: int | None
    ) -> dict[EntryId, list[Shard]]:
        """Return the shards that have an entry with each id."""
        found: dict[EntryId, list[Shard]] = {id_: [] for id_ in ids}
        for one in await self._facts.shards(stream):
            if shard not in {None, one.number}:
                continue
            ask = [commands.xrange_one(one.key, bytes(id_)) for id_ in ids]
            what = f"XRANGE on {stream!r}"
            for id_, reply in zip(
                ids, await self._connection.call_checked(ask, what), strict=True
            ):
                if reply:
                    found[id_].append(one)
        return found

    async def losses(
        self, stream: str, ids: Sequence[EntryId], shard: int | None
    ) -> EntryLosses:
        """Return which groups have not acknowledged entries."""
        found = await self.find_entries(stream, ids, shard)
        groups: Counter[str] = Counter()
        by_shard: dict[Shard, list[EntryId]] = {}
        for id_, shards in found.items():
            for one in shards:
                by_shard.setdefault(one, []).append(id_)
        for one, some in by_shard.items():
            groups += await self._losses_in(one, some)
        missing = tuple(id_ for id_, shards in found.items() if not shards)
        return EntryLosses(len(ids) - len(missing), groups, missing)

    async def _losses_in(self, shard: Shard, ids: Sequence[EntryId]) -> Counter[str]:
        ask = [commands.xinfo_groups(shard.key)]
        what = f"XINFO GROUPS on {shard.stream!r}"
        [described] = await self._connection.call_checked(ask, what)
        losses: Counter[str] = Counter()
        for group in described:
            delivered = EntryId.parse(group.last_delivered)
            old = [bytes(id_) for id_ in ids if id_ <= delivered]
            pages = await self._connection.calls(
                [
                    commands.xpending_between(
                        shard.key, group.name, None, low=id_, high=id_, count=1
                    )
                    for id_ in old
                ]
            )
            pending = sum(
                len(page) for page in pages if not isinstance(page, ErrorReply)
            )
            losses[text(group.name)] += len(ids) - len(old) + pending
        return +losses

    async def delete_entries(
        self, stream: str, ids: Sequence[EntryId], shard: int | None
    ) -> int:
        """Delete entries by their ids, from the one shard that has each."""
        found = await self.find_entries(stream, ids, shard)
        for id_, shards in found.items():
            if len(shards) > 1:
                numbers = ", ".join(str(one.number) for one in shards)
                what = f"shards {numbers} of {stream!r} all have an entry {id_}"
                raise CommandError("XDEL", "AMBIGUOUS", what, "name one by shard=")
        deletions = [
            commands.xdel(shards[0].key, [bytes(id_)])
            for id_, shards in found.items()
            if shards
        ]
        what = f"XDEL on {stream!r}"
        return sum(await self._connection.call_checked(deletions, what))


def _has_pending(consumer: str, what: str) -> CommandError:
    return CommandError(
        "XGROUP DELCONSUMER",
        "PENDING",
        f"consumer {consumer!a:.80} has {what}, which would be lost",
        "claim them before",
    )
