"""Actions: what a member and its shards ask their tasks to do, as values."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeAlias

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


class Beat(NamedTuple):
    """Send a beat, with the version of the known target."""

    known: int
    join: bool


class Assign(NamedTuple):
    """Store a target that was computed from the version `seen`."""

    seen: int
    least: int
    target: Target


class Leave(NamedTuple):
    """Have the member removed."""


class News(NamedTuple):
    """Publish that there is something to look at."""


class Own(NamedTuple):
    """Have these shards and no others, by the target of this version."""

    version: int
    shards: AbstractSet[int]


class Take(NamedTuple):
    """Send a TAKE."""

    version: int
    serial: int
    least: int


class Keep(NamedTuple):
    """Send a KEEP."""

    token: Token


class Free(NamedTuple):
    """Send a FREE."""

    token: Token


class Recover(NamedTuple):
    """Have what is pending recorded before anything else is read; report `recovered`.

    If `claim`, claim what is pending for others first, until nothing is left. A claim
    that was lost may be executed later, and take entries for a former name. So whoever
    lists what is pending looks behind each page for that (`page_answered`).
    """

    token: Token
    reader: int
    turn: int
    claim: bool


class ClaimStrays(NamedTuple):
    """Claim what late reads took, and report `strays_recorded`.

    It is recorded with the batch, in the order of ids: either from the replies of the
    claims, or by listing what is pending before anything else is read.
    """

    token: Token
    reader: int


class HandOut(NamedTuple):
    """Record the batch that was read."""


class DropQueue(NamedTuple):
    """Drop what no handler has started."""


class Abandon(NamedTuple):
    """Report that handlers still run after the time to drain; their messages are lost.

    The shard counts no outcome of them any more.
    """


class CallAssigned(NamedTuple):
    """Call `on_assigned`, then report `assigned`."""


class CallRevoked(NamedTuple):
    """Call `on_revoked`, then report `end_told`."""


class CallLost(NamedTuple):
    """Call `on_lost` once `on_assigned` has returned, then report `end_told`."""


class VersionSeen(NamedTuple):
    """Tell the member that the shard has seen a newer target."""

    version: int


class NameInUse(NamedTuple):
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
