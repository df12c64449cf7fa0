"""The groups of a stream and their consumers, over all shards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply
from penstock.admin._connection import AdminConnection
from penstock.admin._owners import OwnerReader
from penstock.errors import AccessError, CommandError, StreamMissing
from penstock.message import Shard

__all__ = ["LIVE", "GroupConsumer", "GroupFacts", "in_use", "raw", "text"]

LIVE: Final = 10.0
"""Seconds since its last request after which a consumer is not live any more.

A consumer of Penstock's asks every two seconds while it waits.
"""


@dataclass(frozen=True, slots=True)
class GroupConsumer:
    """A consumer of a group, over all shards.

    Attributes:
        name: Its name.
        pending: The number of entries delivered to it and not acknowledged.
        idle: The seconds since it asked the server for anything.
    """

    name: str
    pending: int
    idle: float

    @property
    def live(self) -> bool:
        """Whether it has asked in the last 10 s."""
        return self.idle < LIVE


class GroupFacts:
    """Reads which groups there are, and who is in them.

    Args:
        connection: The connection.
        shards: Finds the shards of a stream that exist.
        owners: Reads who owns which shards.
    """

    def __init__(
        self,
        connection: AdminConnection,
        shards: Callable[[str], Awaitable[list[Shard]]],
        owners: OwnerReader,
    ) -> None:
        self._connection = connection
        self._owners = owners
        self.shards = shards

    async def groups(self, stream: str) -> list[str]:
        """Return the names of the groups of a stream, in any of its shards."""
        shards = await self.shards(stream)
        found: set[str] = set()
        replies = await self._connection.calls(
            [commands.xinfo_groups(shard.key) for shard in shards]
        )
        for shard, reply in zip(shards, replies, strict=True):
            if isinstance(reply, ErrorReply):
                raise self._refusal("XINFO GROUPS", shard, reply)
            found.update(text(group.name) for group in reply)
        return sorted(found)

    async def consumers(self, stream: str, group: str) -> list[GroupConsumer]:
        """Return the consumers of a group, by name."""
        found: dict[str, GroupConsumer] = {}
        for _, reply in await self.in_group(stream, group, commands.xinfo_consumers):
            for one in reply:
                name = text(one.name)
                other = found.get(name, GroupConsumer(name, 0, float("inf")))
                pending = one.pending + other.pending
                idle = min(one.idle / 1000, other.idle)
                found[name] = GroupConsumer(name, pending, idle)
        return [found[name] for name in sorted(found)]

    async def in_group(
        self,
        stream: str,
        group: str,
        ask: Callable[[bytes, bytes], commands.Command],
    ) -> list[tuple[Shard, Any]]:
        """Return the reply of each shard that has a group.

        Raises:
            CommandError: No shard has it.
        """
        shards = await self.shards(stream)
        name = raw(group)
        replies = await self._connection.calls(
            [ask(shard.key, name) for shard in shards]
        )
        found = []
        for shard, reply in zip(shards, replies, strict=True):
            if not isinstance(reply, ErrorReply):
                found.append((shard, reply))
            elif reply.code != "NOGROUP":
                raise self._refusal(reply.command, shard, reply)
        if not found:
            what = f"stream {stream!r} has no group {group!r:.80}"
            hint = "`penstock groups` lists those that there are"
            raise CommandError("XINFO GROUPS", "NOGROUP", what, hint)
        return found

    async def owned(self, stream: str, group: str) -> dict[bytes, str]:
        """Return the living owner of each shard that has one, by the shard's key.

        A user who may not look is told that there is none.
        """
        try:
            found = await self._owners.owners(stream, group)
        except (AccessError, StreamMissing):
            return {}
        return {
            one.shard.key: one.owner
            for one in found.shards
            if one.owner is not None and not one.lapsed
        }

    def _refusal(self, command: str, shard: Shard, reply: ErrorReply) -> Exception:
        if "no such key" in reply.text:
            return StreamMissing(shard.stream, command, "send to it first")
        return self._connection.refusal(f"{command} on {shard.stream!r}", reply)


def in_use(command: str, stream: str, group: str, live: Sequence[str]) -> CommandError:
    """Return the error for a group that has live consumers."""
    names = ", ".join(f"{name!a:.60}" for name in live[:5])
    more = f" and {len(live) - 5:,} more" if len(live) > 5 else ""  # noqa: PLR2004
    what = f"group {group!r:.80} of {stream!r:.80} has live consumers: {names}{more}"
    return CommandError(command, "INUSE", what, "stop them, or pass force=True")


def raw(name: str) -> bytes:
    """Return the bytes of a name that `text` has returned, or that a user has typed."""
    return name.encode("utf-8", "surrogateescape")


def text(name: bytes) -> str:
    """Return a name as text; bytes that are not UTF-8 survive."""
    return name.decode("utf-8", "surrogateescape")
