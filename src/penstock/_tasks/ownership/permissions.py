"""Permissions of owned shards: what a user lacks is raised on opening."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._tasks.group import refusal
from penstock.errors import AccessError, ConfigurationError, PenstockError

__all__ = ["check_allowed"]


def check_allowed(server: str, replies: Iterable[Any]) -> None:
    """Raise what keeps a consumer from owning shards.

    Args:
        server: The server's name.
        replies: The replies of first beats, or of checks.

    Raises:
        ConfigurationError: The server refuses scripts.
        AccessError: The user lacks another permission.
        CommandError: The server can't answer at present.
    """
    missing: dict[str, ErrorReply] = {}
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise _refused(server, reply)
        if isinstance(reply, dict):  # of a check; that of a beat is a tuple
            missing |= reply
    if missing:
        text = next(iter(missing.values())).text
        raise AccessError(
            server, f"{text}; owned shards need in scripts: {', '.join(missing)}"
        )


def _refused(server: str, reply: ErrorReply) -> PenstockError:
    error = refusal(server, "EVAL (owned shards)", reply)
    another = reply.code == "NOPERM" and "'eval'" not in reply.text.lower()
    if reply.kind is not ErrorKind.FATAL or another:
        return error
    wrong = ConfigurationError(
        "owned shards need scripts, which this server or user does not allow; "
        "allow EVAL, or leave ownership= out"
    )
    wrong.__cause__ = error
    return wrong
