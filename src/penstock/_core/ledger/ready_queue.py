"""The queue: what workers may take now, and what waits for its turn behind it.

With an ordering, entries of one lane run one at a time in the order of the stream. The
first of a lane stands in the queue or runs; those behind it wait in the lane, which is
there only as long as an entry of it is. So nothing grows with the number of keys.

The start of a suspect has to be confirmed by the server. While that is not possible,
because there is no connection, suspects are held: they step aside and others go on,
unless the order is strict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import Final

from penstock._core.ledger.entry import Entry, Lane, ShardState
from penstock._core.messages import envelope
from penstock.options import Ordering

__all__ = ["ReadyQueue"]

# Bound here, because an enum's members are looked up in Python.
_NO_ORDER: Final = Ordering.NONE
_BY_KEY: Final = Ordering.KEY


class ReadyQueue:
    """Entries that no worker has yet, in order.

    Attributes:
        ready: Those that may be taken now.
        suspects: Those that have stepped aside.
        held: Whether no suspect may be taken now.
        strict: Whether nothing goes past a suspect that is held.
        behind: How many wait in lanes.
        order: What is kept in order.
    """

    __slots__ = (
        "_lanes",
        "_orders",
        "behind",
        "held",
        "order",
        "ready",
        "strict",
        "suspects",
    )

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.ready: deque[Entry] = deque()
        self.suspects: deque[Entry] = deque()
        self.held = False
        self.behind = 0
        self.order = Ordering.NONE
        # What waits in each; None until something does, since most hold just one.
        self._lanes: dict[Lane, deque[Entry] | None] = {}
        # How often the order was chosen: what runs since before must free no lane of
        # the new one.
        self._orders = 0

    def defer(self, entry: Entry) -> bool:
        """Put a suspect that was met in the queue aside, if it can't be taken now."""
        if not entry.suspected or not self.held or self.strict:
            return False  # where the order is strict, nothing is taken then
        self.suspects.append(entry)
        return True

    @property
    def blocked(self) -> bool:
        """Whether the first in the queue can't be taken, and all others wait for it."""
        ready = self.ready
        return self.strict and self.held and bool(ready) and ready[0].suspected

    def probes(self) -> list[Entry]:
        """List the suspects that wait to run alone, in their order."""
        return [entry for entry in self.waiting() if entry.probe]

    def spare_probes(self, kept: int = 1) -> list[Entry]:
        """List those of them that others may have, but for the first `kept`.

        None where what is behind an entry that leaves would overtake it.
        """
        ordered = self.strict or self.order is not _NO_ORDER
        return [] if ordered else self.probes()[kept:]

    def add(self, entry: Entry) -> None:
        """Put an entry where a worker finds it once its turn has come."""
        if self.order is _NO_ORDER:
            entry.lane = None
            self.ready.append(entry)
            return
        key = envelope.key(entry.fields) if self.order is _BY_KEY else None
        entry.lane = lane = (entry.shard_state.shard.key, key, self._orders)
        lanes = self._lanes
        if lane not in lanes:
            lanes[lane] = None
            self.ready.append(entry)
            return
        self.behind += 1
        behind = lanes[lane]
        if behind is None:
            lanes[lane] = deque((entry,))
        else:
            behind.append(entry)

    def add_first(self, entry: Entry) -> None:
        """Put an entry before all others; if its lane is its own still, within that."""
        lane = entry.lane
        mine = lane is not None and lane[2] == self._orders
        if mine or self.order is _NO_ORDER:
            self.ready.appendleft(entry)
        else:
            self.add(entry)

    def hold(self, *, held: bool) -> None:
        """Let no suspect be taken until further notice, or take that back."""
        self.held = held
        if not held:
            self.ready.extendleft(reversed(self.suspects))
            self.suspects.clear()

    def free(self, entry: Entry) -> None:
        """Let the next of its lane come forward: it is done."""
        lane = entry.lane
        if lane is None:
            return
        # What `_promote` does where none waits behind it: most lanes hold just one. It
        # is there, unless it is in no order or `order_by` filed anew meanwhile.
        behind = self._lanes.pop(lane, None)
        if behind:
            self._lanes[lane] = behind
            self._promote(lane)

    def _promote(self, lane: Lane) -> None:
        behind = self._lanes.get(lane)
        if behind:
            self.ready.append(behind.popleft())
            self.behind -= 1
        else:
            # It is there, unless it is in no order or `order_by` filed anew meanwhile.
            self._lanes.pop(lane, None)

    def _behind(self, lane: Lane) -> deque[Entry]:
        return self._lanes[lane] or deque()

    def remove(self, entry: Entry) -> None:
        """Take one entry out, wherever it stands."""
        lane = entry.lane
        line = self.suspects if entry in self.suspects else self.ready
        if lane is None:
            line.remove(entry)
        elif entry in line:
            line.remove(entry)
            self._promote(lane)
        else:
            self._behind(lane).remove(entry)
            self.behind -= 1

    def withdraw(
        self, shard_state: ShardState, holders: Iterable[Entry] = ()
    ) -> list[Entry]:
        """Take out all entries of a shard; lanes of those that run stay.

        Args:
            shard_state: The shard's books.
            holders: Entries of it that are not here, and hold a lane no longer.
        """
        gone = []
        for line in (self.ready, self.suspects):
            gone += [entry for entry in line if entry.shard_state is shard_state]
            staying = [entry for entry in line if entry.shard_state is not shard_state]
            line.clear()
            line.extend(staying)
        firsts = {entry.lane for entry in chain(gone, holders)}
        for lane in [lane for lane in self._lanes if lane[0] == shard_state.shard.key]:
            behind = self._behind(lane)
            self.behind -= len(behind)
            gone += behind
            behind.clear()
            if lane in firsts:
                del self._lanes[lane]
        return gone

    def waiting(self) -> list[Entry]:
        """List all that is here, in no order."""
        behind = filter(None, self._lanes.values())
        return list(chain(self.ready, self.suspects, *behind))

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
                self.add(entry)

    def clear(self) -> None:
        """Forget all."""
        self.ready.clear()
        self.suspects.clear()
        self._lanes.clear()
        self.behind = 0
