"""Groups: their state, and setting their position."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import reduce
from typing import Any

from penstock._core.protocol import commands, replies
from penstock._core.protocol.replies import ErrorReply, StreamInfo
from penstock._tasks.leases.pending_pages import pending_pages
from penstock._tasks.reading.positions import exclusive_start
from penstock.admin._connection import AdminConnection, count_above
from penstock.errors import CommandError, StreamMissing
from penstock.message import EntryId, Shard
from penstock.options import StartAt, place

__all__ = ["GroupState", "Groups"]

# The number of pending entries that one command lists or acknowledges.
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class GroupState:
    """How far a group has read a stream.

    For a stream with several shards, the numbers are sums over all shards unless the
    attribute says otherwise.

    Attributes:
        pending: The number of entries delivered and not acknowledged.
        lag: The number of entries not delivered yet; None where it can't be known, see
            `Consumer.lag`.
        last_delivered: The highest id that was delivered, in any shard.
        consumers: The number of consumers that the group has; for several shards, the
            highest number in any of them.
        holders: The number of pending entries by the name of the consumer that holds
            them; consumers without any are left out.
    """

    pending: int
    lag: int | None
    last_delivered: EntryId
    consumers: int
    holders: Mapping[str, int]


class Groups:
    """Reads and resets groups; `Admin` documents the exceptions.

    Args:
        connection: The connection.
        shards: Finds the shards of a stream.
    """

    def __init__(
        self,
        connection: AdminConnection,
        shards: Callable[[str], Awaitable[list[Shard]]],
    ) -> None:
        self._connection = connection
        self._shards = shards

    async def state(self, stream: str, group: str) -> GroupState:
        """Return how far a group has read a stream, over all its shards."""
        states = [
            state
            for shard in await self._shards(stream)
            if (state := (await self._shard_state(shard, group))[1]) is not None
        ]
        if not states:
            raise _no_group(stream, group)
        return reduce(_sum, states)

    async def _shard_state(
        self, shard: Shard, group: str
    ) -> tuple[StreamInfo, GroupState | None]:
        """Return a shard's description, and the state of the group if it exists."""
        ask = [
            commands.xinfo_groups(shard.key),
            commands.xpending_summary(shard.key, group),
        ]
        facts = await self._connection.describe(shard.key, ask)
        for reply in facts:
            if isinstance(reply, ErrorReply) and reply.code != "NOGROUP":
                if "no such key" in reply.text:
                    hint = "open a consumer of it, or send to it first"
                    raise StreamMissing(shard.stream, "XINFO GROUPS", hint)
                raise self._connection.refusal(
                    f"XINFO GROUPS on {shard.stream!r}", reply
                )
        name = group.encode()
        for info in facts[1]:
            if info.name == name:
                place = EntryId.parse(info.last_delivered)
                lag = await count_above(self._connection, facts[0], place, info.lag)
                return facts[0], _state(info, facts[2], lag)
        return facts[0], None

    async def reset(
        self, stream: str, group: str, to: StartAt | str, *, create: bool = False
    ) -> None:
        """Set the position of a group in a stream, on all its shards."""
        where = place(to, "reset_group(to)")
        shards = await self._shards(stream)
        have = [await self._shard_state(shard, group) for shard in shards]
        if not create and not any(state for _, state in have):
            raise _no_group(stream, group)
        for shard, (info, state) in zip(shards, have, strict=True):
            after = exclusive_start(where, info.last)
            if state is None:
                # A consumer would create the group at another position.
                await self._create(shard, group, after)
            else:
                await self._reset_shard(shard, group, after)

    async def _create(self, shard: Shard, group: str, where: bytes) -> None:
        create = commands.xgroup_create(shard.key, group, where, mkstream=False)
        [reply] = await self._connection.calls([create])
        if not isinstance(reply, ErrorReply):
            return
        if reply.code != "BUSYGROUP":
            raise self._connection.refusal(f"XGROUP CREATE on {shard.stream!r}", reply)
        # A consumer has created it in the meantime.
        await self._reset_shard(shard, group, where)

    async def _reset_shard(self, shard: Shard, group: str, where: bytes) -> None:
        """Acknowledge what is pending and set the position, both or neither.

        If the entries were acknowledged first, they would be lost if the server refused
        to set the position, or if this process ended between the two. If the position
        were set first, a running consumer could be delivered entries again that are
        then acknowledged before they are handled.
        """
        pages = await self._pending(shard, group)
        acks = [commands.xack(shard.key, group, page) for page in pages]
        setid = commands.xgroup_setid(shard.key, group, where)
        answers = await self._connection.calls(commands.transaction([*acks, setid]))
        for reply in replies.transaction_replies(answers):
            if isinstance(reply, ErrorReply):
                raise self._connection.refusal(
                    f"XGROUP SETID on {shard.stream!r}", reply
                )

    async def _pending(self, shard: Shard, group: str) -> list[list[bytes]]:
        """Return the ids of the entries that are pending for any consumer, in pages."""
        found = []
        pages = pending_pages(self._connection.calls, shard, group, None, _PAGE)
        async with aclosing(pages):
            async for page in pages:
                if isinstance(page, ErrorReply):
                    raise self._connection.refusal(
                        f"XPENDING on {shard.stream!r}", page
                    )
                found.append([each.id for each in page])
        return found


def _no_group(stream: str, group: str) -> CommandError:
    return CommandError(
        "XINFO GROUPS",
        "NOGROUP",
        f"stream {stream!r} has no group {group!r:.80}",
        "open a consumer of that group first",
    )


def _sum(one: GroupState, other: GroupState) -> GroupState:
    """Return the state of two shards together."""
    lags = (one.lag, other.lag)
    names = {**one.holders, **other.holders}
    return GroupState(
        pending=one.pending + other.pending,
        lag=None if None in lags else sum(lag or 0 for lag in lags),
        last_delivered=max(one.last_delivered, other.last_delivered),
        consumers=max(one.consumers, other.consumers),
        holders={n: one.holders.get(n, 0) + other.holders.get(n, 0) for n in names},
    )


def _state(info: replies.GroupInfo, summary: Any, lag: int | None) -> GroupState:
    holders = summary.holders or ()
    return GroupState(
        pending=info.pending,
        lag=lag,
        last_delivered=EntryId.parse(info.last_delivered),
        consumers=info.consumers,
        holders={
            name.decode("utf-8", "surrogateescape"): int(count)
            for name, count in holders
        },
    )
