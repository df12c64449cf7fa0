"""The hashes of owned shards, as somebody reads them who is no member.

Members learn what is in them from the replies of their scripts. An operator reads the
hashes themselves, also those of a group whose members are all gone. What another
program wrote into a hash counts as the scripts count it: a beat or a number that is
none is 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from penstock._core.protocol.commands import Command, hmget

__all__ = [
    "GroupHash",
    "MemberBeat",
    "OwnerHash",
    "read_group_hash",
    "read_owner",
    "read_owner_hash",
]

_MEMBER: Final = b"m:"
_BEAT: Final = re.compile(rb"([0-9]{1,18}) ([0-9]{1,18})")
_NUMBER: Final = re.compile(rb"[0-9]{1,18}")


class MemberBeat(NamedTuple):
    """A member in its group's hash.

    Attributes:
        at: The time of its last beat, by the server's clock in milliseconds.
        weight: Its weight, from 1.
    """

    at: int
    weight: int


class GroupHash(NamedTuple):
    """The hash of a group.

    Attributes:
        version: The version of the target; 0 if there is none.
        target: The target, encoded; None if there is none.
        members: The members by name.
    """

    version: int
    target: bytes | None
    members: Mapping[str, MemberBeat]


class OwnerHash(NamedTuple):
    """The hash of a shard.

    Attributes:
        token: The token of the present ownership; None if the shard is free.
        member: The owner's name; empty if the shard is free.
        number: The number of the last ownership; 0 if there was none.
        until: When the owner's lease ends, by the server's clock in milliseconds.
        version: The highest version of a target that was seen here.
    """

    token: bytes | None
    member: str
    number: int
    until: int
    version: int


def read_group_hash(fields: Mapping[bytes, bytes]) -> GroupHash:
    """Return what the fields of a group's hash say.

    A name that is not UTF-8 is left out: no member has such a name.
    """
    members: dict[str, MemberBeat] = {}
    for field, value in fields.items():
        if field.startswith(_MEMBER):
            with suppress(UnicodeDecodeError):
                members[field.removeprefix(_MEMBER).decode()] = _beat(value)
    return GroupHash(_number(fields.get(b"v")), fields.get(b"a"), members)


def read_owner(owner: bytes) -> Command:
    """Read the hash of a shard; see `read_owner_hash`."""
    return hmget(owner, (b"token", b"owner", b"number", b"until", b"v"))


def read_owner_hash(values: Sequence[bytes | None]) -> OwnerHash:
    """Return what the reply to `read_owner` says."""
    token, member, number, until, version = values
    return OwnerHash(
        token,
        (member or b"").decode("utf-8", "surrogateescape"),
        _number(number),
        _number(until),
        _number(version),
    )


def _beat(value: bytes) -> MemberBeat:
    found = _BEAT.fullmatch(value)
    if found is None:
        return MemberBeat(0, 1)
    return MemberBeat(int(found[1]), max(1, int(found[2])))


def _number(value: bytes | None) -> int:
    return 0 if value is None or _NUMBER.fullmatch(value) is None else int(value)
