"""Trimmed entries: the number of entries that were trimmed before their delivery.

A server counts the entries that a group has delivered. From Redis 8 and Valkey 9 on it
also counts the entries that were trimmed ahead of the group. So the number of entries
that a consumer received between two checks shows how many were trimmed, as long as no
other consumer reads for the group. Older servers do not count trimmed entries, and none
are found there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock._core.protocol.replies import GroupInfo
from penstock.message import EntryId

__all__ = ["TrimmedEntries"]

# The longest time between two checks, in seconds. After a longer one another consumer
# may have read in between and have left.
_LONGEST: Final = 5.0


@dataclass(slots=True)
class _Look:
    index: int
    received: int
    at: float
    delivered: EntryId


class TrimmedEntries:
    """Compares the number of entries that a group delivered and a consumer received.

    Attributes:
        received: The number of new entries that this consumer received.
        since: The group's position at the check before the last one.
    """

    __slots__ = ("_last", "received", "since")

    def __init__(self) -> None:
        self.received = 0
        self.since = EntryId.MIN
        self._last: _Look | None = None

    def reset(self) -> None:
        """Forget the last check: a reply was lost, or the group's position was set."""
        self._last = None

    def look(self, group: GroupInfo, now: float) -> int:
        """Return the number of entries that were removed unread since the last check.

        Args:
            group: The group, as described between two reads on their connection.
            now: The time.
        """
        before, self._last = self._last, None
        delivered = EntryId.parse(group.last_delivered)
        index = 0 if delivered == EntryId.MIN else group.read
        # The group may not know this consumer yet; then the one that it knows is
        # another.
        alone = group.consumers == bool(self.received)
        if index is None or not alone:
            return 0
        self._last = _Look(index, self.received, now, delivered)
        if before is None or now - before.at > _LONGEST:
            return 0
        self.since = before.delivered
        return max(0, index - before.index - (self.received - before.received))
