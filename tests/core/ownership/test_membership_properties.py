"""Members under a server that answers late, twice or never: O8, O9 and O12.

The stream gets more shards meanwhile, which each member finds at another time.

The real core and the real scripts, in the simulation's server. In the end everything
goes on fairly: every shard has to be at its target with all members, who agree on it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from penstock._core.ownership import actions as do
from penstock._core.ownership import member
from penstock._core.ownership.member import Member
from penstock._core.ownership.states import MemberState
from penstock._core.ownership.target import Target, encode, plan
from penstock._core.protocol import ownership_scripts, reply_parsing
from penstock._core.protocol.commands import Command
from penstock._core.protocol.ownership_replies import Assigned, read_beat
from simulation.direct import Direct
from simulation.server import VALKEY_9, Server
from support.owned_world import Clock, Violation

KEY = b"{orders}.members:g"
LEASE = 10.0
BEAT = LEASE / 5
SHARDS = 5
MOST_SHARDS = 9
Step: TypeAlias = Callable[[], object]

# The search takes seconds, and longer while coverage is measured.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(eq=False)
class Sent:
    """A command that waits for its execution, or for the delivery of its reply."""

    node: Node
    words: Command
    answered: Callable[[Any], None]
    lost: Callable[[], None]
    reply: Any = None
    executed: bool = False


class Node:
    """A process with a member; it may die or stand still."""

    def __init__(self, group: Group, name: str, weight: int) -> None:
        self.group = group
        self.name = name
        self.weight = weight
        self.member = Member(name, lease=LEASE)
        self.own: frozenset[int] = frozenset()
        self.alive = True
        self.found = 0
        self.sent: list[Sent] = []

    @property
    def now(self) -> float:
        return self.group.clock.now

    def act(self, actions: list[do.MemberAction]) -> None:
        for action in actions:
            match action:
                case do.Beat(known, join):
                    self._beat(known, join=join)
                case do.Assign(seen, least, target):
                    words = ownership_scripts.assign(
                        KEY, seen=seen, least=least, target=encode(target)
                    )
                    self._send(words, partial(self._assigned, target), self._beat_lost)
                case do.Leave():
                    self._send(
                        ownership_scripts.leave(KEY, self.name), self._left, self._lost
                    )
                case do.News():
                    self.group.news = True
                case do.Own(_, shards):
                    self.own = frozenset(shards)

    def _send(
        self, words: Command, answered: Callable[[Any], None], lost: Callable[[], None]
    ) -> None:
        self.sent.append(Sent(self, words, answered, lost))

    def _beat(self, known: int, *, join: bool) -> None:
        words = ownership_scripts.beat(
            KEY,
            self.name,
            lease=int(LEASE * 1000),
            known=known,
            join=join,
            weight=self.weight,
        )

        def answered(reply: Any) -> None:
            self.act(self.member.beaten(reply, self.now))

        self._send(words, answered, self._beat_lost)

    def _beat_lost(self) -> None:
        self.act(self.member.beat_lost(self.now))

    def _assigned(self, target: Target, reply: Assigned) -> None:
        self.act(self.member.assigned(reply, target, self.now))

    def _left(self, reply: int) -> None:
        self.member.all_absent()

    def _lost(self) -> None:
        self.act(self.member.leave_lost())

    def open(self) -> None:
        self.found = self.group.shards
        self.act(self.member.open(range(self.found), self.now))

    def find(self) -> None:
        """Find the shards that the stream has by now."""
        new = range(self.found, self.group.shards)
        self.found = self.group.shards
        self.act(self.member.shards_found(new, self.now))

    def due(self) -> None:
        self.act(self.member.due(self.now))

    def close(self) -> None:
        self.act(self.member.close())

    def die(self) -> None:
        self.alive = False
        self.group.late += [one for one in self.sent if not one.executed]
        self.sent.clear()


class Group:
    """The group's hash, and who beats there."""

    def __init__(self, nodes: int) -> None:
        self.clock = Clock()
        self.server = Server(self.clock, random.Random(1), VALKEY_9)
        self.direct = Direct(self.server)
        self.nodes = [Node(self, name, 1) for name in "abcd"[:nodes]]
        self.late: list[Sent] = []
        self.news = False
        self.shards = SHARDS
        # When each name's beat was last executed, and any beat at all.
        self.beats: dict[str, float] = {}

    def execute(self, sent: Sent) -> None:
        before = self.names()
        reply = reply_parsing.parse([sent.words], [self.direct.call(*sent.words)])[0]
        sent.reply, sent.executed = reply, True
        gone = before - self.names()
        if sent.words[1] == ownership_scripts.BEAT:
            self._check_removed(gone)
            if reply is not None:
                self.beats[sent.node.name] = self.clock.now

    def _check_removed(self, gone: set[str]) -> None:
        """O12: removed only after a lease in which others could beat."""
        for name in gone:
            silent = self.clock.now - self.beats[name]
            others = [at for one, at in self.beats.items() if one != name]
            seen = [at for at in others if at >= self.clock.now - LEASE]
            if silent <= LEASE or not seen:
                raise Violation(f"O12: {name} was removed after {silent}, {others}")

    def names(self) -> set[str]:
        keys = self.direct.call("HKEYS", KEY)
        return {key[2:].decode() for key in keys if key.startswith(b"m:")}

    def deliver(self, sent: Sent) -> None:
        sent.node.sent.remove(sent)
        sent.answered(sent.reply)

    def cut(self, node: Node) -> None:
        sent, node.sent = node.sent, []
        self.late += [one for one in sent if not one.executed]
        for one in sent:
            one.lost()

    def execute_late(self, place: int) -> None:
        self.execute(self.late.pop(place))

    def tell(self) -> None:
        self.news = False
        for node in self.alive():
            node.act(node.member.news(node.now))

    def alive(self) -> list[Node]:
        gone = {MemberState.OUT, MemberState.LEAVING}
        return [n for n in self.nodes if n.alive and n.member.state not in gone]

    def grow(self) -> None:
        """Add a shard, which members find later."""
        self.shards += 1

    def settle(self) -> None:
        """Let all go on fairly: it is settled four beats after the last change.

        The dead are members until they were silent for a lease, which others find by
        their beats, and the lease counts from when anybody beats again.
        """
        self.late.clear()
        for node in self.alive():
            node.find()
        members, changed = self.names(), self.clock.now
        for _ in range(int((2 * LEASE + 4 * BEAT) / 0.5)):
            for _ in range(6):
                self._step_fairly()
            if members != self.names():
                members, changed = self.names(), self.clock.now
            if members == {node.name for node in self.alive()}:
                self._check_soon(changed)
            self.clock.now += 0.5
        self._check_settled()

    def _check_soon(self, changed: float) -> None:
        if self.clock.now >= changed + 4 * BEAT:
            self._check_settled()

    def _step_fairly(self) -> None:
        for node in self.nodes:
            for sent in [one for one in node.sent if not one.executed]:
                self.execute(sent)
            for sent in [one for one in node.sent if one.executed]:
                self.deliver(sent)
            if node.alive:
                node.due()
        if self.news:
            self.tell()

    def _check_settled(self) -> None:
        alive = self.alive()
        owned = sorted(shard for node in alive for shard in node.own)
        shards = range(self.shards)
        if alive and owned != [*shards]:
            raise Violation(f"O9: {[(node.name, node.own) for node in alive]}")
        weights = {node.name: node.weight for node in alive}
        for node in alive:
            target = node.member.target
            if plan(target, weights, shards) != target:
                raise Violation(f"O8: {target} does not suit {weights}")


class Machine(RuleBasedStateMachine):
    """Two to four members of a group."""

    group_class: ClassVar[type[Group]] = Group
    group: Group
    broken = True

    @initialize(nodes=st.integers(2, 4))
    def begin(self, nodes: int) -> None:
        self.group = self.group_class(nodes)
        self.broken = False

    @rule(choice=st.sampled_from(range(10_000)))
    def step(self, choice: int) -> None:
        self.broken = True
        steps = [*self.of_the_network(), *self.of_the_nodes()]
        steps[choice % len(steps)]()
        self.broken = False

    def of_the_network(self) -> Iterator[Step]:
        group = self.group
        for node in group.nodes:
            for sent in node.sent[:1]:
                step = group.deliver if sent.executed else group.execute
                yield from [partial(step, sent)] * 4
                yield partial(group.cut, node)
        for place in range(len(group.late)):
            yield partial(group.execute_late, place)
        if group.news:
            yield from [group.tell] * 2
        if group.shards < MOST_SHARDS:
            yield group.grow
        yield partial(self.pass_time, LEASE / 5)
        yield partial(self.pass_time, LEASE / 2 + 0.1)

    def pass_time(self, seconds: float) -> None:
        self.group.clock.now += seconds

    def of_the_nodes(self) -> Iterator[Step]:
        for node in self.group.nodes:
            if not node.alive:
                continue
            if node.member.state is MemberState.OUT:
                yield from [node.open] * 2
            elif node.member.due_at() <= node.now:
                yield from [node.due] * 2
            if node.found < self.group.shards and node in self.group.alive():
                yield from [node.find] * 2
            if node.member.state is MemberState.IN:
                yield node.close
            if len(self.group.alive()) > 1:
                yield node.die

    def teardown(self) -> None:
        if not self.broken:
            self.group.settle()


def budget(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=80,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


Machine.TestCase.settings = budget(150)
TestMembership = Machine.TestCase


def finds(monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes) -> str:
    """Return what the machine finds when a part of BEAT is another."""
    script = ownership_scripts.BEAT.replace(old, new)
    assert script != ownership_scripts.BEAT
    known = {**reply_parsing._BY_SCRIPT, script: read_beat}
    monkeypatch.setattr(reply_parsing, "_BY_SCRIPT", known)
    monkeypatch.setattr(ownership_scripts, "BEAT", script)
    return violation()


def violation() -> str:
    """Return what the machine finds."""
    machine = type("Planted", (Machine,), {})
    with pytest.raises(Violation) as found:
        run_state_machine_as_test(machine, settings=budget(300))
    return str(found.value)


def test_a_group_that_forgets_that_nobody_could_beat_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert finds(monkeypatch, b"now - since > lease", b"true").startswith("O12")


def test_a_group_that_never_removes_the_dead_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert finds(monkeypatch, b"now - since > lease", b"false").startswith("O9")


def test_members_that_beat_too_seldom_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They come to agree, but not within four beats."""
    monkeypatch.setattr(member, "BEAT_AFTER", 0.95)
    monkeypatch.setattr(Group, "tell", lambda group: setattr(group, "news", False))
    assert violation().startswith("O9")


def test_shards_that_nobody_adds_to_the_target_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Member, "shards_found", lambda *_: [])
    assert violation().startswith("O9")
