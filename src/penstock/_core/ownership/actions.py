"""Actions: what a member and its shards ask their tasks to do, as values.

They are equal only if they are of the same kind, which tuples without facts are not.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TypeAlias

from msgspec import Struct

from penstock._core.ownership.target import Target
from penstock._core.ownership.tokens import Token

__all__ = [
    "Abandon",
    "Assign",
    "Beat",
    "CallAssigned",
    "CallLost",
    "CallRevoked",
    "ClaimStrays",
    "DropQueue",
    "Free",
    "HandOut",
    "Keep",
    "Leave",
    "MemberAction",
    "NameInUse",
    "News",
    "Own",
    "Recover",
    "ShardAction",
    "Take",
    "VersionSeen",
]


class Beat(Struct, frozen=True):
    """Send a beat, with the version of the known target."""

    known: int
    join: bool


class Assign(Struct, frozen=True):
    """Store a target that was computed from the version `seen`."""

    seen: int
    least: int
    target: Target


class Leave(Struct, frozen=True):
    """Have the member removed."""


class News(Struct, frozen=True):
    """Publish that there is something to look at."""


class Own(Struct, frozen=True):
    """Have these shards and no others, by the target of this version."""

    version: int
    shards: AbstractSet[int]


class Take(Struct, frozen=True):
    """Send a TAKE."""

    version: int
    serial: int
    least: int


class Keep(Struct, frozen=True):
    """Send a KEEP."""

    token: Token


class Free(Struct, frozen=True):
    """Send a FREE."""

    token: Token


class Recover(Struct, frozen=True):
    """Have what is pending recorded before anything else is read; report `recovered`.

    If `claim`, claim what is pending for others first, until nothing is left. A claim
    that was lost may be executed later, and take entries for a former name. So whoever
    lists what is pending looks behind each page for that (`page_answered`).
    """

    token: Token
    reader: int
    turn: int
    claim: bool


class ClaimStrays(Struct, frozen=True):
    """Claim what late reads took, and report `strays_recorded`.

    It is recorded with the batch, in the order of ids: either from the replies of the
    claims, or by listing what is pending before anything else is read.
    """

    token: Token
    reader: int


class HandOut(Struct, frozen=True):
    """Record the batch that was read."""


class DropQueue(Struct, frozen=True):
    """Drop what no handler has started."""


class Abandon(Struct, frozen=True):
    """Report that handlers still run after the time to drain; their messages are lost.

    The shard counts no outcome of them any more.
    """


class CallAssigned(Struct, frozen=True):
    """Call `on_assigned`, then report `assigned`."""


class CallRevoked(Struct, frozen=True):
    """Call `on_revoked`, then report `end_told`."""


class CallLost(Struct, frozen=True):
    """Call `on_lost` once `on_assigned` has returned, then report `end_told`."""


class VersionSeen(Struct, frozen=True):
    """Tell the member that the shard has seen a newer target."""

    version: int


class NameInUse(Struct, frozen=True):
    """Report that another process has this member's name."""


MemberAction: TypeAlias = Beat | Assign | Leave | News | Own
ShardAction: TypeAlias = (
    Take
    | Keep
    | Free
    | Recover
    | ClaimStrays
    | HandOut
    | DropQueue
    | Abandon
    | CallAssigned
    | CallRevoked
    | CallLost
    | VersionSeen
    | NameInUse
    | News
)
