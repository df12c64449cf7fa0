"""The states of a member and of an owned shard, and the events between them.

A member of a group that owns shards:

    OUT ──open──> JOINING ──answered──> IN ──close──> LEAVING ──all absent──> OUT
                     ^ └──────close────────────────────^
                     └────────removed─── IN

- JOINING: it has asked to be a member, and has not been answered.
- IN: it is a member, and beats. A beat without an answer changes nothing: its shards
  have leases of their own.
- LEAVING: it takes nothing more, and gives up what it has.

A shard, as its member sees it:

    ABSENT ──take──> TAKING ──taken──> RECOVERING ──recovered──> LIVE ──lease over──┐
       ^ ^──refused─────┘               ^  ^  │                 │  ^                v
       │                        back    │  └──│───rename────────┤  └──kept────────HELD
       │                          ┌─────┘     v                 v                  │
       ├──freed── FREEING <─drained── DRAINING <────────give up────────────────────┘
       │
       └──settled── LOST <──fenced── (any with a token)      LOST ──namesake──> ENDED

- ABSENT: this member has no token for it. TAKING: it has asked for one.
- RECOVERING: the token is ours. What is pending is claimed, listed and recorded, and
  `on_assigned` runs. Nothing is read, and no handler starts.
- LIVE: it is read, and handlers start. When a read or a claim is lost with its
  connection, the shard is recovered under another name (`rename`).
- HELD: its lease is over by our clock, because this process stood still or the server
  did not answer. Nothing is read and no handler starts until the server has said that
  the token is still ours.
- DRAINING: it is to be given up. Handlers that run go on, and their outcomes are
  sent. Then `on_revoked` runs.
- FREEING: everything under the token is answered, and the server is told.
- LOST: the server has another token. Outcomes of what was started do not count.
- ENDED: another process with this member's name has taken it. This one takes nothing
  any more, since both would fence each other forever.

`MEMBER` and `SHARD` are these pictures as data, and complete. An event in a state that
its table does not list is a bug and raises `IllegalTransition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

__all__ = ["MEMBER", "SHARD", "IllegalTransition", "MemberState", "ShardState", "move"]


class MemberState(Enum):
    """The state of a member; see the module's docstring."""

    OUT = 1
    JOINING = 2
    IN = 3
    LEAVING = 4


class ShardState(Enum):
    """The state of a shard; see the module's docstring."""

    ABSENT = 1
    TAKING = 2
    RECOVERING = 3
    LIVE = 4
    HELD = 5
    DRAINING = 6
    FREEING = 7
    LOST = 8
    ENDED = 9


S = TypeVar("S", MemberState, ShardState)

_OUT: Final = MemberState.OUT
_JOINING: Final = MemberState.JOINING
_IN: Final = MemberState.IN
_LEAVING: Final = MemberState.LEAVING

MEMBER: Final[Mapping[str, Mapping[MemberState, MemberState]]] = {
    "open": {_OUT: _JOINING},
    "answered": {_JOINING: _IN},
    "removed": {_IN: _JOINING},
    "close": {_JOINING: _LEAVING, _IN: _LEAVING},
    "all absent": {_LEAVING: _OUT},
}

_ABSENT: Final = ShardState.ABSENT
_TAKING: Final = ShardState.TAKING
_RECOVERING: Final = ShardState.RECOVERING
_LIVE: Final = ShardState.LIVE
_HELD: Final = ShardState.HELD
_DRAINING: Final = ShardState.DRAINING
_FREEING: Final = ShardState.FREEING
_LOST: Final = ShardState.LOST
_ENDED: Final = ShardState.ENDED

SHARD: Final[Mapping[str, Mapping[ShardState, ShardState]]] = {
    "take": {_ABSENT: _TAKING},
    "taken": {_TAKING: _RECOVERING},
    "refused": {_TAKING: _ABSENT},
    "recovered": {_RECOVERING: _LIVE},
    "lease over": {_LIVE: _HELD},
    "kept": {_HELD: _LIVE},
    "rename": {_LIVE: _RECOVERING, _HELD: _RECOVERING},
    "give up": {_RECOVERING: _DRAINING, _LIVE: _DRAINING, _HELD: _DRAINING},
    "back": {_DRAINING: _RECOVERING},
    "drained": {_DRAINING: _FREEING},
    "freed": {_FREEING: _ABSENT},
    "fenced": {_RECOVERING: _LOST, _LIVE: _LOST, _HELD: _LOST, _DRAINING: _LOST},
    "settled": {_LOST: _ABSENT},
    "namesake": {_LOST: _ENDED},
}

# States in which the token is ours, as far as this member knows.
OWNED: Final = frozenset((_RECOVERING, _LIVE, _HELD, _DRAINING))


class IllegalTransition(AssertionError):  # noqa: N818 - it names what happened
    """An event met a state that its table has no line for: a bug in Penstock."""

    def __init__(self, event: str, state: Enum) -> None:
        super().__init__(
            f"{event} is not possible in state {state.name}; this is a bug in "
            f"Penstock, please report it"
        )


def move(table: Mapping[str, Mapping[S, S]], event: str, state: S) -> S:
    """Return the state to which an event leads.

    Raises:
        IllegalTransition: The table does not have the event in this state.
    """
    found = table[event].get(state)
    if found is None:
        raise IllegalTransition(event, state)
    return found
