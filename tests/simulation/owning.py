"""Owning: the functions that a program is called with when shards come and go."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, Final, Protocol

from penstock import ConfigurationError, Shard

__all__ = [
    "ASSIGNED",
    "ASSIGNING",
    "LOST",
    "REFUSED",
    "REVOKED",
    "REVOKING",
    "Callbacks",
    "refuses_scripts",
]

ASSIGNING: Final = "assigning"
ASSIGNED: Final = "assigned"
REFUSED: Final = "refused"
REVOKING: Final = "revoking"
REVOKED: Final = "revoked"
LOST: Final = "lost"

# How often a consumer refuses shards, at most.
_REFUSALS: Final = 2


def refuses_scripts(error: BaseException) -> bool:
    """Return whether scripts are refused, without which no shards are owned."""
    return isinstance(error, ConfigurationError) and "scripts" in str(error)


class _Notes(Protocol):
    def note(self, text: str) -> None: ...


class Callbacks:
    """Records which shards a consumer owns, as it is told.

    Each note is a word, the group, and keys: `assigned billing orders:0`.

    Args:
        group: The group.
        notes: Where it is recorded.
        refuses: Whether to refuse some of the first shards.
    """

    def __init__(
        self,
        group: str,
        notes: _Notes,
        *,
        refuses: bool = False,
    ) -> None:
        self._group = group
        self._notes = notes
        self._refusals = _REFUSALS if refuses else 0
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
        if self._refusals and self._chance.random() < 0.5:
            self._refusals -= 1
            self._note(REFUSED, shards)
            raise RuntimeError(REFUSED)
        self._note(ASSIGNED, shards)

    async def _revoked(self, shards: tuple[Shard, ...]) -> None:
        self._note(REVOKING, shards)
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
