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
from typing import Any

import anyio

from penstock._core import commands, replies, sharding
from penstock._core.commands import Command
from penstock._core.replies import ErrorReply
from penstock._link.link import Link, open_link
from penstock._link.wire import Wire
from penstock._tasks.lifetime import Openable
from penstock._tasks.membership import refusal
from penstock.errors import ClosedError, CommandError, StreamMissing
from penstock.events import OnEvent, guarded, log_event
from penstock.message import EntryId

__all__ = ["Admin", "GroupState", "group_state"]


@dataclass(frozen=True, slots=True)
class GroupState:
    """How far a group has come with a stream.

    Attributes:
        pending: Entries delivered and not acknowledged.
        lag: Entries not delivered yet; None where the server can't tell: before
            Redis 7, and after entries were deleted from the middle of the stream.
        last_delivered: The highest id that was delivered.
        consumers: How many consumers the group knows.
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
        """Tell how far a group has come with a stream.

        Args:
            stream: The stream's name.
            group: The group's name.

        Raises:
            StreamMissing: There is no such stream.
            CommandError: There is no such group, or the key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: The stream's name can't be one.
            ClosedError: This is not open.
        """
        key = sharding.single(stream).key
        infos, summary = await self._calls(
            [commands.xinfo_groups(key), commands.xpending_summary(key, group)]
        )
        if isinstance(infos, ErrorReply):
            if "no such key" in infos.text:
                hint = "open a consumer of it, or send to it first"
                raise StreamMissing(stream, "XINFO GROUPS", hint)
            raise self._refusal(f"XINFO GROUPS on {stream!r}", infos)
        if isinstance(summary, ErrorReply):
            # A group that is missing is said below, in words.
            if summary.code != "NOGROUP":
                raise self._refusal(f"XPENDING on {stream!r}", summary)
            summary = None
        name = group.encode()
        for info in replies.groups(infos):
            if info.name == name:
                return _state(info, summary)
        raise CommandError(
            "XINFO GROUPS",
            "NOGROUP",
            f"stream {stream!r} has no group {group!r:.80}",
            "open a consumer of that group first",
        )

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


def _state(info: replies.GroupInfo, summary: Any) -> GroupState:
    # Asked for in one write, but other clients' commands may come in between: the
    # two answers then differ by what was read or acknowledged meanwhile.
    lines = (summary[3] if summary else None) or ()
    return GroupState(
        pending=info.pending,
        lag=info.lag,
        last_delivered=EntryId.parse(info.last_delivered),
        consumers=info.consumers,
        holders={
            name.decode("utf-8", "surrogateescape"): int(count) for name, count in lines
        },
    )
