"""Shard choice: the shards that a producer's messages go to, each validated once."""

from __future__ import annotations

from typing import Final

from penstock._core.messages import shard_keys
from penstock._tasks.shard_checks import ShardChecks
from penstock.events import OnEvent
from penstock.message import Shard
from penstock.sharding import Spread

__all__ = ["ShardChoice"]

# The most shards that are remembered, about 1 MB of them.
_MOST: Final = 4096


class ShardChoice:
    """Chooses shards, and has streams compared with their records.

    Args:
        spread: How streams are spread over keys; None: a stream is one key.
        on_event: Called if a record differs or can't be read.

    Attributes:
        checks: Compares how streams are spread with their records.
        single: The shards of streams that are one key, by stream; those that earlier
            messages went to.
    """

    def __init__(self, spread: Spread | None, on_event: OnEvent) -> None:
        self._spread = spread
        self._on_event = on_event
        self.single: dict[str, Shard] = {}
        # The shards of streams that are spread.
        self._numbered: dict[tuple[str, int], Shard] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all shards: a record may have changed since the producer was open."""
        self.checks = ShardChecks(self._on_event)
        self.single.clear()
        self._numbered.clear()

    def choose(self, stream: str, key: str | None, body: bytes) -> tuple[Shard, bool]:
        """Return the shard of a message, and whether it is the first one to it.

        Raises:
            ConfigurationError: The stream's name is invalid, or the sharder failed.
        """
        spread = self._spread
        if spread is None:
            shard = shard_keys.single(stream)
            if len(self.single) >= _MOST:
                self.single.clear()
            self.single[stream] = shard
            self.checks.unspread.append(stream)
            return shard, True
        number = spread.choose(stream, key, body)
        known = self._numbered.get((stream, number))
        if known is not None:
            return known, False
        shard = shard_keys.numbered(stream, number)
        if len(self._numbered) >= _MOST:
            self._numbered.clear()
        self.checks.use(stream, spread.number, spread.name)
        self._numbered[stream, number] = shard
        return shard, True

    def refused(self, stream: str, *, waiting: bool) -> None:
        """Record that a stream is spread in another way; its next message is compared.

        Args:
            stream: The stream's name.
            waiting: Whether messages to it wait for space. They were packed before, and
                are written when there is space.
        """
        for known in [each for each in self._numbered if each[0] == stream]:
            del self._numbered[known]
        if self._spread is not None and waiting:
            self.checks.use(stream, self._spread.number, self._spread.name)
