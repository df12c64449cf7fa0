"""Request size: the number of entries per request, by the outcome of earlier requests.

A reply that is lost with its connection has to be requested again. If that happens at
every attempt, because a connection ends after a certain number of bytes, the same
request never succeeds. So each lost reply halves the next request, down to one entry.
The sizes of entries are known only once some have been read, so the first request asks
for one entry, and each reply with all requested entries doubles the next request.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ReadSizes", "RequestSize"]

# The most pending entries that the first page lists, at about 70 bytes each.
_FIRST_PAGE: Final = 100
# The most shards that are read at once, as long as no reply is lost.
_SHARDS: Final = 1000


class RequestSize:
    """Bounds the number of entries that one request asks for.

    Args:
        first: The most entries of the first request.

    Attributes:
        most: The most entries of the next request.
    """

    __slots__ = ("most",)

    def __init__(self, first: int = 1) -> None:
        self.most = first

    def received(self, requested: int, received: int) -> None:
        """Record a reply.

        Args:
            requested: The number of entries that were requested.
            received: The number of entries in the reply. Fewer than requested prove
                nothing: the stream had no more.
        """
        if received >= requested:
            self.most = max(self.most, 2 * requested)

    def lost(self, requested: int) -> None:
        """Record that the connection ended before the reply.

        Args:
            requested: The number of entries that were requested.
        """
        self.most = max(1, min(self.most, requested // 2))


class ReadSizes:
    """Bounds what the reads of one connection ask for.

    Once a reply with one entry per shard is lost, fewer shards are read at once. All of
    them are read at once again before more entries per shard are.

    Attributes:
        entries: How many entries one reply can hold without being lost.
        lines: The same for pending entries that are listed.
        shards: For how many shards that is true of a reply with one entry per shard.
    """

    __slots__ = ("entries", "lines", "shards")

    def __init__(self) -> None:
        self.entries = RequestSize()
        self.lines = RequestSize(_FIRST_PAGE)
        self.shards = RequestSize(_SHARDS)

    def received(self, shards: int, requested: int, received: int) -> None:
        """Record the reply to a read of new entries.

        Args:
            shards: The number of shards.
            requested: The number of entries that were requested of each.
            received: The most entries that came of a shard.
        """
        if shards < self.shards.most:
            self.entries.received(requested, received)
        self.shards.received(shards, shards)

    def lost(self, shards: int, requested: int) -> None:
        """Record that the connection ended before the reply to a read.

        Args:
            shards: The number of shards.
            requested: The number of entries that were requested of each.
        """
        if requested == 1 and shards > 1:
            self.shards.lost(shards)
        else:
            self.entries.lost(requested)
