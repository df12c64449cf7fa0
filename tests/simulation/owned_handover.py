"""Owned hand-over: what must be over when a member is told that a shard is revoked.

Its handlers have finished and their outcomes are on the server, before anybody else can
have the shard (docs/explanation/owned-shards.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

from faults.history import End, Excuse, Start
from simulation.owned_facts import Place

__all__ = ["HandOver"]

_Ownership: TypeAlias = tuple[str, Place, int]
"""A process, a shard of a group, and the epoch of the shard."""

_ABANDONED: Final = re.compile(
    r"event drain_incomplete .* shard=(\d+) group='(.+)' epoch=(\d+) "
)

# A handler in a thread goes on when its time is over, and its result does not count.
_FAILED: Final = re.compile(r"event handler_failed .* id=(\S+) ")
# Their tasks have ended without coming back, so they have no outcome.
_LEFT: Final = re.compile(r"event not_acknowledged group='(.+?)' .* ids=(\S*)")
# What the server did not take is pending until the shard has another owner.
_DROPPED: Final = re.compile(r"event commit_(?:dropped|mismatch) .* group='(.+?)' ")


class HandOver:
    """Knows which handlers of each ownership run, and what they have done."""

    def __init__(self) -> None:
        self._running: dict[_Ownership, Counter[str]] = {}
        self._done: dict[_Ownership, set[str]] = {}
        # Ownerships of which handlers went on for longer than they may.
        self._abandoned: set[_Ownership] = set()

    def started(self, start: Start) -> None:
        """Record that a handler starts."""
        self._running.setdefault(_ownership(start), Counter())[start.id] += 1

    def ended(self, end: End) -> None:
        """Record that a handler ends."""
        ownership = _ownership(end)
        running = self._running.get(ownership, Counter[str]())
        running[end.id] -= 1
        done = self._done.setdefault(ownership, set())
        (done.add if end.ok else done.discard)(end.id)

    def excused(self, excuse: Excuse) -> None:
        """Forget outcomes that a fault has kept from the server, whatever a client did.

        A stream that was moved away takes no acknowledgement; when it comes back, its
        entries are pending as before.
        """
        for (_, (shard, group), _), done in self._done.items():
            if excuse.group in {"", group}:
                listed = {id_ for id_ in done if f"{shard} {id_}" in excuse.ids}
                done.difference_update(listed if excuse.ids else set(done))

    def noted(self, who: str, text: str) -> None:
        """Record an event of a process."""
        if found := _ABANDONED.match(text):
            place = int(found[1]), found[2]
            self._abandoned.add((who, place, int(found[3])))
        if found := _FAILED.match(text):
            for (owner, _, _), done in self._done.items():
                if owner == who:
                    done.discard(found[1])
        if found := _LEFT.match(text):
            for (owner, (_, group), _), done in self._done.items():
                if (owner, group) == (who, found[1]):
                    done.difference_update(found[2].split(","))
        if found := _DROPPED.match(text):
            for (owner, (_, group), _), done in self._done.items():
                if (owner, group) == (who, found[1]):
                    done.clear()

    def open(
        self, who: str, place: Place, epoch: int, pending: AbstractSet[str]
    ) -> Iterator[str]:
        """Yield what is not over of an ownership.

        Args:
            who: The process.
            place: The shard.
            epoch: The epoch.
            pending: The ids of the entries that are pending in the group.
        """
        ownership = who, place, epoch
        if ownership in self._abandoned:
            return
        for id_, number in self._running.get(ownership, {}).items():
            if number > 0:
                yield f"{id_} is being handled"
        for id_ in sorted(self._done.get(ownership, set()) & pending):
            yield f"{id_} is handled, and not acknowledged"


def _ownership(record: Start | End) -> _Ownership:
    return record.who, (record.shard, record.group), record.epoch
