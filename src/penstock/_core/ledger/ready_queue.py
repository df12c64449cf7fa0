"""Ready queue: the entries that workers may take, and lanes behind them.

With an ordering, entries of one lane run one at a time, in the order of the stream. The
first entry of a lane is in the queue or runs. The entries behind it wait in the lane,
which exists only as long as an entry of it does. So nothing grows with the number of
keys.

The server has to confirm the start of a possible poison message. While that is not
possible, because there is no connection, these entries are held: they are set aside and
others go on, unless the order is strict. With one attempt only, the start of each entry
has to be confirmed, so all of them are held.

The entries of an owned shard are held while this consumer may not start handlers of it.
They are never among those that can be taken, so that taking one need not look at its
shard: a member of a group knows many shards that others own.
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
        ready: Entries that may be taken now.
        set_aside: Possible poison messages that are held, and entries of held shards.
        held: Whether no entry may be taken now whose start has to be confirmed.
        strict: Whether no entry may pass a possible poison message that is held.
        confirmed: Whether the start of each entry has to be confirmed.
        behind: How many entries wait in lanes.
        order: The order of handling.
    """

    __slots__ = (
        "_held_shards",
        "_lanes",
        "_orders",
        "behind",
        "confirmed",
        "held",
        "order",
        "ready",
        "set_aside",
        "strict",
    )

    def __init__(self, *, strict: bool = False, confirmed: bool = False) -> None:
        self.strict = strict
        self.confirmed = confirmed
        self.ready: deque[Entry] = deque()
        self.set_aside: deque[Entry] = deque()
        # The keys of the shards of which no entry may be taken now.
        self._held_shards: set[bytes] = set()
        self.held = False
        self.behind = 0
        self.order = Ordering.NONE
        # The entries that wait in each lane; None if there are none, since most lanes
        # have just one entry.
        self._lanes: dict[Lane, deque[Entry] | None] = {}
        # How often the order was chosen: an entry that was taken under an earlier order
        # must free no lane of the present one.
        self._orders = 0

    def defer(self, entry: Entry) -> bool:
        """Set an entry aside if it can't be taken now, and others may pass it."""
        # Where nothing may pass a possible poison message, nothing is taken.
        passable = not (self.strict or self.confirmed)
        held = entry.suspected and self.held and passable
        if held:
            self.set_aside.append(entry)
        return held

    def is_held(self, entry: Entry) -> bool:
        """Return whether an entry is of a shard of which none may be taken now."""
        return self.queue_of(entry.shard_state) is self.set_aside

    def queue_of(self, shard_state: ShardState) -> deque[Entry]:
        """Return the queue for entries of a shard that wait for no other entry."""
        held = self._held_shards
        if held and shard_state.shard.key in held:
            return self.set_aside
        return self.ready

    @property
    def blocked(self) -> bool:
        """Whether the first entry can't be taken, and all others wait for it."""
        if not self.held or not self.ready:
            return False
        return self.confirmed or (self.strict and self.ready[0].suspected)

    def probes(self) -> list[Entry]:
        """List the entries that wait to run alone, in their order."""
        return [entry for entry in self.waiting() if entry.probe]

    def spare_probes(self, kept: int = 1) -> list[Entry]:
        """List the entries that wait to run alone, without the first `kept`.

        Other consumers may have these. With an order there are none: the entries behind
        one that leaves would overtake it.
        """
        ordered = self.strict or self.order is not _NO_ORDER
        return [] if ordered else self.probes()[kept:]

    def add(self, entry: Entry) -> None:
        """Add an entry behind all others of its lane."""
        if self.order is _NO_ORDER:
            entry.lane = None
            self.queue_of(entry.shard_state).append(entry)
            return
        key = envelope.key(entry.fields) if self.order is _BY_KEY else None
        entry.lane = lane = (entry.shard_state.shard.key, key, self._orders)
        lanes = self._lanes
        if lane not in lanes:
            lanes[lane] = None
            self.queue_of(entry.shard_state).append(entry)
            return
        self.behind += 1
        behind = lanes[lane]
        if behind is None:
            lanes[lane] = deque((entry,))
        else:
            behind.append(entry)

    def add_first(self, entry: Entry) -> None:
        """Add an entry before all others, within its lane if it still has it."""
        lane = entry.lane
        mine = lane is not None and lane[2] == self._orders
        if mine or self.order is _NO_ORDER:
            self.queue_of(entry.shard_state).appendleft(entry)
        else:
            self.add(entry)

    def hold(self, *, held: bool) -> None:
        """Hold the entries whose start has to be confirmed, or end that."""
        self.held = held
        if not held:
            self._bring_back()

    def hold_shard(self, key: bytes, *, held: bool) -> None:
        """Hold the entries of a shard, or end that."""
        if held:
            self._held_shards.add(key)
            left = [entry for entry in self.ready if not self.is_held(entry)]
            self.set_aside += filter(self.is_held, self.ready)
            self.ready.clear()
            self.ready += left
        elif key in self._held_shards:
            self._held_shards.remove(key)
            self._bring_back()

    def _bring_back(self) -> None:
        """Queue what was set aside, except for held shards.

        What is held for another reason is set aside again when it is its turn.
        """
        free = [entry for entry in self.set_aside if not self.is_held(entry)]
        held = list(filter(self.is_held, self.set_aside))
        self.ready.extendleft(reversed(free))
        self.set_aside.clear()
        self.set_aside += held

    def free(self, entry: Entry) -> None:
        """Let the next entry of a lane be taken: this one is done."""
        lane = entry.lane
        if lane is None:
            return
        # What `_promote` does if no entry waits behind it, as in most lanes. The lane
        # is there, unless the entry has no order or `reorder` was called meanwhile.
        behind = self._lanes.pop(lane, None)
        if behind:
            self._lanes[lane] = behind
            self._promote(lane)

    def _promote(self, lane: Lane) -> None:
        behind = self._lanes.get(lane)
        if behind:
            entry = behind.popleft()
            self.queue_of(entry.shard_state).append(entry)
            self.behind -= 1
        else:
            # The lane is there, unless `reorder` was called meanwhile.
            self._lanes.pop(lane, None)

    def _behind(self, lane: Lane) -> deque[Entry]:
        return self._lanes[lane] or deque()

    def remove(self, entry: Entry) -> None:
        """Remove one entry, wherever it is."""
        lane = entry.lane
        queue = self.set_aside if entry in self.set_aside else self.ready
        if lane is None:
            queue.remove(entry)
        elif entry in queue:
            queue.remove(entry)
            self._promote(lane)
        else:
            self._behind(lane).remove(entry)
            self.behind -= 1

    def withdraw(
        self, shard_state: ShardState, holders: Iterable[Entry] = ()
    ) -> list[Entry]:
        """Remove all entries of a shard; lanes of those that run stay.

        Args:
            shard_state: The state of the shard.
            holders: Entries of it that are not here, and give up their lanes.
        """
        gone = []
        for queue in (self.ready, self.set_aside):
            gone += [entry for entry in queue if entry.shard_state is shard_state]
            staying = [each for each in queue if each.shard_state is not shard_state]
            queue.clear()
            queue.extend(staying)
        firsts = {entry.lane for entry in chain(gone, holders)}
        for lane in [lane for lane in self._lanes if lane[0] == shard_state.shard.key]:
            behind = self._behind(lane)
            self.behind -= len(behind)
            gone += behind
            behind.clear()
            if lane in firsts:
                del self._lanes[lane]
        return gone

    def lanes(self, key: bytes) -> int:
        """Return the number of a shard's lanes in which an entry waits or runs."""
        return sum(lane[0] == key for lane in self._lanes)

    def waiting(self) -> list[Entry]:
        """List all entries, in no order."""
        behind = filter(None, self._lanes.values())
        return list(chain(self.ready, self.set_aside, *behind))

    def reorder(self, ordering: Ordering, entries: Iterable[Entry]) -> None:
        """Choose the order of handling, and queue all entries by it.

        Args:
            ordering: The order.
            entries: The entries that are here, and others, in the order of reading.
        """
        self.order = ordering
        self._orders += 1
        here = set(map(id, self.waiting()))
        self.clear()
        for entry in entries:
            if id(entry) in here:
                self.add(entry)

    def clear(self) -> None:
        """Remove all entries."""
        self.ready.clear()
        self.set_aside.clear()
        self._lanes.clear()
        self.behind = 0
