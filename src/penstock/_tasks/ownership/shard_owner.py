"""Shard owner: does for one shard what the core asks for, and reports what came of it.

The core is `_core/ownership/shard.py`. Its requests are in `owner_requests.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from penstock import _clock
from penstock._core.ownership import actions as do
from penstock._core.ownership.actions import ShardAction
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.states import ShardState
from penstock._core.ownership.tokens import is_ownership
from penstock._tasks.ownership.callbacks import Kind
from penstock._tasks.ownership.owner_parts import OwnerParts
from penstock._tasks.ownership.owner_requests import OwnerRequests
from penstock._tasks.reading.read_fence import ReadFence
from penstock._tasks.reporting import ShardReporter, id_list
from penstock.message import Shard

__all__ = ["ShardOwner"]

_WITHOUT_READER: Final = frozenset(
    (ShardState.ABSENT, ShardState.TAKING, ShardState.ENDED)
)
# A shard that was given up, and not lost. It is freed at once if it was taken too late.
_GIVEN_UP: Final = frozenset((ShardState.DRAINING, ShardState.FREEING))
# The most consumers that an event names.
_MOST_NAMED: Final = 10
_LONGEST_NAME: Final = 80  # bytes of each


class ShardOwner:
    """Takes a shard, keeps it, and gives it up.

    Args:
        shard: The shard.
        core: Decides.
        parts: What all owners share.
        on_news: Called when other members are to look whether the shard is free.
        on_version: Called with the version of a newer target.

    Attributes:
        shard: The shard.
        core: Decides.
    """

    def __init__(
        self,
        shard: Shard,
        core: OwnedShard,
        parts: OwnerParts,
        *,
        on_news: Callable[[], None],
        on_version: Callable[[int], None],
    ) -> None:
        self.shard = shard
        self.core = core
        self._parts = parts
        self._report = ShardReporter(parts.member.group, parts.on_event).report
        requests = OwnerRequests(shard, core, parts, self.act)
        self._requests: Mapping[type, Callable[[Any], Awaitable[None]]] = {
            do.Take: requests.take,
            do.Keep: requests.keep,
            do.Free: requests.free,
            do.Recover: requests.recover,
            do.ClaimStrays: requests.claim_strays,
        }
        self._steps: Mapping[type, Callable[[Any], None]] = {
            do.DropQueue: self._drop_queue,
            do.Abandon: self._abandon,
            do.CallAssigned: self._call_assigned,
            do.CallRevoked: partial(self._call_ended, Kind.REVOKED),
            do.CallLost: partial(self._call_ended, Kind.LOST),
            do.VersionSeen: lambda action: on_version(action.version),
            do.NameInUse: lambda _: parts.on_name_in_use(),
            do.News: lambda _: on_news(),
            do.HandOut: lambda _: None,  # the reader records what it has read
        }
        self._startable = False
        self._has_reader = False
        self._draining = False
        # When entries of consumers that own nothing are claimed again.
        self._claim_mixed_at = 0.0
        parts.member.owned.add(shard, core)
        parts.ledger.work.hold_shard(shard.key, held=True)

    def fence(self) -> ReadFence:
        """Return what decides for the shard's reader."""
        member = self._parts.member
        return ReadFence(
            self.core,
            key=self.shard.key,
            owner=member.owned.owner_key(self.shard),
            group=member.group,
            act=self.act,
            on_holders=self._look_at_holders,
        )

    # -- what the core asks for --------------------------------------------------------

    def act(self, actions: Sequence[ShardAction]) -> None:
        """Do what the core asks for, and adapt everything else to its new state."""
        for action in actions:
            kind = type(action)
            if kind in self._requests:
                self._parts.spawn(partial(self._requests[kind], action))
            else:
                self._steps[kind](action)
        self._adapt()

    def _adapt(self) -> None:
        """Hold the shard's entries, or let them start; end what has ended."""
        parts, state = self._parts, self.core.state
        parts.ledger.shards.of(self.shard).owned_until = self.core.owned_until
        startable = self.core.may_start(_clock.boottime())
        if startable != self._startable:
            self._startable = startable
            parts.ledger.work.hold_shard(self.shard.key, held=not startable)
            if startable:
                parts.on_startable()
        parts.readers.resume(self.shard)
        if self._draining and state is not ShardState.DRAINING:
            self._draining = False
            parts.on_draining(-1)
        if self._has_reader and state in _WITHOUT_READER:
            parts.spawn(partial(parts.readers.close, self.shard))
        self._has_reader = state not in _WITHOUT_READER
        parts.on_change()

    def fenced(self, current: bytes) -> None:
        """Record that the server has another token than ours."""
        now = _clock.boottime()
        self.act(self.core.fenced(self.core.token, current, now))

    def hold_if_over(self, now: float) -> None:
        """Let no more handlers start if the lease is over."""
        if now >= self.core.starts_until:
            self.act(self.core.due(now))

    # -- giving up ---------------------------------------------------------------------

    def look(self) -> None:
        """Check whether the shard is drained."""
        if not self.core.awaits_handlers:
            return
        self._release()  # what is to be tried again
        if self._parts.ledger.is_done_with(self.shard):
            self.act(self.core.handlers_done(self.core.token))

    def _drop_queue(self, _: do.DropQueue) -> None:
        parts = self._parts
        if self.core.state in _GIVEN_UP:
            self._draining = True
            parts.on_draining(1)
            self._release()
        else:
            facts = self._lose()
            self._report("shard_lost", self.shard, logging.ERROR, **facts)
        parts.spawn(partial(parts.readers.interrupt, self.shard))
        parts.spawn(self._look_soon)

    async def _look_soon(self) -> None:
        self.look()

    def _release(self) -> None:
        parts = self._parts
        if released := parts.ledger.removals.release_waiting(self.shard):
            parts.spawn(partial(parts.release, released))

    def _abandon(self, _: do.Abandon) -> None:
        ledger = self._parts.ledger
        running = ledger.running_of(self.shard)
        unanswered = ledger.unanswered_of(self.shard)
        facts = {**self._lose(), "running": running, "unanswered": unanswered}
        self._report("drain_incomplete", self.shard, logging.WARNING, **facts)

    def _lose(self) -> dict[str, object]:
        """Lose all messages of the shard, and return the facts to be reported."""
        lost = self._parts.ledger.lose_shard(self.shard)
        facts = {"epoch": self.core.token.number, "messages": len(lost)}
        return {**facts, "ids": id_list(lost)}

    # -- others ------------------------------------------------------------------------

    def _look_at_holders(self, holders: Sequence[bytes]) -> None:
        """Report and claim entries of consumers that own nothing."""
        mixed = [name for name in holders if not is_ownership(name)]
        now = _clock.boottime()
        if not mixed or now < self._claim_mixed_at:
            return
        self._claim_mixed_at = now + self._parts.lease
        # Anybody may choose them, and how long they are.
        named = [name[:_LONGEST_NAME] for name in mixed[:_MOST_NAMED]]
        names = tuple(name.decode(errors="replace") for name in named)
        self._report("group_mixed", self.shard, logging.ERROR, consumers=names)
        self.act(self.core.mixed())

    def _call_assigned(self, _: do.CallAssigned) -> None:
        token = self.core.token

        def done(succeeded: bool) -> None:  # noqa: FBT001 - a callback's argument
            core, now = self.core, _clock.boottime()
            end = core.assigned if succeeded else core.assign_failed
            self.act(end(token, now))

        self._parts.callbacks.call(Kind.ASSIGNED, self.shard, done)

    def _call_ended(self, kind: Kind, _: ShardAction) -> None:
        token = self.core.token

        def done(_: bool) -> None:  # noqa: FBT001 - a callback's argument
            self.act(self.core.end_told(token, _clock.boottime()))

        self._parts.callbacks.call(kind, self.shard, done)
