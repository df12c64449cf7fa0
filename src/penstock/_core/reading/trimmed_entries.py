"""How many entries were trimmed from a stream before its group was given them.

A server counts how many entries a group was given, and from Redis 8 and Valkey 9 on it
counts those as well that were trimmed ahead of the group. So what a consumer received
between two looks tells how many those were, as long as nobody else reads for the group.
Older servers don't count them, and nothing is found there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock._core.protocol.replies import GroupInfo
from penstock.message import EntryId

__all__ = ["TrimmedEntries"]

# Seconds between two looks after which somebody else may have read in between, and
# have left.
_LONGEST: Final = 5.0


@dataclass(slots=True)
class _Look:
    index: int
    received: int
    at: float
    delivered: EntryId


class TrimmedEntries:
    """Compares what a group was given with what one consumer received.

    Attributes:
        received: New entries that this consumer was given.
        since: The group's position at the last look but one.
    """

    __slots__ = ("_last", "received", "since")

    def __init__(self) -> None:
        self.received = 0
        self.since = EntryId.MIN
        self._last: _Look | None = None

    def reset(self) -> None:
        """Forget the last look: a reply was lost, or the group has been set."""
        self._last = None

    def look(self, group: GroupInfo, now: float) -> int:
        """Return how many entries were removed unread since the last look, if any.

        Args:
            group: The group, asked for between two reads on their connection.
            now: The time.
        """
        before, self._last = self._last, None
        delivered = EntryId.parse(group.last_delivered)
        index = 0 if delivered == EntryId.MIN else group.read
        # We may not be known to it yet, and it is another consumer that is.
        alone = group.consumers == bool(self.received)
        if index is None or not alone:
            return 0
        self._last = _Look(index, self.received, now, delivered)
        if before is None or now - before.at > _LONGEST:
            return 0
        self.since = before.delivered
        return max(0, index - before.index - (self.received - before.received))
