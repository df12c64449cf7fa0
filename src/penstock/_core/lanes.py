"""The queue: what workers may take now, and what waits for its turn behind it.

With an ordering, entries of one lane run one at a time in the order of the stream. The
first of a lane stands in the queue or runs; those behind it wait in the lane, which is
there only as long as an entry of it is. So nothing grows with the number of keys.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain

from penstock._core import envelope
from penstock._core.entry import Account, Entry, Lane
from penstock.options import Ordering

__all__ = ["Lanes"]


class Lanes:
    """Entries that no worker has yet, in order.

    Attributes:
        ready: Those that may be taken now.
        behind: How many wait in lanes.
        order: What is kept in order.
    """

    __slots__ = ("_lanes", "_orders", "behind", "order", "ready")

    def __init__(self) -> None:
        self.ready: deque[Entry] = deque()
        self.behind = 0
        self.order = Ordering.NONE
        self._lanes: dict[Lane, deque[Entry]] = {}
        # How often the order was chosen: what runs since before must free no lane of
        # the new one.
        self._orders = 0

    def file(self, entry: Entry) -> None:
        """Put an entry where a worker finds it once its turn has come."""
        if self.order is Ordering.NONE:
            self.ready.append(entry)
            return
        shard = entry.account.shard.key
        by_key = self.order is Ordering.KEY
        key = envelope.key(entry.fields) if by_key else None
        entry.lane = (shard, key, self._orders)
        behind = self._lanes.get(entry.lane)
        if behind is None:
            self._lanes[entry.lane] = deque()
            self.ready.append(entry)
        else:
            behind.append(entry)
            self.behind += 1

    def free(self, lane: Lane) -> None:
        """Let the next of a lane come forward: the one before it is finished."""
        behind = self._lanes.get(lane)
        if behind is None:
            return  # filed anew by `order_by` while it ran
        if behind:
            self.ready.append(behind.popleft())
            self.behind -= 1
        else:
            del self._lanes[lane]

    def remove(self, entry: Entry) -> None:
        """Take one entry out, wherever it stands."""
        lane = entry.lane
        if lane is None:
            self.ready.remove(entry)
        elif entry in self.ready:
            self.ready.remove(entry)
            self.free(lane)
        else:
            self._lanes[lane].remove(entry)
            self.behind -= 1

    def withdraw(self, account: Account) -> list[Entry]:
        """Take out all entries of a shard; lanes of those that run stay."""
        gone = [entry for entry in self.ready if entry.account is account]
        staying = [entry for entry in self.ready if entry.account is not account]
        self.ready.clear()
        self.ready.extend(staying)
        firsts = {entry.lane for entry in gone}
        for lane in [lane for lane in self._lanes if lane[0] == account.shard.key]:
            behind = self._lanes[lane]
            self.behind -= len(behind)
            gone += behind
            behind.clear()
            if lane in firsts:
                del self._lanes[lane]
        return gone

    def waiting(self) -> list[Entry]:
        """List all that is here, in no order."""
        return list(chain(self.ready, *self._lanes.values()))

    def reorder(self, ordering: Ordering, entries: Iterable[Entry]) -> None:
        """Choose what is kept in order; files what is here anew.

        Args:
            ordering: What it is.
            entries: All that is here and more, in the order of reading.
        """
        self.order = ordering
        self._orders += 1
        here = set(map(id, self.waiting()))
        self.clear()
        for entry in entries:
            if id(entry) in here:
                entry.lane = None
                self.file(entry)

    def clear(self) -> None:
        """Forget all."""
        self.ready.clear()
        self._lanes.clear()
        self.behind = 0
