"""Poison guard: it finds entries that kill their process, and only those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.poison import PoisonGuard
from penstock._core.ledger.states import WITH_HANDLER, State
from support.ledger import A, SpyLedger, raw


@dataclass(eq=False)
class Consumer:
    """A consumer as the guard sees it."""

    running: list[Entry] = field(default_factory=list)
    untracked: int = 0
    lease: float = 30.0
    holds: int = 0
    wakes: int = 0

    def hold(self) -> None:
        self.holds += 1

    def wake(self) -> None:
        self.wakes += 1


def two() -> tuple[PoisonGuard, Consumer, Consumer]:
    guard, one, other = PoisonGuard(), Consumer(), Consumer()
    guard.join(one)
    guard.join(other)
    return guard, one, other


def running(state: State = State.RUNNING) -> Entry:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    entry.state = state
    return entry


def test_without_a_probe_every_handler_may_start() -> None:
    guard, one, _ = two()
    assert guard.is_open(0.0)
    assert guard.until is None
    guard.withdraw(one)
    assert guard.is_open(0.0)


def test_while_nothing_runs_a_probe_may_start_and_nothing_else() -> None:
    guard, one, other = two()
    assert guard.admits(one, 5.0)
    assert (one.holds, other.holds) == (1, 1)
    guard.started(running(), 5.0, confirms=True)
    assert guard.until == 35.0
    assert not guard.is_open(6.0)
    assert not guard.admits(one, 6.0)
    assert not guard.admits(other, 6.0)


@pytest.mark.parametrize("known", [True, False])
def test_a_probe_waits_until_all_running_handlers_have_finished(*, known: bool) -> None:
    guard, one, other = two()
    if known:
        other.running.append(running())
    else:
        other.untracked = 1
    assert not guard.admits(one, 0.0)
    assert not guard.is_open(1.0), "otherwise the probe would wait forever"
    assert one.wakes == 0
    other.running.clear()
    other.untracked = 0
    assert not guard.is_open(2.0)
    assert one.wakes == 1
    assert guard.admits(one, 2.0)


def test_a_probe_waits_for_no_handler_longer_than_a_lease() -> None:
    guard, one, other = two()
    hangs = running()
    other.running.append(hangs)
    assert not guard.admits(one, 0.0)
    guard.look(29.9)
    assert one.wakes == 0
    guard.look(30.0)
    assert one.wakes == 1
    assert guard.admits(one, 30.0)
    assert hangs.hangs
    probe = running()
    guard.started(probe, 30.0, confirms=True)
    probe.state = State.DONE
    # A handler that hangs does not kill, so the next probe need not wait for it.
    assert guard.admits(one, 31.0)


def test_other_entries_wait_for_a_probe_no_longer_than_a_lease() -> None:
    guard, one, other = two()
    assert guard.admits(one, 0.0)
    probe = running()
    one.running.append(probe)
    guard.started(probe, 0.0, confirms=True)
    guard.look(29.9)
    assert other.wakes == 0
    guard.look(30.0)
    assert (other.wakes, probe.hangs) == (1, True)
    assert guard.is_open(30.0)
    assert guard.admits(other, 30.0)


@pytest.mark.parametrize("confirms", [True, False])
def test_a_probe_has_finished_when_its_outcome_is_confirmed(*, confirms: bool) -> None:
    guard, one, _ = two()
    guard.admits(one, 0.0)
    probe = running()
    guard.started(probe, 0.0, confirms=confirms)
    probe.state = State.TO_ACK
    assert guard.is_open(1.0) is not confirms
    probe.state = State.DONE
    assert guard.is_open(1.0)


def test_a_consumer_that_asks_while_another_waits_is_woken_afterwards() -> None:
    guard, one, other = two()
    one.running.append(running())
    assert not guard.admits(one, 0.0)
    assert not guard.admits(other, 0.0)
    guard.withdraw(other)
    assert not guard.is_open(0.0)
    guard.withdraw(one)
    assert other.wakes == 1
    assert guard.is_open(0.0)


def test_closing_a_consumer_withdraws_its_probe() -> None:
    guard, one, other = two()
    assert guard.admits(one, 0.0)
    guard.leave(one)
    assert guard.is_open(0.0)
    assert other.wakes == 1
    guard.leave(one)
    assert guard.is_open(0.0)
    guard.leave(other)
    assert guard.is_open(0.0)


def test_a_probe_may_run_when_the_consumer_that_it_waited_for_closes() -> None:
    guard, one, other = two()
    other.running.append(running())
    assert not guard.admits(one, 0.0)
    guard.leave(other)
    assert one.wakes == 1
    assert guard.admits(one, 0.0)


# -- any number of crashes -------------------------------------------------------------


@dataclass
class Server:
    """Pending entries: their owners and delivery counts."""

    owners: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


class Process:
    """A process with consumers of the same group, which share the guard.

    It uses ledger and guard as `EntryQueue` and `DeliveryCounts` do.
    """

    def __init__(
        self, number: int, server: Server, max_attempts: int, poison: set[int]
    ) -> None:
        self.number, self.server, self.poison = number, server, poison
        self.dead: list[int] = []
        self.guard = PoisonGuard()
        self.members = [Running(self, max_attempts) for _ in range(2)]
        for member in self.members:
            self.guard.join(member)

    def settle(self) -> None:
        """Confirm all outcomes."""
        for member in self.members:
            for batch in member.ledger.acks.to_send():
                for id_ in batch.ids:
                    del self.server.owners[number_of(id_)]
                member.ledger.ack_confirmed(batch)

    def write_dead_letters(self) -> None:
        """Write dead letters."""
        for member in self.members:
            for entry in member.ledger.acks.dead_letters_to_send(100):
                self.dead.append(number_of(entry.id))
                del self.server.owners[number_of(entry.id)]
                member.ledger.dead_letter_confirmed(entry, ours=True)


class Running:
    """One consumer of a process."""

    lease = 30.0
    untracked = 0

    def __init__(self, process: Process, max_attempts: int) -> None:
        self.process = process
        self.ledger = SpyLedger(max_attempts=max_attempts, max_messages=1000)

    @property
    def running(self) -> Sequence[Entry]:
        return self.ledger.running

    def hold(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def start(self, *, counting: bool) -> None:
        """Start the next entry, if it may start."""
        ledger, guard = self.ledger, self.process.guard
        ledger.work.counts_starts = counting
        if ledger.work.next_is_probe:
            if not guard.admits(self, 0.0):
                return
            [entry] = ledger.work.take_counted()
            guard.started(entry, 0.0, confirms=True)
            self.process.settle()
            self.count(entry)
            return
        guard.withdraw(self)
        if guard.is_open(0.0):
            for entry in ledger.work.take_counted():
                self.count(entry)
                return
            ledger.work.take()

    def count(self, entry: Entry) -> None:
        number = number_of(entry.id)
        assert self.process.server.owners[number] == self.process.number
        self.process.server.counts[number] = entry.deliveries + 1


def number_of(id_: bytes) -> int:
    return int(id_.partition(b"-")[0])


class Fleet:
    """Processes that are killed by entries and restarted."""

    def __init__(self, processes: int, max_attempts: int, poison: set[int]) -> None:
        self.max_attempts, self.poison = max_attempts, poison
        self.server = Server()
        self.fresh = iter(range(1, 40))
        self.dead: list[int] = []
        self.deaths = 0
        self.processes = [self.started(number) for number in range(processes)]

    def started(self, number: int) -> Process:
        return Process(number, self.server, self.max_attempts, self.poison)

    def read(self, process: Process, member: Running, count: int) -> None:
        ids = [number for number, _ in zip(self.fresh, range(count), strict=False)]
        for number in ids:
            self.server.owners[number] = process.number
            self.server.counts[number] = 1
        member.ledger.read(*ids)

    def claim(self, process: Process, member: Running) -> None:
        """Claim the entries whose process has died."""
        known = {
            number_of(entry.id)
            for each in self.processes
            for other in each.members
            for entry in other.ledger.held_entries()
        }
        lost = [n for n in self.server.owners if n not in known]
        for number in lost:
            self.server.owners[number] = process.number
        entries = [[raw(number), [b"msg", b"x"]] for number in lost]
        counts = {raw(number): self.server.counts[number] for number in lost}
        member.ledger.deliveries.recovered(A, entries, 0.0, counts, claimed=True)

    def handle(self, process: Process, member: Running, pick: int) -> None:
        """Finish a handler, or kill its process if the entry is poison."""
        running = member.running
        if not running:
            return
        entry = running[pick % len(running)]
        if number_of(entry.id) in self.poison:
            self.die(process)
        else:
            member.ledger.processed(entry)

    def kill(self, process: Process) -> None:
        """Kill a process if one of its running entries is poison."""
        running = {number_of(e.id) for each in process.members for e in each.running}
        if running & self.poison:
            self.die(process)

    def die(self, process: Process) -> None:
        self.deaths += 1
        self.dead += process.dead
        self.processes[process.number] = self.started(process.number)

    def run_step(self, step: str, which: int, pick: int) -> None:
        process = self.processes[which // 2 % len(self.processes)]
        member = process.members[which % 2]
        match step:
            case "read":
                self.read(process, member, pick % 5 + 1)
            case "claim":
                self.claim(process, member)
            case "start":
                member.start(counting=True)
            case "uncounted":
                member.start(counting=False)
            case "settle":
                process.settle()
            case "dead-letter":
                process.write_dead_letters()
            case "kill":
                self.kill(process)
            case _:
                self.handle(process, member, pick)

    def drain(self) -> None:
        """Go on until every entry is acknowledged or dead-lettered."""
        for _ in range(5000):
            for which in range(4):
                for step in ("claim", "start", "handle", "settle", "dead-letter"):
                    self.run_step(step, which, 0)
            if not self.server.owners:
                break
        assert not self.server.owners, "some entries are never finished"
        for process in self.processes:
            self.dead += process.dead


STEPS = [
    *("read", "claim", "handle", "settle", "dead-letter"),
    *("start", "start", "start", "uncounted", "kill", "kill"),
]


@settings(max_examples=100, deadline=None)
@given(
    processes=st.integers(1, 2),
    max_attempts=st.sampled_from([2, 2, 3, 5]),
    poison=st.sets(st.integers(1, 39), min_size=1, max_size=20),
    seed=st.randoms(use_true_random=False),
)
def test_only_entries_that_kill_their_process_are_given_up_after_any_crashes(
    processes: int, max_attempts: int, poison: set[int], seed: Random
) -> None:
    fleet = Fleet(processes, max_attempts, poison)
    for _ in range(400):
        fleet.run_step(seed.choice(STEPS), seed.randrange(4), seed.randrange(100))
    fleet.drain()
    assert set(fleet.dead) <= poison
    assert len(fleet.dead) == len(set(fleet.dead))
    assert all(entry.state not in WITH_HANDLER for entry in held_entries_of(fleet))
    # A start at a rate at which starts are not counted adds one.
    assert fleet.deaths <= len(poison) * (max_attempts + 1)


def held_entries_of(fleet: Fleet) -> list[Entry]:
    return [
        entry
        for process in fleet.processes
        for member in process.members
        for entry in member.ledger.held_entries()
    ]
