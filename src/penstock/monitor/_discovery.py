"""The streams that a collector looks at: those that are named, or match a pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from penstock._core.messages.dead_letter import default_stream
from penstock.admin._shards import ShardAdmin
from penstock.message import Shard

__all__ = ["Directory", "is_companion"]

_COMPANION: Final = default_stream("")


class Directory:
    """Finds streams and their shards.

    Args:
        shards: Reads the shards from the server.
        names: The exact names of streams.
        patterns: Shell patterns; without names and patterns, all streams are found.
        companions: Whether streams of dead letters are found by patterns, too.
    """

    def __init__(
        self,
        shards: ShardAdmin,
        names: Sequence[str],
        patterns: Sequence[str],
        *,
        companions: bool,
    ) -> None:
        self._shards = shards
        self._names = names
        self._patterns = patterns
        self._companions = companions

    async def find(self) -> Mapping[str, Sequence[Shard]]:
        """Return the shards of each stream, by name; also of named ones without any.

        Raises:
            PenstockError: See `Admin.streams`.
        """
        found: dict[str, Sequence[Shard]] = {}
        if self._patterns or not self._names:
            found = {
                name: shards
                for name, shards in (await self._shards.layout()).items()
                if self._is_wanted(name)
            }
        for name in self._names:
            if name not in found:
                found[name] = await self._shards.all(name)
        return dict(sorted(found.items()))

    def _is_wanted(self, name: str) -> bool:
        if not self._patterns:
            return self._companions or not is_companion(name)
        return any(self._matches(name, pattern) for pattern in self._patterns)

    def _matches(self, name: str, pattern: str) -> bool:
        """Return whether a pattern finds a stream.

        One that names the ending of the companions means these.
        """
        shown = (
            self._companions or not is_companion(name) or pattern.endswith(_COMPANION)
        )
        return shown and fnmatchcase(name, pattern)


def is_companion(name: str) -> bool:
    """Return whether a stream belongs to another one: it has its dead letters."""
    return name.endswith(_COMPANION) and name != _COMPANION
