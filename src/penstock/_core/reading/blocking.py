"""Blocking: how a reader waits for entries, also where BLOCK does not work.

Some servers and proxies answer a blocking read at once, empty, and others refuse it. A
reader that asked again at once would send thousands of requests a second. So from the
third early answer on it waits between two reads, and where BLOCK is refused, it reads
without. Entries end the wait: behind a read that brought some, the next one follows at
once.
"""

from __future__ import annotations

from typing import Final

from penstock._core.protocol.replies import ErrorKind, ErrorReply

__all__ = ["POLL", "Blocking"]

POLL: Final = 0.1
"""Seconds between two reads of a reader whose server does not let it wait."""

# A single early answer has other causes: the server ends a blocked read if the stream
# is deleted, or when another client asks for that.
_EARLY: Final = 3
# The share of its time below which a blocked read has come back early.
_SHARE: Final = 0.5


class Blocking:
    """Decides whether reads block, and how long to wait between them.

    Attributes:
        refused: Whether this server refuses BLOCK.
    """

    __slots__ = ("_early", "refused")

    def __init__(self) -> None:
        self.refused = False
        # How many reads in a row came back early and empty.
        self._early = 0

    def connected(self) -> None:
        """Try to block again: this may be another server."""
        self.refused = False
        self._early = 0

    @property
    def ignored(self) -> bool:
        """Whether this server answers blocking reads at once."""
        return self._early >= _EARLY

    def wait(self, seconds: float) -> float:
        """Return for how many seconds the next read may block."""
        return 0.0 if self.refused else seconds

    def may_refuse(self, reply: ErrorReply) -> bool:
        """Return whether a refused read is worth a repeat without BLOCK.

        The reply's text says nothing reliable, but other errors have codes.
        """
        other = {ErrorKind.REPAIR, ErrorKind.ISOLATE}
        return not self.refused and reply.code == "ERR" and reply.kind not in other

    def pause(self, wait: float, took: float) -> float:
        """Return how many seconds to wait after a read that brought nothing.

        Args:
            wait: Seconds for which the read was to block if it could.
            took: Seconds after which it came back.
        """
        if not self.refused:
            self._early = self._early + 1 if took < wait * _SHARE else 0
        paced = self.refused or self.ignored
        return min(POLL, wait) if paced else 0.0
