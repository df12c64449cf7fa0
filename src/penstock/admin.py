"""What an operator asks about streams and groups, and does to them.

For one question there is a function:

```python
state = await admin.group_state("orders", "billing")
```

`Admin` keeps its connection for many.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import anyio

from penstock._core import commands, replies, sharding
from penstock._core.commands import Command
from penstock._core.replies import ErrorReply
from penstock._link.link import Link, open_link
from penstock._link.wire import Wire
from penstock._tasks.assignment import after_which
from penstock._tasks.lifetime import Openable
from penstock._tasks.membership import refusal
from penstock._tasks.scout import Scout
from penstock.errors import ClosedError, CommandError, StreamMissing
from penstock.events import OnEvent, guarded, log_event
from penstock.message import EntryId, Shard
from penstock.options import StartAt, place

__all__ = ["Admin", "GroupState", "group_state", "reset_group"]

# Pending entries that one command lists.
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class GroupState:
    """How far a group has come with a stream.

    Of a stream with several shards the numbers are those of all together.

    Attributes:
        pending: Entries delivered and not acknowledged.
        lag: Entries not delivered yet; None where that can't be known: before Redis 7,
            and after entries were deleted from the middle of the stream.
        last_delivered: The highest id that was delivered.
        consumers: How many consumers the group knows; of several shards, the most.
        holders: The pending entries by the name of the consumer that has them;
            consumers without any are left out.
    """

    pending: int
    lag: int | None
    last_delivered: EntryId
    consumers: int
    holders: Mapping[str, int]


class Admin(Openable):
    """Asks about streams and groups on one connection, and changes them.

    Every call is one try: nothing is sent again. When the connection was lost, the
    next call makes another one.

    Args:
        url: `redis://`, `rediss://` or `unix://` with user, password and database,
            or `embedded://`; default: the environment's `REDIS_URL`.
        on_event: Told of what happens in the background, see `Event`; default:
            logged to `penstock`.

    Raises:
        ConfigurationError: On opening: a wrong URL.
        ConnectError: On opening, or later: there is no way to the server.
        AccessError: On opening, or later: the server refuses this user.

    Example:
        ```python
        async with Admin("redis://localhost") as admin:
            while (await admin.group_state("orders", "billing")).pending:
                await asyncio.sleep(1)
        ```
    """

    def __init__(
        self, url: str | None = None, *, on_event: OnEvent = log_event
    ) -> None:
        self._url = url
        self._on_event = guarded(on_event)
        # Both are None while it is closed.
        self._link: Link | None = None
        self._wire: Wire | None = None
        self._dialing = anyio.Lock()

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with open_link(self._url, self._on_event) as link:
            self._wire = await link.connect()
            self._link = link
            try:
                yield
            finally:
                wire, self._link, self._wire = self._wire, None, None
                with anyio.CancelScope(shield=True):
                    await wire.aclose()

    async def group_state(self, stream: str, group: str) -> GroupState:
        """Tell how far a group has come with a stream, over all its shards.

        Args:
            stream: The stream's name.
            group: The group's name.

        Raises:
            StreamMissing: There is no such stream.
            CommandError: There is no such group, or a key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: The stream's name can't be one.
            ClosedError: This is not open.
        """
        states = [
            state
            for shard in await self._shards(stream)
            if (state := await self._shard_state(shard, group)) is not None
        ]
        if not states:
            raise _no_group(stream, group)
        return reduce(_together, states)

    async def _shard_state(self, shard: Shard, group: str) -> GroupState | None:
        ask = [
            commands.xinfo_stream(shard.key),
            commands.xinfo_groups(shard.key),
            commands.xpending_summary(shard.key, group),
        ]
        *_, facts = await self._calls(commands.transaction(ask))
        refused = [facts] if isinstance(facts, ErrorReply) else facts
        for reply in refused:
            if isinstance(reply, ErrorReply) and reply.code != "NOGROUP":
                if "no such key" in reply.text:
                    hint = "open a consumer of it, or send to it first"
                    raise StreamMissing(shard.stream, "XINFO GROUPS", hint)
                raise self._refusal(f"XINFO GROUPS on {shard.stream!r}", reply)
        name = group.encode()
        for info in replies.groups(facts[1]):
            if info.name == name:
                return _state(info, facts[2], replies.lag(facts, group))
        return None

    async def reset_group(self, stream: str, group: str, to: StartAt | str) -> None:
        """Have a group go on at another place of a stream, on all its shards.

        What is pending is acknowledged: it comes again if it lies behind the place,
        and does not if it lies before. If the group has consumers that run, they go
        on at the place within two seconds; what they have read before that, they
        handle.

        Args:
            stream: The stream's name.
            group: The group's name.
            to: `EARLIEST`, `LATEST` (what is sent after this), an entry id (that entry
                is included; `after(id)` leaves it out), or an aware `datetime`.

        Raises:
            StreamMissing: There is no such stream.
            CommandError: There is no such group, or a key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply; it can be done
                again.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: It is no place, or the stream's name can't be one.
            ClosedError: This is not open.

        Example:
            ```python
            await admin.reset_group("orders", "billing", EARLIEST)
            ```
        """
        where = after_which(place(to, "reset_group(to)"))
        shards = await self._shards(stream)
        have = [await self._shard_state(shard, group) for shard in shards]
        if not any(have):
            raise _no_group(stream, group)
        for shard in shards:
            await self._forget(shard, group)
            # A shard that the group has not met yet would begin somewhere else.
            made = commands.xgroup_create(shard.key, group, where, mkstream=False)
            ask = [made, commands.xgroup_setid(shard.key, group, where)]
            reply = (await self._calls(ask))[1]
            if isinstance(reply, ErrorReply):
                raise self._refusal(f"XGROUP SETID on {shard.stream!r}", reply)

    async def _forget(self, shard: Shard, group: str) -> None:
        """Acknowledge all that is pending."""
        after = b"0-0"
        while True:
            ask = commands.xpending_page(shard.key, group, None, after, _PAGE)
            [reply] = await self._calls([ask])
            if isinstance(reply, ErrorReply):
                return  # no such group: nothing is pending
            page = [pending.id for pending in replies.pending_page(reply)]
            if page:
                await self._calls([commands.xack(shard.key, group, page)])
                after = page[-1]
            if len(page) < _PAGE:
                return

    async def _shards(self, stream: str) -> list[Shard]:
        sharding.single(stream)  # refuses what is no name
        return await Scout(self._calls, self._on_event).watch(stream)

    async def delete_stream(self, stream: str) -> bool:
        """Delete a stream with its groups; consumers that are open make it anew.

        Args:
            stream: The stream's name.

        Returns:
            Whether there was one.

        Raises:
            AccessError: The server refuses this user.
            CommandError: The server refuses the command.
            ConnectionLost: The connection ended before the reply.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: The stream's name can't be one.
            ClosedError: This is not open.
        """
        # Unlike DEL, UNLINK frees a large stream without holding up the server.
        [reply] = await self._calls([commands.unlink(sharding.single(stream).key)])
        if isinstance(reply, ErrorReply):
            raise self._refusal(f"UNLINK of {stream!r}", reply)
        return bool(reply)

    async def _calls(self, batch: Sequence[Command]) -> list[Any]:
        async with self._dialing:
            if self._link is None or self._wire is None:
                raise ClosedError("admin")
            if self._wire.lost:
                await self._wire.aclose()
                self._wire = await self._link.connect()
            wire = self._wire
        return await wire.calls(batch)

    def _refusal(self, command: str, reply: ErrorReply) -> Exception:
        server = self._link.address.name if self._link else ""
        return refusal(server, command, reply)

    def __repr__(self) -> str:
        return f"<Admin {'closed' if self._link is None else 'open'}>"


async def group_state(stream: str, group: str, *, url: str | None = None) -> GroupState:
    """Tell how far a group has come with a stream, on a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        url: The server, see `Admin`.

    Raises:
        PenstockError: What `Admin` and its `group_state` raise.
    """
    async with Admin(url) as admin:
        return await admin.group_state(stream, group)


async def reset_group(
    stream: str, group: str, to: StartAt | str, *, url: str | None = None
) -> None:
    """Have a group go on at another place, by a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        to: The place, see `Admin.reset_group`.
        url: The server, see `Admin`.

    Raises:
        PenstockError: What `Admin` and its `reset_group` raise.
    """
    async with Admin(url) as admin:
        await admin.reset_group(stream, group, to)


def _no_group(stream: str, group: str) -> CommandError:
    return CommandError(
        "XINFO GROUPS",
        "NOGROUP",
        f"stream {stream!r} has no group {group!r:.80}",
        "open a consumer of that group first",
    )


def _together(one: GroupState, other: GroupState) -> GroupState:
    """Add up two shards."""
    lags = (one.lag, other.lag)
    names = {*one.holders, *other.holders}
    return GroupState(
        pending=one.pending + other.pending,
        lag=None if None in lags else sum(lag or 0 for lag in lags),
        last_delivered=max(one.last_delivered, other.last_delivered),
        consumers=max(one.consumers, other.consumers),
        holders={n: one.holders.get(n, 0) + other.holders.get(n, 0) for n in names},
    )


def _state(info: replies.GroupInfo, summary: Any, lag: int | None) -> GroupState:
    lines = (summary[3] if summary else None) or ()
    return GroupState(
        pending=info.pending,
        lag=lag,
        last_delivered=EntryId.parse(info.last_delivered),
        consumers=info.consumers,
        holders={
            name.decode("utf-8", "surrogateescape"): int(count) for name, count in lines
        },
    )
