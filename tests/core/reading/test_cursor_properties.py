"""The cursor against a server that has more or less on each of some shards."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.cursor import Cursor, Position, ReadNew, ReadPending
from penstock.message import Shard
from support.entries import entries


class CursorMachine(RuleBasedStateMachine):
    """Sends, breaks, reconnects, and reads as the cursor says."""

    def __init__(self) -> None:
        super().__init__()
        self.shards = [Shard(str(n), 0, b"%d" % n) for n in range(5)]
        # Entries that are new, and those that are pending for us and unread; and for
        # how many reads a shard has had some and was live.
        self.new: Counter[bytes] = Counter()
        self.pending: Counter[bytes] = Counter()
        self.idle_workers: Counter[bytes] = Counter()
        self.recovered = 0
        self.number = 0

    @initialize(group=st.booleans(), first=st.integers(0, 5))
    def open(self, *, group: bool, first: int) -> None:
        start = [(shard, b"0-0") for shard in self.shards[:first]]
        self.cursor = Cursor(start, group=group)

    def position(self, shard: Shard) -> Position:
        return next(p for p in self.cursor.positions if p.shard is shard)

    @rule(number=st.integers(0, 4), count=st.integers(1, 50))
    def send(self, number: int, count: int) -> None:
        self.new[b"%d" % number] += count

    @rule(number=st.integers(0, 4))
    def come_or_go(self, number: int) -> None:
        shard = self.shards[number]
        if shard in self.cursor:
            self.cursor.remove(shard)
        else:
            self.cursor.add(shard, b"0-0")
            self.pending[shard.key] = number
        self.idle_workers[shard.key] = 0

    @rule(number=st.integers(0, 4))
    def break_or_heal(self, number: int) -> None:
        shard = self.shards[number]
        if shard in self.cursor:
            position = self.position(shard)
            position.broken = "WRONGTYPE" if position.broken is None else None
            self.idle_workers[shard.key] = 0
            listed = position in self.cursor.broken
            assert listed == (position.broken is not None)

    @rule(pending=st.integers(0, 10))
    def reconnect(self, pending: int) -> None:
        self.cursor.connected()
        for shard in self.cursor.shards:
            self.pending[shard.key] = pending
        self.idle_workers.clear()

    @rule(rooms=st.lists(st.integers(1, 40), min_size=1, max_size=8))
    def read(self, rooms: list[int]) -> None:
        for budget in rooms:
            match read := self.cursor.next(budget):
                case None:
                    assert all(p.broken is not None for p in self.cursor.positions)
                    return
                case ReadPending():
                    self.recover(read, budget)
                case ReadNew():
                    self.read_live(read, budget)
            for position in self.cursor.positions:
                self.see_whether_it_starves(position, read)

    def recover(self, read: ReadPending, budget: int) -> None:
        position = read.position
        assert position.broken is None
        assert position.recovering
        assert read.count == budget
        self.recovered += 1
        live = any(p.broken is None and not p.recovering for p in self.cursor.positions)
        assert not live or self.recovered == 1, "those that are live have their turn"
        key = position.shard.key
        count = min(read.count, self.pending[key])
        self.pending[key] -= count
        self.cursor.recovered(read, self.entries(count))
        assert position.recovering == (count == read.count)

    def read_live(self, read: ReadNew, budget: int) -> None:
        self.recovered = 0
        assert read.positions
        assert read.count * len(read.positions) <= max(budget, len(read.positions))
        recovering = False
        for position in self.cursor.positions:
            recovering |= position.recovering and position.broken is None
        assert not (read.wait and recovering), "it would wait though there is work"
        for position in read.positions:
            assert position.broken is None
            assert not position.recovering
            key = position.shard.key
            if count := min(read.count, self.new[key]):
                self.new[key] -= count
                assert self.cursor.received(read, key, self.entries(count)) is position

    def entries(self, count: int) -> list[RawEntry]:
        self.number += count
        first = self.number - count + 1
        return entries(*[f"{n}-0" for n in range(first, self.number + 1)])

    def see_whether_it_starves(
        self, position: Position, read: ReadPending | ReadNew
    ) -> None:
        key = position.shard.key
        mine = isinstance(read, ReadNew) and position in read.positions
        live = position.broken is None and not position.recovering
        if mine or not live or not self.new[key]:
            self.idle_workers[key] = 0
        else:
            self.idle_workers[key] += 1
        assert self.idle_workers[key] < 2, "it has had something for two reads"


TestCursor = CursorMachine.TestCase
TestCursor.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
