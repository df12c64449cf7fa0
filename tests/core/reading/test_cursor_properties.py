"""Fairness of the cursor on shards with any number of entries."""

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
    """Sends entries, breaks shards, reconnects, and reads as the cursor says."""

    def __init__(self) -> None:
        super().__init__()
        self.shards = [Shard(str(n), 0, b"%d" % n) for n in range(5)]
        # New entries, and pending entries that were not recovered; and the number of
        # reads for which a live shard has had entries without being read.
        self.new: Counter[bytes] = Counter()
        self.pending: Counter[bytes] = Counter()
        self.unread_turns: Counter[bytes] = Counter()
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
    def add_or_remove(self, number: int) -> None:
        shard = self.shards[number]
        if shard in self.cursor:
            self.cursor.remove(shard)
        else:
            self.cursor.add(shard, b"0-0")
            self.pending[shard.key] = number
        self.unread_turns[shard.key] = 0

    @rule(number=st.integers(0, 4))
    def break_or_repair(self, number: int) -> None:
        shard = self.shards[number]
        if shard in self.cursor:
            position = self.position(shard)
            position.broken = "WRONGTYPE" if position.broken is None else None
            self.unread_turns[shard.key] = 0
            listed = position in self.cursor.broken
            assert listed == (position.broken is not None)

    @rule(pending=st.integers(0, 10))
    def reconnect(self, pending: int) -> None:
        self.cursor.connected()
        for shard in self.cursor.shards:
            self.pending[shard.key] = pending
        self.unread_turns.clear()

    @rule(budgets=st.lists(st.integers(1, 40), min_size=1, max_size=8))
    def read(self, budgets: list[int]) -> None:
        for budget in budgets:
            match read := self.cursor.next(budget):
                case None:
                    assert all(p.broken is not None for p in self.cursor.positions)
                    return
                case ReadPending():
                    self.recover(read, budget)
                case ReadNew():
                    self.read_live(read, budget)
            for position in self.cursor.positions:
                self.check_fairness(position, read)

    def recover(self, read: ReadPending, budget: int) -> None:
        position = read.position
        assert position.broken is None
        assert position.recovering
        assert read.count == budget
        self.recovered += 1
        live = any(p.broken is None and not p.recovering for p in self.cursor.positions)
        assert not live or self.recovered == 1, (
            "live shards have their turn between pages"
        )
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
        assert not (read.wait and recovering), (
            "the read would wait although there is more to recover"
        )
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

    def check_fairness(self, position: Position, read: ReadPending | ReadNew) -> None:
        key = position.shard.key
        was_read = isinstance(read, ReadNew) and position in read.positions
        live = position.broken is None and not position.recovering
        if was_read or not live or not self.new[key]:
            self.unread_turns[key] = 0
        else:
            self.unread_turns[key] += 1
        assert self.unread_turns[key] < 2, (
            "a shard with entries was left out of two reads"
        )


TestCursor = CursorMachine.TestCase
TestCursor.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
