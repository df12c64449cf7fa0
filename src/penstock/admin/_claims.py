"""Claims by an operator: pending entries go back to their group, or are acked."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Final

from penstock._core.protocol import commands, scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, PendingEntry
from penstock._tasks.leases.pending_pages import pending_pages
from penstock._tasks.leases.release import channel
from penstock.admin._connection import AdminConnection
from penstock.admin._group_facts import GroupFacts, in_use, raw, text
from penstock.errors import CommandError
from penstock.message import EntryId, Shard

__all__ = ["ClaimSelection", "Claimed", "Claims"]

# The entries of one page, and of one command.
_PAGE: Final = 500
# Milliseconds: an idle time that is longer than any lease.
_ENDED: Final = 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class ClaimSelection:
    """Which pending entries are claimed: exactly one of these is set.

    Attributes:
        consumer: The consumer that has them.
        idle: The seconds for which they were not delivered, claimed or renewed.
        ids: Their ids.
    """

    consumer: str | None = None
    idle: float | None = None
    ids: tuple[EntryId, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What was claimed, or would be.

    Attributes:
        entries: The number of entries.
        consumers: That number by the consumer that had them.
        live: Those of the consumers that are live: their handlers may be running.
        not_pending: Ids that were asked for and are not pending.
        owned: The names of members that own shards with such entries; nothing was done
            to them.
    """

    entries: int
    consumers: Mapping[str, int]
    live: tuple[str, ...]
    not_pending: tuple[EntryId, ...]
    owned: tuple[str, ...]


class Claims:
    """Gives pending entries back to their group; `Admin.claim` has the exceptions.

    Args:
        connection: The connection.
        facts: Reads who is in the group.
    """

    def __init__(self, connection: AdminConnection, facts: GroupFacts) -> None:
        self._connection = connection
        self._facts = facts

    async def claim(
        self,
        stream: str,
        group: str,
        selection: ClaimSelection,
        *,
        ack: bool,
        force: bool,
        dry_run: bool,
    ) -> Claimed:
        """Claim the selected entries, or only count them."""
        found = await self._select(stream, group, selection)
        plan = await self._plan(stream, group, selection, found)
        if dry_run or not found:
            return plan
        if plan.owned:
            names = ", ".join(f"{name!a:.60}" for name in plan.owned[:5])
            what = f"shards with such entries are owned by {names}"
            hint = "their owner handles them; `penstock owners --move` moves a shard"
            raise CommandError("XCLAIM", "OWNED", what, hint)
        if plan.live and not force:
            raise in_use("XCLAIM", stream, group, plan.live)
        done: Counter[str] = Counter()
        for shard, entries in found.items():
            done += await self._in_shard(shard, group, entries, ack=ack)
        return Claimed(done.total(), done, plan.live, plan.not_pending, ())

    async def _select(
        self, stream: str, group: str, selection: ClaimSelection
    ) -> dict[Shard, list[PendingEntry]]:
        found: dict[Shard, list[PendingEntry]] = {}
        for shard, _ in await self._facts.in_group(
            stream, group, commands.xinfo_consumers
        ):
            async with aclosing(self._pages(shard, group, selection)) as pages:
                entries = [each async for page in pages for each in page]
            if entries:
                found[shard] = entries
        return found

    async def _pages(
        self, shard: Shard, group: str, selection: ClaimSelection
    ) -> AsyncGenerator[Sequence[PendingEntry], None]:
        """Yield the selected entries of a shard."""
        name = raw(group)
        if selection.ids is not None:
            for part in _parts(map(bytes, selection.ids)):
                ask = [
                    commands.xpending_between(
                        shard.key, name, None, low=id_, high=id_, count=1
                    )
                    for id_ in part
                ]
                what = f"XPENDING on {shard.stream!r}"
                for page in await self._connection.call_checked(ask, what):
                    yield page
            return
        least = int(1000 * (selection.idle or 0))
        calls = self._connection.calls
        consumer = None if selection.consumer is None else raw(selection.consumer)
        async with aclosing(
            pending_pages(calls, shard, name, consumer, _PAGE)
        ) as pages:
            async for page in pages:
                if isinstance(page, ErrorReply):
                    what = f"XPENDING on {shard.stream!r}"
                    raise self._connection.refusal(what, page)
                yield [each for each in page if each.idle >= least]

    async def _plan(
        self,
        stream: str,
        group: str,
        selection: ClaimSelection,
        found: Mapping[Shard, Sequence[PendingEntry]],
    ) -> Claimed:
        """Return what a claim of these entries would do."""
        every = [each for entries in found.values() for each in entries]
        counts = Counter(text(each.consumer) for each in every)
        consumers = await self._facts.consumers(stream, group)
        owned = await self._facts.owned(stream, group) if found else {}
        pending = {EntryId.parse(each.id) for each in every}
        return Claimed(
            entries=len(every),
            consumers=counts,
            live=tuple(one.name for one in consumers if one.live and counts[one.name]),
            not_pending=tuple(id_ for id_ in selection.ids or () if id_ not in pending),
            owned=tuple(
                sorted({owned[shard.key] for shard in found if shard.key in owned})
            ),
        )

    async def _in_shard(
        self, shard: Shard, group: str, entries: Sequence[PendingEntry], *, ack: bool
    ) -> Counter[str]:
        """Claim entries of one shard, and return their number by consumer."""
        by_consumer: dict[bytes, list[bytes]] = {}
        for each in entries:
            by_consumer.setdefault(each.consumer, []).append(each.id)
        done: Counter[str] = Counter()
        for consumer, ids in by_consumer.items():
            for part in _parts(ids):
                command = _command(shard, raw(group), consumer, part, ack=ack)
                what = f"{'XACK' if ack else 'XCLAIM'} on {shard.stream!r}"
                [reply] = await self._connection.call_checked([command], what)
                done[text(consumer)] += reply if ack else len(reply)
        if not ack:
            # Live consumers search at once. If this user may not publish, they find the
            # entries at their next search.
            released = channel(shard, group)
            await self._connection.calls([commands.publish(released, b"")])
        return done


def _command(
    shard: Shard, group: bytes, consumer: bytes, ids: Sequence[bytes], *, ack: bool
) -> Command:
    if ack:
        return commands.xack(shard.key, group, ids)
    words = (b"IDLE", _ENDED)
    return scripts.claim_own(shard.key, group, consumer, ids, words)


def _parts(ids: Iterable[bytes]) -> Iterable[list[bytes]]:
    rest = iter(ids)
    while part := list(islice(rest, _PAGE)):
        yield part
