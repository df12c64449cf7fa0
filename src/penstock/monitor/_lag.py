"""The lag of a group in one shard: exact, or an upper bound.

The server's own number is nil or wrong after a group was created or set in the middle
of a stream, and after entries were deleted or trimmed that it had not delivered
(redis/redis#13957). So the number is `StreamInfo.count_above`, the rule of
`admin.group_state`; and where that does not know it, a bound that is never below the
truth.
"""

from __future__ import annotations

from typing import NamedTuple

from penstock._core.protocol.replies import GroupInfo, StreamInfo
from penstock.message import EntryId

__all__ = ["Lag", "lag_of", "stale_lag_of"]


class Lag(NamedTuple):
    """A number of entries that were not delivered.

    Attributes:
        number: The number.
        exact: Whether it is exact; if not, there are no more than that.
    """

    number: int
    exact: bool


def lag_of(stream: StreamInfo, group: GroupInfo, *, trusted: bool) -> Lag:
    """Return the lag of a group by descriptions of the same moment.

    Args:
        stream: The stream's description. It may be a little later than the group's.
        group: The group's.
        trusted: Whether the server counts correctly after entries were trimmed or
            deleted; see `commands.counts_lag`.
    """
    delivered = EntryId.parse(group.last_delivered)
    known = stream.count_above(delivered, group.lag, trusted=trusted)
    if known is not None:
        return Lag(known, exact=True)
    # The first entry is not above the position.
    return Lag(max(stream.length - 1, 0), exact=False)


def stale_lag_of(stream: StreamInfo, group: GroupInfo, length: int) -> Lag:
    """Return the lag of a group by an earlier description of the stream.

    A group at the last id that is known counts as caught up, unless the server says
    that there is more.

    Args:
        stream: The stream's description, up to a minute old.
        group: The group's, of now.
        length: The number of entries, of now.
    """
    delivered = EntryId.parse(group.last_delivered)
    if delivered >= stream.last:
        more = min(max(group.lag or 0, 0), length)
        return Lag(more, exact=not more)
    if stream.first is not None and delivered < stream.first:
        return Lag(length, exact=True)
    return Lag(length, exact=False)
