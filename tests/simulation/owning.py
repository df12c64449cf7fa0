"""Owning: the functions that a program is called with when shards come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

from penstock import Shard

__all__ = ["ASSIGNED", "ASSIGNING", "LOST", "REFUSED", "REVOKED", "Callbacks"]

ASSIGNING: Final = "assigning"
ASSIGNED: Final = "assigned"
REFUSED: Final = "refused"
REVOKED: Final = "revoked"
LOST: Final = "lost"


class _Notes(Protocol):
    def note(self, text: str) -> None: ...


class Callbacks:
    """Records which shards a consumer owns, as it is told.

    Each note is a word, the group, and keys: `assigned billing orders:0`.

    Args:
        group: The group.
        notes: Where it is recorded.
        refuses: Returns whether to refuse some shards.
    """

    def __init__(
        self,
        group: str,
        notes: _Notes,
        refuses: Callable[[], bool] = lambda: False,
    ) -> None:
        self._group = group
        self._notes = notes
        self._refuses = refuses
        self._chance = Random(group)

    @property
    def options(self) -> dict[str, Any]:
        """The options of a consumer."""
        return {
            "on_assigned": self._assigned,
            "on_revoked": self._revoked,
            "on_lost": self._lost,
        }

    async def _assigned(self, shards: tuple[Shard, ...]) -> None:
        self._note(ASSIGNING, shards)
        await self._take_time()
        if self._refuses():
            self._note(REFUSED, shards)
            raise RuntimeError(REFUSED)
        self._note(ASSIGNED, shards)

    async def _revoked(self, shards: tuple[Shard, ...]) -> None:
        await self._take_time()
        self._note(REVOKED, shards)

    async def _lost(self, shards: tuple[Shard, ...]) -> None:
        await self._take_time()
        self._note(LOST, shards)

    async def _take_time(self) -> None:
        await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.001, 0.1)))

    def _note(self, word: str, shards: tuple[Shard, ...]) -> None:
        names = " ".join(shard.key.decode() for shard in shards)
        self._notes.note(f"{word} {self._group} {names}")
