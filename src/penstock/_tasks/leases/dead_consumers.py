"""Removal of dead consumers that have no pending entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from penstock._connection.command_connection import CommandConnection
from penstock._core.protocol import commands, replies, scripts
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.group import Membership
from penstock.message import Shard

__all__ = ["reap", "remove"]

# The least idle seconds of a dead consumer: a live one reads every two seconds,
# whatever its lease is.
_LEAST_IDLE: Final = 10.0
# The most entries that may be delivered to a consumer between the check and its
# removal.
_MOST: Final = 1000


async def reap(
    connection: CommandConnection, member: Membership, shard: Shard, lease: float
) -> ErrorReply | None:
    """Remove consumers that have nothing pending and have been idle for a lease.

    Args:
        connection: The command connection.
        member: The place in the group of the consumer that removes others.
        shard: The shard.
        lease: The lease in seconds.

    Returns:
        What the server refused, if it refused something.

    Raises:
        ConnectionLost: The connection ended before the replies.
    """
    [reply] = await connection.calls(
        [commands.xinfo_consumers(shard.key, member.group)]
    )
    if isinstance(reply, ErrorReply):
        return reply
    idle = max(lease, _LEAST_IDLE) * 1000
    for consumer in reply:
        is_self = consumer.name == member.name.encode()
        if not is_self and not consumer.pending and consumer.idle > idle:
            refused = await remove(connection, member, shard, consumer.name)
            if refused is not None:
                return refused
    return None


async def remove(
    connection: CommandConnection, member: Membership, shard: Shard, name: bytes
) -> ErrorReply | None:
    """Remove a consumer unless it has pending entries.

    Args:
        connection: The command connection.
        member: The place in the group of the consumer that removes the other one.
        shard: The shard.
        name: The name of the consumer to remove.

    Returns:
        What the server refused, if it refused something.

    Raises:
        ConnectionLost: The connection ended before the replies.
    """
    script = scripts.remove_empty_consumer(shard.key, member.group, name)
    [reply] = await connection.calls([script])
    if not isinstance(reply, ErrorReply):
        return None
    return await _remove_without_script(connection, member, shard, name)


async def _remove_without_script(
    connection: CommandConnection, member: Membership, shard: Shard, name: bytes
) -> ErrorReply | None:
    """List and remove in one transaction, and restore the entries that went with it.

    Entries that were delivered to the consumer since the check are no longer pending
    after its removal. Claiming them with FORCE makes them pending again, as released.
    """
    group = member.group
    answers = await connection.calls(
        commands.transaction(
            [
                commands.xpending_between(
                    shard.key, group, name, low=b"-", high=b"+", count=_MOST
                ),
                commands.xgroup_delconsumer(shard.key, group, name),
            ]
        )
    )
    done = replies.transaction_replies(answers)
    for part in done:
        if isinstance(part, ErrorReply):
            return part
    return await _put_back(connection, member, shard, done[0])


async def _put_back(
    connection: CommandConnection, member: Membership, shard: Shard, gone: Sequence[Any]
) -> ErrorReply | None:
    if not gone:
        return None
    ids = [pending.id for pending in gone]
    command = commands.xclaim_restore(shard.key, member.group, member.name, ids)
    [reply] = await connection.calls([command])
    return reply if isinstance(reply, ErrorReply) else None
