"""Ready queue and lanes: examples, and a comparison with a model of lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock._core.ledger.entry import Entry, ShardState
from penstock._core.ledger.ready_queue import ReadyQueue
from penstock._core.ledger.states import State
from penstock.message import Shard
from penstock.options import Ordering

NONE, KEY, SHARD = Ordering.NONE, Ordering.KEY, Ordering.SHARD

Name: TypeAlias = tuple[bytes, str | None]


def shard_state(name: str = "a") -> ShardState:
    return ShardState(Shard(name, 0, name.encode()))


def entry(of: ShardState, number: int, key: str | None = None) -> Entry:
    tail = [] if key is None else [b"key", key.encode()]
    made = Entry(of, b"%d-0" % number, [b"msg", b"", *tail], 1, 1, 0.0)
    of.entries[made.id] = made
    return made


def suspected(of: ShardState, number: int, key: str | None = None) -> Entry:
    made = entry(of, number, key)
    made.suspected = True
    return made


def taken(ready_queue: ReadyQueue) -> Entry | None:
    """Take the next entry that can be taken, as the ledger does."""
    while ready_queue.ready:
        if not ready_queue.defer(ready_queue.ready[0]):
            return ready_queue.ready.popleft()
        ready_queue.ready.popleft()
    return None


def in_order(*shard_states: ShardState) -> list[Entry]:
    return [
        entry for shard_state in shard_states for entry in shard_state.entries.values()
    ]


def lanes_of(*entries: Entry, order: Ordering = KEY) -> ReadyQueue:
    ready_queue = ReadyQueue()
    ready_queue.reorder(order, [])
    for each in entries:
        ready_queue.add(each)
    return ready_queue


def finished(ready_queue: ReadyQueue, each: Entry) -> None:
    assert each.lane is not None
    ready_queue.free(each)


def test_without_an_order_there_are_no_lanes() -> None:
    a = shard_state()
    both = [entry(a, 1, "k"), entry(a, 2, "k")]
    ready_queue = lanes_of(*both, order=NONE)
    assert list(ready_queue.ready) == both
    assert ready_queue.behind == 0
    ready_queue.remove(both[0])
    assert list(ready_queue.ready) == both[1:]


def test_the_first_of_a_lane_is_in_the_queue_and_the_others_wait_in_the_lane() -> None:
    a = shard_state()
    one, two, three, other = (entry(a, n, k) for n, k in enumerate("kkkl"))
    ready_queue = lanes_of(one, two, three, other)
    assert list(ready_queue.ready) == [one, other]
    assert ready_queue.behind == 2
    ready_queue.ready.popleft()
    finished(ready_queue, one)
    assert list(ready_queue.ready) == [other, two]
    assert ready_queue.behind == 1


def test_a_lane_ends_with_its_last_entry() -> None:
    a = shard_state()
    one = entry(a, 1, "k")
    ready_queue = lanes_of(one)
    ready_queue.ready.popleft()
    finished(ready_queue, one)
    assert not ready_queue._lanes
    ready_queue.add(two := entry(a, 2, "k"))
    assert list(ready_queue.ready) == [two]


def test_removing_an_entry_from_the_queue_brings_the_next_of_its_lane_forward() -> None:
    a = shard_state()
    one, two, three = (entry(a, n, "k") for n in range(3))
    ready_queue = lanes_of(one, two, three)
    ready_queue.remove(two)
    assert (list(ready_queue.ready), ready_queue.behind) == ([one], 1)
    ready_queue.remove(one)
    assert (list(ready_queue.ready), ready_queue.behind) == ([three], 0)
    ready_queue.remove(three)
    assert not ready_queue.ready
    assert not ready_queue._lanes


def test_withdrawing_a_shard_leaves_the_other_shards_unchanged() -> None:
    a, b = shard_state("a"), shard_state("b")
    own = [entry(a, n, k) for n, k in enumerate("kkl")]
    others = [entry(b, n, k) for n, k in enumerate("kkl")]
    ready_queue = lanes_of(
        *[each for pair in zip(own, others, strict=True) for each in pair]
    )
    withdrawn = ready_queue.withdraw(a)
    assert {each.id for each in withdrawn} == {each.id for each in own}
    assert all(each.shard_state is a for each in withdrawn)
    assert list(ready_queue.ready) == [others[0], others[2]]
    assert ready_queue.behind == 1
    assert len(ready_queue._lanes) == 2


def test_the_lane_of_a_running_entry_survives_a_withdrawal() -> None:
    a = shard_state()
    running, behind = entry(a, 1, "k"), entry(a, 2, "k")
    ready_queue = lanes_of(running, behind)
    ready_queue.ready.popleft()
    assert ready_queue.withdraw(a) == [behind]
    assert ready_queue.behind == 0
    ready_queue.add(next_ := entry(a, 3, "k"))
    assert not ready_queue.ready, "an entry of its key is running"
    finished(ready_queue, running)
    assert list(ready_queue.ready) == [next_]


def test_an_entry_that_ran_before_a_new_order_frees_no_lane_of_it() -> None:
    a = shard_state()
    running, two, three = (entry(a, n, "k") for n in range(3))
    ready_queue = lanes_of(running, two, three)
    ready_queue.ready.popleft()
    # It has left the ledger already: acknowledged early, or redelivered.
    del a.entries[running.id]
    ready_queue.reorder(KEY, in_order(a))
    assert (list(ready_queue.ready), ready_queue.behind) == ([two], 1)
    finished(ready_queue, running)
    assert (list(ready_queue.ready), ready_queue.behind) == ([two], 1)


@pytest.mark.parametrize("order", Ordering)
def test_a_new_order_queues_entries_in_the_order_of_reading(order: Ordering) -> None:
    a, b = shard_state("a"), shard_state("b")
    all_ = [entry(of, n, k) for of in (a, b) for n, k in enumerate("klkl")]
    ready_queue = lanes_of(*reversed(all_))
    ready_queue.reorder(order, in_order(a, b))
    firsts = {
        NONE: all_,
        KEY: [all_[0], all_[1], all_[4], all_[5]],
        SHARD: [all_[0], all_[4]],
    }[order]
    assert list(ready_queue.ready) == firsts
    assert ready_queue.behind == len(all_) - len(firsts)


# -- suspects ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [NONE, KEY])
def test_suspects_are_taken_in_their_turn(order: Ordering) -> None:
    a = shard_state()
    one, two = (suspected(a, n, str(n)) for n in range(2))
    other = entry(a, 4, "4")
    ready_queue = lanes_of(one, other, two, order=order)
    assert [taken(ready_queue) for _ in range(4)] == [one, other, two, None]


@pytest.mark.parametrize("order", [NONE, KEY])
def test_held_suspects_are_set_aside_and_others_go_on(
    order: Ordering,
) -> None:
    a = shard_state()
    one, two = (suspected(a, n, str(n)) for n in range(2))
    other = entry(a, 4, "4")
    ready_queue = lanes_of(one, other, two, order=order)
    ready_queue.hold(held=True)
    assert taken(ready_queue) is other
    assert taken(ready_queue) is None
    assert list(ready_queue.set_aside) == [one, two]
    ready_queue.hold(held=True)
    assert not ready_queue.ready
    ready_queue.add(late := entry(a, 5, "5"))
    ready_queue.hold(held=False)
    assert list(ready_queue.ready) == [one, two, late], (
        "suspects come before all others"
    )
    assert not ready_queue.set_aside


def test_with_a_strict_order_no_suspect_is_set_aside() -> None:
    a = shard_state()
    ready_queue = ReadyQueue(strict=True)
    ready_queue.add(suspected(a, 1))
    assert not ready_queue.blocked
    ready_queue.hold(held=True)
    assert ready_queue.blocked
    assert not ready_queue.defer(ready_queue.ready[0])


def test_an_entry_that_is_not_a_suspect_is_never_deferred() -> None:
    ready_queue = ReadyQueue()
    ready_queue.hold(held=True)
    assert not ready_queue.defer(entry(shard_state(), 2))
    assert not ready_queue.set_aside


@pytest.mark.parametrize("order", [NONE, KEY])
def test_a_suspect_can_be_removed_wherever_it_waits(order: Ordering) -> None:
    a = shard_state()
    one, two, three = (suspected(a, n, str(n)) for n in range(3))
    ready_queue = lanes_of(one, two, three, order=order)
    ready_queue.remove(two)
    ready_queue.hold(held=True)
    assert taken(ready_queue) is None
    ready_queue.remove(one)
    assert list(ready_queue.set_aside) == [three]
    ready_queue.hold(held=False)
    assert taken(ready_queue) is three


def test_a_suspect_that_is_set_aside_keeps_its_lane() -> None:
    a = shard_state()
    one, behind = suspected(a, 2, "l"), entry(a, 3, "l")
    ready_queue = lanes_of(one, behind)
    ready_queue.hold(held=True)
    assert taken(ready_queue) is None
    assert ready_queue.behind == 1
    ready_queue.remove(one)
    assert taken(ready_queue) is behind
    assert ready_queue.behind == 0


def test_a_suspect_that_waits_in_a_lane_can_be_removed() -> None:
    a = shard_state()
    first, last = entry(a, 1, "k"), suspected(a, 2, "k")
    ready_queue = lanes_of(first, last)
    ready_queue.remove(last)
    assert (list(ready_queue.ready), ready_queue.behind) == ([first], 0)


def test_withdrawing_a_shard_takes_the_suspects_that_were_set_aside() -> None:
    a, b = shard_state("a"), shard_state("b")
    own, others = suspected(a, 1), suspected(b, 2)
    ready_queue = lanes_of(own, others, order=NONE)
    ready_queue.hold(held=True)
    assert taken(ready_queue) is None
    assert ready_queue.withdraw(a) == [own]
    assert list(ready_queue.set_aside) == [others]


def test_probes_are_listed_wherever_they_wait() -> None:
    a = shard_state()
    each = [suspected(a, n, "k") for n in range(3)]
    for one in each[1:]:
        one.probe = True
    ready_queue = lanes_of(*each, order=KEY)
    assert ready_queue.probes() == each[1:]
    assert ready_queue.spare_probes() == [], "entries behind it would overtake it"
    ready_queue.reorder(NONE, in_order(a))
    assert ready_queue.probes() == each[1:]
    assert ready_queue.spare_probes() == each[2:]
    assert ready_queue.spare_probes(2) == []


# -- retries -----------------------------------------------------------------------


def test_a_retried_entry_comes_first_and_keeps_its_lane() -> None:
    a = shard_state()
    one, two, other = (entry(a, n, k) for n, k in enumerate("kkl"))
    ready_queue = lanes_of(one, two, other)
    ready_queue.ready.popleft()
    ready_queue.add_first(one)
    assert list(ready_queue.ready) == [one, other]
    assert ready_queue.behind == 1
    ready_queue.ready.popleft()
    finished(ready_queue, one)
    assert list(ready_queue.ready) == [other, two]


def test_without_an_order_a_retried_entry_comes_first_whatever_lane_it_had() -> None:
    a = shard_state()
    one, two = entry(a, 1, "k"), entry(a, 2, "k")
    ready_queue = lanes_of(one, order=KEY)
    ready_queue.ready.popleft()
    ready_queue.reorder(NONE, [])
    ready_queue.add(two)
    ready_queue.add_first(one)
    assert list(ready_queue.ready) == [one, two]


@pytest.mark.parametrize("before", Ordering)
def test_in_a_new_order_a_retried_entry_is_added_behind_its_lane(
    before: Ordering,
) -> None:
    a = shard_state()
    one, two = entry(a, 1, "k"), entry(a, 2, "k")
    ready_queue = lanes_of(one, order=before)
    ready_queue.ready.popleft()
    ready_queue.reorder(NONE, [])
    ready_queue.reorder(KEY, [])
    ready_queue.add(two)
    ready_queue.add_first(one)
    assert (list(ready_queue.ready), ready_queue.behind) == ([two], 1)


def test_an_entry_taken_without_an_order_has_no_lane_of_a_later_one() -> None:
    a = shard_state()
    one, two = entry(a, 1), entry(a, 2)
    ready_queue = lanes_of(one, order=NONE)
    taken(ready_queue)
    ready_queue.reorder(SHARD, [])
    ready_queue.add(two)
    ready_queue.add_first(one)
    assert list(ready_queue.ready) == [two]


# -- model -------------------------------------------------------------------------


class LanesMachine(RuleBasedStateMachine):
    """Compares lanes with lists of the entries that wait and that run in each lane.

    An entry that has run may be postponed; its lane waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shard_states = [shard_state(name) for name in "abc"]
        self.ready_queue = ReadyQueue()
        self.waiting: dict[Name, list[Entry]] = defaultdict(list)
        # Running entries, with the lane that they block if it still exists.
        self.running: list[tuple[Entry, Name | None]] = []
        self.postponed: list[tuple[Entry, Name | None]] = []
        self.next_number = 1
        self.held = False

    @initialize(order=st.sampled_from([KEY, KEY, SHARD]))
    def begin(self, order: Ordering) -> None:
        self.ready_queue.reorder(order, in_order(*self.shard_states))

    def name(self, each: Entry) -> Name:
        key = None
        if self.ready_queue.order is KEY and len(each.fields) > 2:
            key = each.fields[3].decode()
        return each.shard.key, key

    @property
    def blocking(self) -> list[tuple[Entry, Name | None]]:
        return self.running + self.postponed

    @rule(
        number=st.integers(0, 2),
        keys=st.lists(st.sampled_from([None, "k", "l"])),
        suspects=st.booleans(),
    )
    def read(self, number: int, keys: Iterable[str | None], *, suspects: bool) -> None:
        for key in keys:
            each = entry(self.shard_states[number], self.next_number, key)
            each.suspected = suspects and self.next_number % 3 > 0
            self.next_number += 1
            self.waiting[self.name(each)].append(each)
            self.ready_queue.add(each)

    @rule()
    def take(self) -> None:
        each = taken(self.ready_queue)
        if each is not None:
            name = self.name(each)
            # Each lane keeps its order and runs one entry at a time.
            assert self.waiting[name].pop(0) is each
            assert name not in [other for _, other in self.blocking]
            assert not (each.suspected and self.held)
            self.running.append((each, name))

    @rule(
        number=st.integers(0, 1000),
        how=st.sampled_from(["free", "postpone", "put back"]),
    )
    def finish(self, number: int, how: str) -> None:
        if self.running:
            each, name = self.running.pop(number % len(self.running))
            if how == "put back":
                self.ready_queue.add_first(each)
                self.comes_first(each, name)
            elif how == "postpone":
                # It is retried later, and its lane waits.
                each.suspected = False
                each.state = State.POSTPONED
                self.postponed.append((each, name))
            else:
                self.leave(each)
                finished(self.ready_queue, each)

    @rule(number=st.integers(0, 1000), leaves=st.booleans())
    def end_postponement(self, number: int, *, leaves: bool) -> None:
        if self.postponed:
            each, name = self.postponed.pop(number % len(self.postponed))
            if leaves:
                self.leave(each)
                finished(self.ready_queue, each)
            else:
                self.ready_queue.add_first(each)
                self.comes_first(each, name)

    def comes_first(self, each: Entry, name: Name | None) -> None:
        if name is not None:
            self.waiting[name].insert(0, each)
        else:
            self.waiting[self.name(each)].append(each)

    @rule()
    def hold(self) -> None:
        self.held = not self.held
        self.ready_queue.hold(held=self.held)

    def leave(self, each: Entry) -> None:
        each.shard_state.entries.pop(each.id, None)

    @rule(number=st.integers(0, 1000))
    def remove(self, number: int) -> None:
        if all_ := [each for waiting in self.waiting.values() for each in waiting]:
            each = all_[number % len(all_)]
            self.waiting[self.name(each)].remove(each)
            self.leave(each)
            self.ready_queue.remove(each)

    @rule(number=st.integers(0, 2))
    def withdraw(self, number: int) -> None:
        of = self.shard_states[number]
        own = [name for name in self.waiting if name[0] == of.shard.key]
        expected = [each for name in own for each in self.waiting.pop(name)]
        later = [each for each, _ in self.postponed if each.shard_state is of]
        self.postponed = [
            held for held in self.postponed if held[0].shard_state is not of
        ]
        withdrawn = self.ready_queue.withdraw(of, later)
        for each in later:
            self.leave(each)
        assert sorted(map(id, withdrawn)) == sorted(map(id, expected))
        for each in withdrawn:
            self.leave(each)

    @rule(order=st.sampled_from([KEY, SHARD]), early=st.booleans())
    def reorder(self, order: Ordering, *, early: bool) -> None:
        if early:
            for each, _ in self.blocking:
                self.leave(each)
        self.ready_queue.reorder(order, in_order(*self.shard_states))
        self.running = [(each, None) for each, _ in self.running]
        self.postponed = [(each, None) for each, _ in self.postponed]
        self.waiting.clear()
        running = [each for each, _ in self.blocking]
        for of in self.shard_states:
            for each in of.entries.values():
                if each not in running:
                    self.waiting[self.name(each)].append(each)

    @invariant()
    def the_first_entry_of_each_free_lane_can_be_taken(self) -> None:
        busy = [name for _, name in self.blocking]
        firsts = [
            waiting[0]
            for name, waiting in self.waiting.items()
            if waiting and name not in busy
        ]
        takeable = [*self.ready_queue.ready, *self.ready_queue.set_aside]
        assert sorted(map(id, takeable)) == sorted(map(id, firsts))
        assert all(each.suspected for each in self.ready_queue.set_aside)
        total = sum(map(len, self.waiting.values()))
        assert self.ready_queue.behind == total - len(firsts)

    @invariant()
    def suspects_are_set_aside_only_while_they_are_held(self) -> None:
        assert self.held or not self.ready_queue.set_aside

    @invariant()
    def a_lane_exists_only_as_long_as_it_has_an_entry(self) -> None:
        lanes = {name for name, waiting in self.waiting.items() if waiting}
        lanes |= {name for _, name in self.blocking if name is not None}
        assert len(self.ready_queue._lanes) == len(lanes)


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
