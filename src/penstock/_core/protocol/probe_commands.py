"""Commands that probe a server: whether it answers, and what it lets a user do."""

from __future__ import annotations

from penstock._core.protocol.commands import Command, Word

__all__ = ["acl_dryrun", "acl_whoami", "ping"]


def ping() -> Command:
    """Have the server answer."""
    return (b"PING",)


def acl_whoami() -> Command:
    """Ask for the name of this connection's user."""
    return (b"ACL", b"WHOAMI")


def acl_dryrun(user: Word, command: Command) -> Command:
    """Ask whether a user may run a command, without running it; from Redis 7.0 on.

    The reply is `OK`, or says what is not permitted; neither is an error.
    """
    return (b"ACL", b"DRYRUN", user, *command)
