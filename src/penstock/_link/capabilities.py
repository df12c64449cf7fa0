"""What a server can do beyond the commands that Penstock needs.

Found by asking, never by version: Valkey reports `redis_version` 7.2.4 for
compatibility, and managed servers switch commands off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from penstock._core import commands, replies
from penstock._link.wire import Wire

__all__ = ["Capabilities", "probe"]

_COMMANDS: Final = ("xackdel", "xnack", "waitaof", "eval")
_OPTIONS: Final = ("xreadgroup", "xadd")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Optional commands and options that a server has.

    Attributes:
        xackdel: Acknowledge and delete in one step (Redis 8.2).
        xnack: Give an entry back (Redis 8.8).
        waitaof: Wait for the append-only file (Redis 7.2, Valkey).
        eval: Scripts, unless they are switched off.
        read_claim: XREADGROUP with CLAIM (Redis 8.4).
        idempotent_add: XADD with IDMP (Redis 8.6).
    """

    xackdel: bool = False
    xnack: bool = False
    waitaof: bool = False
    eval: bool = False
    read_claim: bool = False
    idempotent_add: bool = False


async def probe(wire: Wire) -> Capabilities:
    """Ask a server what it has; what it won't say counts as absent.

    Raises:
        ConnectionLost: The connection ended before the replies.
    """
    info, docs = await wire.calls(
        [commands.command_info(_COMMANDS), commands.command_docs(_OPTIONS)]
    )
    known, tokens = _known(info), _documented(docs)
    return Capabilities(
        **dict(zip(_COMMANDS, known, strict=True)),
        read_claim=b"CLAIM" in tokens.get(b"xreadgroup", ()),
        idempotent_add=b"IDMP" in tokens.get(b"xadd", ()),
    )


def _known(info: Any) -> list[bool]:
    if isinstance(info, list) and len(info) == len(_COMMANDS):
        return replies.known_commands(info)
    return [False] * len(_COMMANDS)


def _documented(docs: Any) -> dict[bytes, set[bytes]]:
    try:
        return replies.documented_tokens(docs)
    except (AttributeError, KeyError, TypeError, ValueError):
        # COMMAND DOCS came with Redis 7, what we look for in it is younger; and a
        # proxy may say anything.
        return {}
