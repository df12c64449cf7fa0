"""A member of a group that owns shards: its beats, and the target that it plans by.

The methods are events. They return what the tasks have to do next. Every member that
sees a target which does not suit the members computes the next one and stores it; the
server takes the first. Only the first member by name adds shards that appear, so that
not all of them have to look for new ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock._core.ownership.actions import (
    Assign,
    Beat,
    Leave,
    MemberAction,
    News,
    Own,
)
from penstock._core.ownership.states import MEMBER, MemberState, move
from penstock._core.ownership.target import Target, decode, plan
from penstock._core.protocol.ownership_replies import Assigned, Beaten

__all__ = ["BEAT_AFTER", "Member"]

BEAT_AFTER: Final = 0.2
"""The part of a lease after which a member beats again."""

_TAKING_PART: Final = frozenset((MemberState.JOINING, MemberState.IN))


class Member:
    """A member.

    Args:
        name: Its name.
        lease: The lease in seconds.
        static: Whether its place is kept for a lease when it closes, for a successor of
            the same name.
        settle: How long a new group waits for more members before the first plan, in
            seconds.

    Attributes:
        state: Its state.
        version: The version of the target; 0 if there is none.
        target: The target, as this member knows it.
    """

    __slots__ = (
        "_again",
        "_asked_at",
        "_beating",
        "_first_at",
        "_lease",
        "_least",
        "_name",
        "_settle",
        "_shards",
        "_static",
        "_waiting",
        "state",
        "target",
        "version",
    )

    def __init__(
        self, name: str, *, lease: float, static: bool = False, settle: float = 0.0
    ) -> None:
        self.state = MemberState.OUT
        self.version = 0
        self.target: Target = {}
        self._name = name
        self._lease = lease
        self._static = static
        self._settle = settle
        self._shards: frozenset[int] = frozenset()
        # Whether a beat or a target has been sent and not been answered.
        self._waiting = False
        # Whether to beat once more after that.
        self._again = False
        self._asked_at = float("-inf")
        self._first_at: float | None = None
        self._least = 0

    # -- events ------------------------------------------------------------------------

    def open(self, shards: Iterable[int], now: float) -> list[MemberAction]:
        """Join; `shards` are those that exist."""
        self._move("open")
        self._shards = frozenset(shards)
        return self._beat(now)

    def shards_found(self, shards: Iterable[int], now: float) -> list[MemberAction]:
        """More shards were found; the target may have had them before this member."""
        self._shards |= frozenset(shards)
        return [*self._own(), *self.news(now)]

    def news(self, now: float) -> list[MemberAction]:
        """Another member has changed something."""
        if not self._beats():
            return []
        if self._waiting:
            self._again = True
            return []
        return self._beat(now)

    def version_seen(self, version: int, now: float) -> list[MemberAction]:
        """A shard has seen a newer target than this member."""
        self._least = max(self._least, version)
        return self.news(now)

    def due(self, now: float) -> list[MemberAction]:
        """Time has passed."""
        return self._beat(now) if now >= self.due_at() else []

    def due_at(self) -> float:
        """Return when `due` has something to do next."""
        if self._waiting or not self._beats():
            return float("inf")
        due = self._asked_at + self._lease * BEAT_AFTER
        if self._first_at is not None and not self.version:
            due = min(due, max(self._asked_at, self._first_at + self._settle))
        return due

    def beat_lost(self, now: float) -> list[MemberAction]:
        """The reply of BEAT or ASSIGN was lost: the next beat tells what is true."""
        self._waiting = False
        return self._beat(now) if self._beats() else []

    def beaten(self, reply: Beaten | None, now: float) -> list[MemberAction]:
        """BEAT was answered; None: the member was removed."""
        self._waiting = False
        if reply is None:
            return self._removed(now)
        joined = self.state is MemberState.JOINING
        if joined:
            self._move("answered")
        if self._first_at is None:
            self._first_at = now
        new = self._learn(reply)
        actions = self._own() if new or joined else []
        if self.state is not MemberState.IN:
            return actions
        settled = reply.version or now >= self._first_at + self._settle
        target = self._plan(reply) if settled else self.target
        if target != self.target or self.version < self._least:
            self._waiting = True
            return [*actions, Assign(self.version, self._least, target)]
        return actions + self._once_more(now)

    def assigned(
        self, reply: Assigned, target: Target, now: float
    ) -> list[MemberAction]:
        """ASSIGN was answered: the target was stored, or another was before it."""
        self._waiting = False
        if not reply.stored:
            return self._beat(now) if self._beats() else []
        self.version, self.target = reply.version, target
        return [News(), *self._own(), *self._once_more(now)]

    def close(self) -> list[MemberAction]:
        """Leave: give up all shards, and the place unless it is kept."""
        self._move("close")
        return [*self._own(), *self._leave()]

    def leave_lost(self) -> list[MemberAction]:
        """The reply of LEAVE was lost."""
        return self._leave() if self.state is MemberState.LEAVING else []

    def all_absent(self) -> None:
        """No shard is left."""
        self._move("all absent")

    # -- beating -----------------------------------------------------------------------

    def _beats(self) -> bool:
        """Return whether this member beats: one whose place is kept until it is out."""
        leaving = self.state is MemberState.LEAVING and self._static
        return leaving or self.state in _TAKING_PART

    def _beat(self, now: float) -> list[MemberAction]:
        self._waiting = True
        self._again = False
        self._asked_at = now
        return [Beat(self.version, self.state is MemberState.JOINING)]

    def _once_more(self, now: float) -> list[MemberAction]:
        return self._beat(now) if self._again and self._beats() else []

    def _removed(self, now: float) -> list[MemberAction]:
        """Join again. The shards stay until the target says that they are another's."""
        if self.state is not MemberState.IN:
            return []
        self._move("removed")
        return self._beat(now)

    def _leave(self) -> list[MemberAction]:
        return [] if self._static else [Leave(), News()]

    # -- planning ----------------------------------------------------------------------

    def _learn(self, reply: Beaten) -> bool:
        """Take over the server's target, and return whether it is another one.

        If there is none, because the hash was deleted, the known one goes on.
        """
        if reply.version == self.version:
            return False
        self._least = max(self._least, self.version)
        if not reply.version:
            self.version = 0
            return False
        known = None if reply.target is None else decode(reply.target)
        self.version, self.target = reply.version, known or {}
        return True

    def _plan(self, reply: Beaten) -> Target:
        shards = set(self.target)
        if not shards or self._name == min(reply.members):
            shards |= self._shards
        return plan(self.target, reply.members, shards)

    def _own(self) -> list[MemberAction]:
        own = (shard for shard, name in self.target.items() if name == self._name)
        # One that has left may still be told a target.
        taking = self.state in _TAKING_PART
        return [Own(self.version, frozenset(own if taking else ()))]

    def _move(self, event: str) -> None:
        self.state = move(MEMBER, event, self.state)
