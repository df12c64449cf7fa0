"""Optional server features: checks for commands that only some producers need.

A feature is found by trying it, never by version: Valkey reports `redis_version` 7.2.4
for compatibility, and managed servers disable commands.
"""

from __future__ import annotations

from typing import Final

from penstock._connection.connection import Connection
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.protocol.scripts import may_script
from penstock._core.sending import durability
from penstock.errors import ConfigurationError

__all__ = ["require"]


async def require(
    connection: Connection,
    *,
    scripts: bool = False,
    replicas: bool = False,
    durable: bool = False,
) -> None:
    """Check, by trying, that the server supports a producer's options.

    Args:
        connection: A connection that has written nothing.
        scripts: Whether to check what `idempotent=True` needs.
        replicas: Whether to check what `replicas=` needs.
        durable: Whether to check what `durable=True` needs.

    Raises:
        ConfigurationError: The server does not have a needed command, or forbids it, or
            confirms what is not on its disk yet.
        ConnectionLost: The connection ended before the replies.
    """
    tries: list[tuple[str, Command]] = []
    if scripts:
        tries.append((_NO_SCRIPTS, may_script()))
    if replicas:
        tries.append((_NO_WAIT, commands.wait(0, 1)))
    if durable:
        tries.append((_NO_WAIT_AOF, commands.wait_aof(0, 1)))
    questions = durability.QUESTIONS if durable else ()
    answers = await connection.calls([*(command for _, command in tries), *questions])
    facts = [answers.pop() for _ in questions][::-1]
    for (sentence, _), reply in zip(tries, answers, strict=True):
        # A transient error says nothing about what the server supports.
        if isinstance(reply, ErrorReply) and not reply.temporary:
            where = f"{connection.address.name} says: {reply.text}"
            raise ConfigurationError(f"{sentence}; {where}")
    if durable and (sync := durability.file_sync(facts)).believed is False:
        raise ConfigurationError(
            f"durable=True can't be kept by {connection.address.name}: {sync.reason}; "
            f"set appendfsync to always, upgrade to Redis 8.2, or leave durable=True "
            f"out"
        )


_NO_SCRIPTS: Final = (
    "idempotent=True needs scripts (EVAL), which this server or its ACL refuses: allow "
    "them, or choose resend=True, with which a lost reply may store a message twice"
)
_NO_WAIT: Final = (
    "replicas= needs the command WAIT, which this server or its ACL refuses: connect "
    "to a primary, allow it, or leave replicas= out"
)
_NO_WAIT_AOF: Final = (
    "durable=True needs WAITAOF (Redis 7.2, Valkey) and a primary that has "
    "'appendonly yes': upgrade the server, set appendonly to yes, allow WAITAOF in "
    "the ACL, or leave durable=True out"
)
