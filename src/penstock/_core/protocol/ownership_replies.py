"""Replies of the scripts of owned shards, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock._core.protocol.reply_types import ReplyParser, check_ids, typed

__all__ = [
    "Assigned",
    "Beaten",
    "Fenced",
    "Guarded",
    "Refused",
    "Taken",
    "or_fenced",
    "read_assigned",
    "read_beat",
    "read_guarded",
    "read_kept",
    "read_taken",
]


class Beaten(NamedTuple):
    """The reply to a beat.

    Attributes:
        version: The version of the target; 0 if there is none.
        target: The target, encoded; None if it is the known one, or if there is none.
        members: The weight of each member.
    """

    version: int
    target: bytes | None
    members: Mapping[str, int]


class Assigned(NamedTuple):
    """The reply to `assign`.

    Attributes:
        stored: Whether the target was stored.
        version: The version of the target that is there now.
    """

    stored: bool
    version: int


_beaten_typed: Final = typed(tuple[int, int, bytes | None, list[Any]])
_members_typed: Final = typed(dict[str, int])
_pair_typed: Final = typed(tuple[int, int])


def read_beat(command: Command, reply: Any) -> Beaten | None:
    """Read the reply of BEAT; None: the member was removed.

    Raises:
        ProtocolError: It is malformed.
    """
    if reply == [0]:
        return None
    _, version, target, told = _beaten_typed(command, reply)
    if len(told) % 2 or not all(type(name) is bytes for name in told[::2]):
        raise ProtocolError
    try:
        names = [name.decode() for name in told[::2]]
    except UnicodeDecodeError:
        raise ProtocolError from None
    members = _members_typed(command, dict(zip(names, told[1::2], strict=True)))
    # A weight that somebody else wrote must not end the planning of all.
    return Beaten(
        version, target, {name: max(1, weight) for name, weight in members.items()}
    )


def read_assigned(command: Command, reply: Any) -> Assigned:
    """Read the reply of ASSIGN.

    Raises:
        ProtocolError: It is malformed.
    """
    stored, version = _pair_typed(command, reply)
    return Assigned(bool(stored), version)


class Taken(NamedTuple):
    """The reply to `take` that the shard is the member's.

    Attributes:
        number: The number of the ownership.
        more: Whether entries are left that are pending for others.
        kept: Why consumers of former ownerships could not be removed, if they could
            not.
    """

    number: int
    more: bool
    kept: ErrorReply | None = None


class Refused(NamedTuple):
    """The reply to `take` that it is not.

    Attributes:
        why: `held`: another has it, whose lease runs. `old`: a newer target was seen
            here. `stale`: the member has asked for it again since.
        value: For `held` the rest of the lease in milliseconds, for `old` the version
            that was seen.
    """

    why: str
    value: int


class Fenced(NamedTuple):
    """The reply that the token was not the server's, and nothing was done.

    Attributes:
        token: The server's token; empty if the shard is free.
    """

    token: bytes


class Guarded(NamedTuple):
    """The reply to `guard`.

    Attributes:
        claimed: The ids that were claimed.
        more: Whether entries are left that are to be claimed.
        replies: The reply of each command.
    """

    claimed: Sequence[bytes]
    more: bool
    replies: Sequence[Any]


_taken_typed: Final = typed(tuple[bytes, int, int, bytes])
_refused_typed: Final = typed(tuple[bytes, int])
_kept_typed: Final = typed(tuple[int, bytes])
_fenced_typed: Final = typed(tuple[bytes, bytes])
_guarded_typed: Final = typed(tuple[int, bytes, list[bytes], int, list[Any]])
_REFUSALS: Final = {b"held": "held", b"old": "old", b"stale": "stale"}


def read_taken(command: Command, reply: Any) -> Taken | Refused:
    """Read the reply of TAKE.

    Raises:
        ProtocolError: It is malformed.
    """
    if type(reply) is list and reply[:1] == [b"yours"]:
        _, number, more, kept = _taken_typed(command, reply)
        refusal = ErrorReply(kept.decode(errors="replace")) if kept else None
        return Taken(number, bool(more), refusal)
    why, value = _refused_typed(command, reply)
    if why not in _REFUSALS:
        raise ProtocolError
    return Refused(_REFUSALS[why], value)


def read_kept(command: Command, reply: Any) -> Fenced | None:
    """Read the reply of KEEP or FREE; None: it was done.

    Raises:
        ProtocolError: It is malformed.
    """
    done, token = _kept_typed(command, reply)
    return None if done else Fenced(token)


def read_guarded(command: Command, reply: Any) -> Guarded | Fenced:
    """Read the reply of GUARD.

    Raises:
        ProtocolError: It is malformed.
    """
    if type(reply) is list and reply[:1] == [0]:
        _, token = _kept_typed(command, reply)
        return Fenced(token)
    _, _, claimed, more, replies = _guarded_typed(command, reply)
    check_ids(claimed)
    return Guarded(claimed, bool(more), [_inner(one) for one in replies])


def or_fenced(parser: ReplyParser) -> ReplyParser:
    """Return a parser for the replies of a script's fenced form."""

    def parse(command: Command, reply: Any) -> Any:
        if type(reply) is list and reply[:1] == [b"fenced"]:
            _, token = _fenced_typed(command, reply)
            return Fenced(token)
        return parser(command, reply)

    return parse


def _inner(reply: Any) -> Any:
    refused = type(reply) is bytes and reply.startswith(b"!")
    return ErrorReply(reply[1:].decode(errors="replace")) if refused else reply
