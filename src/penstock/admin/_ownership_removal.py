"""Removal of what groups have noted about who owns the shards of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from penstock._core.ownership.keys import members_key, owner_key
from penstock._core.protocol import commands, ownership_scripts
from penstock._core.protocol.replies import ErrorReply
from penstock.admin._connection import AdminConnection
from penstock.message import Shard

__all__ = ["delete_ownership", "delete_ownership_of_group"]

# The most commands of one write.
_PAGE: Final = 1000


async def delete_ownership(
    connection: AdminConnection, stream: str, shards: Sequence[Shard]
) -> None:
    """Delete the hashes of groups whose members have owned shards of a stream.

    Those of a group that has a living owner stay: its members go on with them. Nothing
    is raised if the user may not look at the hashes or delete them; then they stay too.

    Args:
        connection: The connection.
        stream: The stream, whose groups still exist.
        shards: Its shards.

    Raises:
        ServerError: See `AdminConnection.calls`.
    """
    for group in await _owning_groups(connection, stream, shards):
        await delete_ownership_of_group(connection, stream, group, shards)


async def delete_ownership_of_group(
    connection: AdminConnection, stream: str, group: str, shards: Sequence[Shard]
) -> None:
    """Delete the hashes of one group, see `delete_ownership`.

    Raises:
        ServerError: See `AdminConnection.calls`.
    """
    keys = [owner_key(shard.key, group) for shard in shards]
    replies: list[object] = []
    for page in _pages(keys):
        forgotten = map(ownership_scripts.forget, page)
        replies += await connection.calls(list(forgotten))
    if all(reply == 1 for reply in replies):
        key = members_key(stream.encode(), group)
        await connection.calls([commands.unlink(key)])


async def _owning_groups(
    connection: AdminConnection, stream: str, shards: Sequence[Shard]
) -> list[str]:
    """Return the groups of a stream that have a hash of members."""
    names: dict[str, None] = {}
    for page in _pages([shard.key for shard in shards]):
        for reply in await connection.calls([*map(commands.xinfo_groups, page)]):
            if not isinstance(reply, ErrorReply):  # the shard may be missing
                # A name that is not UTF-8 is none of Penstock's.
                found = (one.name.decode(errors="replace") for one in reply)
                names |= dict.fromkeys(found)
    groups = list(names)
    keys = [members_key(stream.encode(), group) for group in groups]
    asked = [commands.exists([key]) for key in keys]
    answers = await connection.calls(asked) if asked else []
    return [group for group, reply in zip(groups, answers, strict=True) if reply == 1]


def _pages(keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (keys[start : start + _PAGE] for start in range(0, len(keys), _PAGE))
