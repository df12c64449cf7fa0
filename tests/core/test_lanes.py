"""The queue and its lanes, by themselves and against lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock._core.ledger.entry import Entry, ShardState, State
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock.message import Shard
from penstock.options import Ordering

NONE, KEY, SHARD = Ordering.NONE, Ordering.KEY, Ordering.SHARD

Name: TypeAlias = tuple[bytes, str | None]


def account(name: str = "a") -> ShardState:
    return ShardState(Shard(name, 0, name.encode()))


def entry(of: ShardState, number: int, key: str | None = None) -> Entry:
    tail = [] if key is None else [b"key", key.encode()]
    made = Entry(of, b"%d-0" % number, [b"msg", b"", *tail], 1, 1, 0.0)
    of.entries[made.id] = made
    return made


def suspect(of: ShardState, number: int, key: str | None = None) -> Entry:
    made = entry(of, number, key)
    made.suspect = True
    return made


def taken(lanes: ReadyQueue) -> Entry | None:
    """Take what can be taken, as the ledger does."""
    while lanes.ready:
        if not lanes.steps_aside(lanes.ready[0]):
            return lanes.ready.popleft()
        lanes.ready.popleft()
    return None


def in_order(*accounts: ShardState) -> list[Entry]:
    return [entry for account in accounts for entry in account.entries.values()]


def lanes_of(*entries: Entry, order: Ordering = KEY) -> ReadyQueue:
    lanes = ReadyQueue()
    lanes.reorder(order, [])
    for each in entries:
        lanes.file(each)
    return lanes


def finished(lanes: ReadyQueue, each: Entry) -> None:
    assert each.lane is not None
    lanes.free(each)


def test_without_an_order_there_are_no_lanes() -> None:
    a = account()
    both = [entry(a, 1, "k"), entry(a, 2, "k")]
    lanes = lanes_of(*both, order=NONE)
    assert list(lanes.ready) == both
    assert lanes.behind == 0
    lanes.remove(both[0])
    assert list(lanes.ready) == both[1:]


def test_the_first_of_a_lane_stands_in_the_queue_and_the_others_behind_it() -> None:
    a = account()
    one, two, three, other = (entry(a, n, k) for n, k in enumerate("kkkl"))
    lanes = lanes_of(one, two, three, other)
    assert list(lanes.ready) == [one, other]
    assert lanes.behind == 2
    lanes.ready.popleft()
    finished(lanes, one)
    assert list(lanes.ready) == [other, two]
    assert lanes.behind == 1


def test_a_lane_is_gone_with_its_last_entry() -> None:
    a = account()
    one = entry(a, 1, "k")
    lanes = lanes_of(one)
    lanes.ready.popleft()
    finished(lanes, one)
    assert not lanes._lanes
    lanes.file(two := entry(a, 2, "k"))
    assert list(lanes.ready) == [two]


def test_what_is_taken_out_of_the_queue_lets_the_next_of_its_lane_come_forward() -> (
    None
):
    a = account()
    one, two, three = (entry(a, n, "k") for n in range(3))
    lanes = lanes_of(one, two, three)
    lanes.remove(two)
    assert (list(lanes.ready), lanes.behind) == ([one], 1)
    lanes.remove(one)
    assert (list(lanes.ready), lanes.behind) == ([three], 0)
    lanes.remove(three)
    assert not lanes.ready
    assert not lanes._lanes


def test_to_withdraw_a_shard_leaves_the_others_as_they_were() -> None:
    a, b = account("a"), account("b")
    mine = [entry(a, n, k) for n, k in enumerate("kkl")]
    theirs = [entry(b, n, k) for n, k in enumerate("kkl")]
    lanes = lanes_of(
        *[each for pair in zip(mine, theirs, strict=True) for each in pair]
    )
    gone = lanes.withdraw(a)
    assert {each.id for each in gone} == {each.id for each in mine}
    assert all(each.account is a for each in gone)
    assert list(lanes.ready) == [theirs[0], theirs[2]]
    assert lanes.behind == 1
    assert len(lanes._lanes) == 2


def test_the_lane_of_what_runs_outlives_what_is_withdrawn() -> None:
    a = account()
    running, behind = entry(a, 1, "k"), entry(a, 2, "k")
    lanes = lanes_of(running, behind)
    lanes.ready.popleft()
    assert lanes.withdraw(a) == [behind]
    assert lanes.behind == 0
    lanes.file(next_ := entry(a, 3, "k"))
    assert not lanes.ready, "its key is being handled"
    finished(lanes, running)
    assert list(lanes.ready) == [next_]


def test_what_ran_before_a_new_order_frees_no_lane_of_it() -> None:
    a = account()
    running, two, three = (entry(a, n, "k") for n in range(3))
    lanes = lanes_of(running, two, three)
    lanes.ready.popleft()
    # It has left the books already: acknowledged early, or come again.
    del a.entries[running.id]
    lanes.reorder(KEY, in_order(a))
    assert (list(lanes.ready), lanes.behind) == ([two], 1)
    finished(lanes, running)
    assert (list(lanes.ready), lanes.behind) == ([two], 1)


@pytest.mark.parametrize("order", Ordering)
def test_a_new_order_files_by_the_order_of_reading(order: Ordering) -> None:
    a, b = account("a"), account("b")
    all_ = [entry(of, n, k) for of in (a, b) for n, k in enumerate("klkl")]
    lanes = lanes_of(*reversed(all_))
    lanes.reorder(order, in_order(a, b))
    firsts = {
        NONE: all_,
        KEY: [all_[0], all_[1], all_[4], all_[5]],
        SHARD: [all_[0], all_[4]],
    }[order]
    assert list(lanes.ready) == firsts
    assert lanes.behind == len(all_) - len(firsts)


# -- suspects ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [NONE, KEY])
def test_suspects_are_taken_in_their_turn(order: Ordering) -> None:
    a = account()
    one, two = (suspect(a, n, str(n)) for n in range(2))
    other = entry(a, 4, "4")
    lanes = lanes_of(one, other, two, order=order)
    assert [taken(lanes) for _ in range(4)] == [one, other, two, None]


@pytest.mark.parametrize("order", [NONE, KEY])
def test_while_they_are_held_suspects_step_aside_and_others_go_on(
    order: Ordering,
) -> None:
    a = account()
    one, two = (suspect(a, n, str(n)) for n in range(2))
    other = entry(a, 4, "4")
    lanes = lanes_of(one, other, two, order=order)
    lanes.hold(held=True)
    assert taken(lanes) is other
    assert taken(lanes) is None
    assert list(lanes.suspects) == [one, two]
    lanes.hold(held=True)
    assert not lanes.ready
    lanes.file(late := entry(a, 5, "5"))
    lanes.hold(held=False)
    assert list(lanes.ready) == [one, two, late], "before all others"
    assert not lanes.suspects


def test_where_the_order_is_strict_none_steps_aside() -> None:
    a = account()
    lanes = ReadyQueue(strict=True)
    lanes.file(suspect(a, 1))
    assert not lanes.stands_still
    lanes.hold(held=True)
    assert lanes.stands_still
    assert not lanes.steps_aside(lanes.ready[0])


def test_what_is_no_suspect_never_steps_aside() -> None:
    lanes = ReadyQueue()
    lanes.hold(held=True)
    assert not lanes.steps_aside(entry(account(), 2))
    assert not lanes.suspects


@pytest.mark.parametrize("order", [NONE, KEY])
def test_a_suspect_can_be_taken_out_from_where_it_stands(order: Ordering) -> None:
    a = account()
    one, two, three = (suspect(a, n, str(n)) for n in range(3))
    lanes = lanes_of(one, two, three, order=order)
    lanes.remove(two)
    lanes.hold(held=True)
    assert taken(lanes) is None
    lanes.remove(one)
    assert list(lanes.suspects) == [three]
    lanes.hold(held=False)
    assert taken(lanes) is three


def test_a_suspect_that_steps_aside_keeps_its_lane() -> None:
    a = account()
    one, behind = suspect(a, 2, "l"), entry(a, 3, "l")
    lanes = lanes_of(one, behind)
    lanes.hold(held=True)
    assert taken(lanes) is None
    assert lanes.behind == 1
    lanes.remove(one)
    assert taken(lanes) is behind
    assert lanes.behind == 0


def test_a_suspect_behind_in_its_lane_can_be_taken_out() -> None:
    a = account()
    first, last = entry(a, 1, "k"), suspect(a, 2, "k")
    lanes = lanes_of(first, last)
    lanes.remove(last)
    assert (list(lanes.ready), lanes.behind) == ([first], 0)


def test_to_withdraw_a_shard_takes_those_that_have_stepped_aside() -> None:
    a, b = account("a"), account("b")
    mine, theirs = suspect(a, 1), suspect(b, 2)
    lanes = lanes_of(mine, theirs, order=NONE)
    lanes.hold(held=True)
    assert taken(lanes) is None
    assert lanes.withdraw(a) == [mine]
    assert list(lanes.suspects) == [theirs]


def test_those_that_run_alone_are_listed_wherever_they_wait() -> None:
    a = account()
    each = [suspect(a, n, "k") for n in range(3)]
    for one in each[1:]:
        one.probe = True
    lanes = lanes_of(*each, order=KEY)
    assert lanes.probes() == each[1:]
    assert lanes.spare_probes() == [], "what is behind one would overtake it"
    lanes.reorder(NONE, in_order(a))
    assert lanes.probes() == each[1:]
    assert lanes.spare_probes() == each[2:]
    assert lanes.spare_probes(2) == []


# -- what comes first --------------------------------------------------------------


def test_what_is_tried_again_comes_first_and_its_lane_has_waited() -> None:
    a = account()
    one, two, other = (entry(a, n, k) for n, k in enumerate("kkl"))
    lanes = lanes_of(one, two, other)
    lanes.ready.popleft()
    lanes.file_first(one)
    assert list(lanes.ready) == [one, other]
    assert lanes.behind == 1
    lanes.ready.popleft()
    finished(lanes, one)
    assert list(lanes.ready) == [other, two]


def test_without_an_order_it_comes_first_whatever_lane_it_had() -> None:
    a = account()
    one, two = entry(a, 1, "k"), entry(a, 2, "k")
    lanes = lanes_of(one, order=KEY)
    lanes.ready.popleft()
    lanes.reorder(NONE, [])
    lanes.file(two)
    lanes.file_first(one)
    assert list(lanes.ready) == [one, two]


@pytest.mark.parametrize("before", Ordering)
def test_in_a_new_order_it_is_filed_behind_its_lane(before: Ordering) -> None:
    a = account()
    one, two = entry(a, 1, "k"), entry(a, 2, "k")
    lanes = lanes_of(one, order=before)
    lanes.ready.popleft()
    lanes.reorder(NONE, [])
    lanes.reorder(KEY, [])
    lanes.file(two)
    lanes.file_first(one)
    assert (list(lanes.ready), lanes.behind) == ([two], 1)


def test_what_was_taken_without_an_order_has_no_lane_of_a_later_one() -> None:
    a = account()
    one, two = entry(a, 1), entry(a, 2)
    lanes = lanes_of(one, order=NONE)
    taken(lanes)
    lanes.reorder(SHARD, [])
    lanes.file(two)
    lanes.file_first(one)
    assert list(lanes.ready) == [two]


# -- against lists -----------------------------------------------------------------


class LanesMachine(RuleBasedStateMachine):
    """Lanes beside lists: one of what waits in each lane, and who is at it.

    Who is at it may be away until it is tried again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accounts = [account(name) for name in "abc"]
        self.lanes = ReadyQueue()
        self.waiting: dict[Name, list[Entry]] = defaultdict(list)
        # Entries that run, by the lane that they hold up, if it is there still.
        self.running: list[tuple[Entry, Name | None]] = []
        self.away: list[tuple[Entry, Name | None]] = []
        self.next_number = 1
        self.held = False

    @initialize(order=st.sampled_from([KEY, KEY, SHARD]))
    def begin(self, order: Ordering) -> None:
        self.lanes.reorder(order, in_order(*self.accounts))

    def name(self, each: Entry) -> Name:
        key = None
        if self.lanes.order is KEY and len(each.fields) > 2:
            key = each.fields[3].decode()
        return each.shard.key, key

    @property
    def holding(self) -> list[tuple[Entry, Name | None]]:
        return self.running + self.away

    @rule(
        number=st.integers(0, 2),
        keys=st.lists(st.sampled_from([None, "k", "l"])),
        suspects=st.booleans(),
    )
    def read(self, number: int, keys: Iterable[str | None], *, suspects: bool) -> None:
        for key in keys:
            each = entry(self.accounts[number], self.next_number, key)
            each.suspect = suspects and self.next_number % 3 > 0
            self.next_number += 1
            self.waiting[self.name(each)].append(each)
            self.lanes.file(each)

    @rule()
    def take(self) -> None:
        each = taken(self.lanes)
        if each is not None:
            name = self.name(each)
            # Order per lane is kept, and one at a time.
            assert self.waiting[name].pop(0) is each
            assert name not in [other for _, other in self.holding]
            assert not (each.suspect and self.held)
            self.running.append((each, name))

    @rule(number=st.integers(0, 1000), how=st.sampled_from(["free", "away", "back"]))
    def finish(self, number: int, how: str) -> None:
        if self.running:
            each, name = self.running.pop(number % len(self.running))
            if how == "back":
                self.lanes.file_first(each)
                self.comes_first(each, name)
            elif how == "away":
                # It is tried again later, and its lane waits.
                each.suspect = False
                each.state = State.POSTPONED
                self.away.append((each, name))
            else:
                self.leave(each)
                finished(self.lanes, each)

    @rule(number=st.integers(0, 1000), leaves=st.booleans())
    def come_back(self, number: int, *, leaves: bool) -> None:
        if self.away:
            each, name = self.away.pop(number % len(self.away))
            if leaves:
                self.leave(each)
                finished(self.lanes, each)
            else:
                self.lanes.file_first(each)
                self.comes_first(each, name)

    def comes_first(self, each: Entry, name: Name | None) -> None:
        if name is not None:
            self.waiting[name].insert(0, each)
        else:
            self.waiting[self.name(each)].append(each)

    @rule()
    def hold(self) -> None:
        self.held = not self.held
        self.lanes.hold(held=self.held)

    def leave(self, each: Entry) -> None:
        each.account.entries.pop(each.id, None)

    @rule(number=st.integers(0, 1000))
    def remove(self, number: int) -> None:
        if all_ := [each for waiting in self.waiting.values() for each in waiting]:
            each = all_[number % len(all_)]
            self.waiting[self.name(each)].remove(each)
            self.leave(each)
            self.lanes.remove(each)

    @rule(number=st.integers(0, 2))
    def withdraw(self, number: int) -> None:
        of = self.accounts[number]
        mine = [name for name in self.waiting if name[0] == of.shard.key]
        expected = [each for name in mine for each in self.waiting.pop(name)]
        later = [each for each, _ in self.away if each.account is of]
        self.away = [held for held in self.away if held[0].account is not of]
        gone = self.lanes.withdraw(of, later)
        for each in later:
            self.leave(each)
        assert sorted(map(id, gone)) == sorted(map(id, expected))
        for each in gone:
            self.leave(each)

    @rule(order=st.sampled_from([KEY, SHARD]), early=st.booleans())
    def reorder(self, order: Ordering, *, early: bool) -> None:
        if early:
            for each, _ in self.holding:
                self.leave(each)
        self.lanes.reorder(order, in_order(*self.accounts))
        self.running = [(each, None) for each, _ in self.running]
        self.away = [(each, None) for each, _ in self.away]
        self.waiting.clear()
        at_work = [each for each, _ in self.holding]
        for of in self.accounts:
            for each in of.entries.values():
                if each not in at_work:
                    self.waiting[self.name(each)].append(each)

    @invariant()
    def the_first_of_each_lane_that_nobody_is_at_may_be_taken(self) -> None:
        busy = [name for _, name in self.holding]
        firsts = [
            waiting[0]
            for name, waiting in self.waiting.items()
            if waiting and name not in busy
        ]
        there = [*self.lanes.ready, *self.lanes.suspects]
        assert sorted(map(id, there)) == sorted(map(id, firsts))
        assert all(each.suspect for each in self.lanes.suspects)
        total = sum(map(len, self.waiting.values()))
        assert self.lanes.behind == total - len(firsts)

    @invariant()
    def suspects_step_aside_only_while_they_are_held(self) -> None:
        assert self.held or not self.lanes.suspects

    @invariant()
    def lanes_are_there_only_as_long_as_they_have_an_entry(self) -> None:
        there = {name for name, waiting in self.waiting.items() if waiting}
        there |= {name for _, name in self.holding if name is not None}
        assert len(self.lanes._lanes) == len(there)


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
