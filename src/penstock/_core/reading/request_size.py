"""Request size: the number of entries per request, by the outcome of earlier requests.

A reply that is lost with its connection has to be requested again. If that happens at
every attempt, because a connection ends after a certain number of bytes, the same
request never succeeds. So each lost reply halves the next request, down to one entry.
The sizes of entries are known only once some have been read, so the first request asks
for one entry, and each reply with all requested entries doubles the next request.
"""

from __future__ import annotations

__all__ = ["RequestSize"]


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
