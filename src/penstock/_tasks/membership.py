"""What a consumer is in a group, and how the group is found or made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock._core import commands, replies
from penstock._core.replies import ErrorReply, Trouble
from penstock._link.link import Line
from penstock._link.wire import Wire
from penstock.errors import AccessError, CommandError, ServerError, StreamMissing
from penstock.message import EntryId, Shard

__all__ = ["Membership", "join", "pin", "refusal", "rejoin"]


@dataclass(frozen=True, slots=True)
class Membership:
    """A consumer's place in a group.

    Attributes:
        group: The group's name.
        name: The consumer's name in it.
        mkstream: Whether a missing stream may be made.
        noack: Whether the server takes for acknowledged what it delivers.
    """

    group: str
    name: str
    mkstream: bool
    noack: bool


def refusal(server: str, command: str, error: ErrorReply) -> ServerError:
    """Make the exception for an error reply."""
    if error.code in {"NOAUTH", "NOPERM", "WRONGPASS"}:
        return AccessError(server, error.text)
    return CommandError(command, error.code, error.text)


async def join(
    line: Line, member: Membership, shards: Sequence[Shard], start: bytes
) -> list[bytes]:
    """Make the group where it is missing; gives each shard's floor.

    Args:
        line: The command connection.
        member: The group to join.
        shards: Where it is to be.
        start: The id after which a new group delivers, or `$`.

    Raises:
        StreamMissing: A stream is not there, and may not be made.
        CommandError: A key is no stream, or the like.
        AccessError: The user may not.
        ConnectionLost: The connection ended.
    """
    created = await line.calls(
        [
            commands.xgroup_create(
                shard.key, member.group, start, mkstream=member.mkstream
            )
            for shard in shards
        ]
    )
    for shard, reply in zip(shards, created, strict=True):
        if isinstance(reply, ErrorReply) and reply.code != "BUSYGROUP":
            if "requires the key to exist" in reply.text:
                raise StreamMissing(shard.stream)
            raise refusal(line.server, f"XGROUP CREATE on {shard.stream!r}", reply)
    return await _floors(line, member, shards)


async def _floors(
    line: Line, member: Membership, shards: Sequence[Shard]
) -> list[bytes]:
    """Find per shard an id below which the group has acknowledged everything."""
    asked = [
        command
        for shard in shards
        for command in (
            commands.xinfo_groups(shard.key),
            commands.xpending_summary(shard.key, member.group),
        )
    ]
    answers = iter(await line.calls(asked))
    return [_floor(member, *pair) for pair in zip(answers, answers, strict=True)]


def _floor(member: Membership, groups: Any, summary: Any) -> bytes:
    """The lowest pending id, or without any the last one delivered."""
    if isinstance(groups, ErrorReply) or isinstance(summary, ErrorReply):
        return b"0-0"  # not told: at worst everything comes again
    lowest = replies.lowest_pending(summary)
    if lowest is not None:
        return bytes(EntryId.parse(lowest).previous())
    name = member.group.encode()
    infos = replies.groups(groups)
    return next((i.last_delivered for i in infos if i.name == name), b"0-0")


async def rejoin(
    wire: Wire, member: Membership, shard: Shard, floor: bytes
) -> bytes | None:
    """Make a group that has vanished anew, never at `$`; gives the id, None if not.

    A stream that is younger than the floor was made anew as well, and is read whole.

    Raises:
        ConnectionLost: The connection ended.
    """
    info = await wire.call(commands.xinfo_stream(shard.key))
    if isinstance(info, ErrorReply) or _last_id(info) < EntryId.parse(floor):
        floor = b"0-0"
    reply = await wire.call(
        commands.xgroup_create(shard.key, member.group, floor, mkstream=member.mkstream)
    )
    return None if isinstance(reply, ErrorReply) else floor


async def pin(line: Line, shards: Sequence[Shard]) -> list[bytes]:
    """Give each stream's last id, so that LATEST is a place and not a moving one.

    Raises:
        CommandError: A key is no stream.
        AccessError: The user may not.
        ConnectionLost: The connection ended.
    """
    infos = await line.calls([commands.xinfo_stream(shard.key) for shard in shards])
    found = []
    for shard, info in zip(shards, infos, strict=True):
        if not isinstance(info, ErrorReply):
            found.append(bytes(_last_id(info)))
        elif info.trouble in {Trouble.REPAIR, Trouble.ISOLATE}:
            # No stream yet: all that will be is new. Another type: reading tells.
            found.append(b"0-0")
        else:
            raise refusal(line.server, f"XINFO STREAM on {shard.stream!r}", info)
    return found


def _last_id(info: Any) -> EntryId:
    return EntryId.parse(replies.mapping(info)[b"last-generated-id"])
