"""How many entries one request asks for, by what became of the requests before it.

A reply that is lost with its connection has to be asked for again. If that happens at
every try, because a connection ends after so many bytes, the same request never
succeeds; so each lost reply halves the next request, down to one entry. The sizes of
entries are known only once some have been read, so the first request asks for one, and
each reply that brought all that was asked for doubles the next.
"""

from __future__ import annotations

__all__ = ["RequestSize"]


class RequestSize:
    """Bounds the entries that one request asks for.

    Args:
        first: What the first request may ask for.

    Attributes:
        most: What the next request may ask for.
    """

    __slots__ = ("most",)

    def __init__(self, first: int = 1) -> None:
        self.most = first

    def came(self, asked: int, brought: int) -> None:
        """Record a reply.

        Args:
            asked: How many entries were asked for.
            brought: How many came. Fewer than asked for show nothing: there were no
                more.
        """
        if brought >= asked:
            self.most = max(self.most, 2 * asked)

    def lost(self, asked: int) -> None:
        """Record that the connection ended before the reply.

        Args:
            asked: How many entries were asked for.
        """
        self.most = max(1, min(self.most, asked // 2))
