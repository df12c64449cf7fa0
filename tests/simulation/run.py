"""Run: carries out a plan and returns what the oracle says of it.

The operator of a run is a coroutine on a loop of its own: it starts processes, does
faults, heals everything, waits until all is handled, ends the processes, and has the
history checked.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from faults.checker import Group, Report, check
from faults.history import Excuse, History, Note, Record
from simulation import checks
from simulation.calls import Calls
from simulation.consuming import STREAM
from simulation.direct import Direct
from simulation.draining import drain
from simulation.journal import Journal
from simulation.memory import Memory
from simulation.network import Conditions, Network
from simulation.observer import Observer
from simulation.oracle import Oracle
from simulation.plan import ConsumerPlan, OperatorPlan, Plan, ProducerPlan
from simulation.process import Process
from simulation.promises import policy_of, promise_of
from simulation.replaceable_process import ReplaceableProcess
from simulation.seams import installed
from simulation.server.server import Server
from simulation.server.versions import VERSIONS
from simulation.strangers import Stranger
from simulation.styles import OUTPUT
from simulation.world import World

__all__ = ["ADDRESS", "ReplaceableProcess", "Result", "Run", "run"]

# Seconds within which a process must end when it is asked to.
_ENDING: Final = 60.0
_BROKEN: Final = re.compile(r"event transaction_broken .* id=(\S+) ")

ADDRESS: Final = ("server", 6379)
"""Where clients find the server, whichever it is."""


@dataclass
class Result:
    """What came of a run.

    Attributes:
        plan: The plan.
        report: What the checker says.
        failures: What else must not be: hangs, errors, leftovers.
        seconds: The virtual seconds that it took.
        world: The world, with its timeline.
    """

    plan: Plan
    report: Report
    failures: dict[str, list[str]]
    seconds: float
    world: World
    history: History = field(repr=False, default_factory=list)

    @property
    def kinds(self) -> set[str]:
        """The kinds of findings."""
        found = self.report.findings
        kinds = {name for name, what in vars(found).items() if what}
        return kinds | {name for name, what in self.failures.items() if what}

    def __str__(self) -> str:
        lines = [str(self.report)]
        for name, what in self.failures.items():
            lines += [f"{name}: {each}" for each in what[:5]]
        return "\n".join(lines)


class Run:
    """A run in progress.

    Args:
        plan: The plan.

    Attributes:
        world: The world.
        network: The network.
        server: The server.
        direct: A client inside the server.
        history: What all processes recorded.
        processes: All processes so far.
        consumers: The consumers' places.
        operators: The operators' places.
        producers: The producers' places.
        journal: What the operator records.
        oracle: Checks what consumers do while the run goes on.
        memory: Checks what consumers and producers hold.
        calls: Checks that each public call ends.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = World(plan.seed)
        self.network = Network(self.world)
        version = VERSIONS[plan.version]
        self.server = Server(self.world, Random(plan.seed), version)
        self.network.listeners[ADDRESS] = self.server
        self.direct = Direct(self.server)
        # Held by faults that replace the server's process.
        self.replacing = asyncio.Lock()
        self.history: History = []
        self.processes: list[Process] = []
        self.oracle = Oracle(self)
        self.calls = Calls(
            self.oracle.disturbed_at, lambda what: self.fail("hangs", what)
        )
        self.memory = Memory(
            max(1, plan.shards + plan.grows) + 1, lambda what: self.fail("memory", what)
        )
        self.journal = Journal(self.world, self.history, "operator", self.oracle.seen)
        self.consumers = [ReplaceableProcess(self, each) for each in plan.consumers]
        self.producers = [ReplaceableProcess(self, each) for each in plan.producers]
        self.operators = [ReplaceableProcess(self, each) for each in plan.operators]
        self.failures: dict[str, list[str]] = {}
        shards = range(plan.shards + plan.grows)
        self.keys = [f"{STREAM}:{number}" for number in shards] or [STREAM]
        self.groups = sorted({name for each in plan.consumers for name in each.groups})
        # Whether all faults are over; and whether consumers are asked to end, so that
        # none is started any more.
        self.healed = False
        self.ending = False
        self.dead = [f"{STREAM}.dead", "graves"]
        self.observer = Observer(
            self.server, self.keys, self.groups, self.dead, self.journal
        )
        if self.oracle.owned.groups:
            self.observer.on_script = self.oracle.owned.looked
        self.foreign = Stranger(self)

    def carry_out(self) -> Result:
        """Carry out the plan."""
        began = self.world.time()
        operator = Process(self.network, "operator", self._operate)
        with (
            installed(self.world),
            _no_collection(),
            self.oracle.watching(),
            self.memory.watching(),
            self.calls.watching(),
        ):
            operator.start()
            self.world.run(lambda: not operator.alive, 100_000)
        for process in (operator, *self.processes):
            process.loop.close()
        if operator.error is not None:
            raise operator.error
        checks.complete(self.plan, self.history)
        report = check(self.history, self._promises())
        found = [
            *checks.findings(self.plan, self.history),
            *self.oracle.owned.findings(self.history, report.repeated),
        ]
        for kind, what in found:
            self.failures.setdefault(kind, []).append(what)
        checks.allow(self.plan, report.findings)
        return Result(
            self.plan,
            report,
            self.failures,
            self.world.time() - began,
            self.world,
            self.history,
        )

    def conditions(self) -> Conditions:
        """Return the quality of the network without faults."""
        quality = self.plan.network
        return Conditions(quality.delay, quality.jitter, quality.pieces)

    def take_over(self, server: Server) -> None:
        """Let another server be the one that clients find."""
        self.server = server
        self.network.listeners[ADDRESS] = server
        self.direct = Direct(server)
        self.observer.follow(server)

    def killed(self, plan: ConsumerPlan | ProducerPlan | OperatorPlan) -> None:
        """Record what the end of a process may have lost."""
        if isinstance(plan, ConsumerPlan) and policy_of(plan) == "delayed":
            since, what = self.world.time(), ["loss", "ack"]
            self.journal.add(Excuse, since=since, what=what, group=plan.group)

    def fail(self, kind: str, what: str) -> None:
        """Record that something is wrong."""
        self.failures.setdefault(kind, []).append(what)
        self.world.record("oracle", f"{kind}: {what}")

    def _promises(self) -> list[Group]:
        plans = self.plan.consumers
        return [
            promise_of(
                g,
                [c for c in plans if g in c.groups or g == c.group],
                frozenset(self.oracle.owned.stale),
            )
            for g in sorted({g for c in plans for g in (c.group, *c.groups)})
        ]

    async def _operate(self) -> None:
        async with asyncio.TaskGroup() as group:
            for replaceable in (*self.consumers, *self.producers, *self.operators):
                group.create_task(self._start(replaceable))
            for fault in self.plan.faults:
                group.create_task(self._fault(fault))
            group.create_task(asyncio.sleep(self.plan.seconds))
        await self._heal()
        await self._end([*self.producers, *self.operators])
        await drain(self)
        self.ending = True
        await self._end(self.consumers)
        self.calls.check_all()
        self.observer.conclude()
        self._check_outputs()
        for process in self.processes:
            if process.loop.hot:
                self.fail("hot", f"{process.name} spins at {process.loop.hot[0]:.3f} s")

    async def _start(self, replaceable: ReplaceableProcess) -> None:
        await asyncio.sleep(getattr(replaceable.plan, "at", 0.0))
        replaceable.start()

    async def _fault(self, fault: Any) -> None:
        from simulation.faults import KINDS

        await asyncio.sleep(fault.at)
        self.journal.note(f"fault {fault.kind}")
        with self.oracle.disturbed(fault.kind):
            await KINDS[fault.kind](self, Random(fault.seed))
        self.journal.note(f"healed {fault.kind}")

    async def _heal(self) -> None:
        self.world.record("operator", "everything is healed")
        self.healed = True
        for process in self.processes:
            # The connections that exist keep the object, so it is changed.
            vars(self.network.conditions(process.name)).update(vars(self.conditions()))
        for connection in self.network.connections:
            connection.up.heal()
            connection.down.heal()
        for key in (*self.keys, *self.dead):
            # A server with older data may have something else there once more.
            if self.direct.call("TYPE", key) in {b"string", "string"}:
                self.direct.call("DEL", key)
                self.direct.call("RENAMENX", f"{key}.away", key)
        # Who knew the shards may have ended before it could record them again.
        self.foreign.grow()
        for replaceable in (*self.consumers, *self.producers):
            if replaceable.process is not None and replaceable.process.loop.dead:
                replaceable.start()

    # -- the end -----------------------------------------------------------------------

    async def _end(self, processes_of_plan: list[ReplaceableProcess]) -> None:
        for replaceable in processes_of_plan:
            if replaceable.alive and replaceable.process is not None:
                replaceable.process.terminate()
        deadline = self.world.time() + _ENDING
        while (
            any(replaceable.alive for replaceable in processes_of_plan)
            and self.world.time() < deadline
        ):
            await asyncio.sleep(0.1)
        # Connections are closed a moment later.
        await asyncio.sleep(1.5)
        for replaceable in processes_of_plan:
            self._check_ended(replaceable)

    def _check_ended(self, replaceable: ReplaceableProcess) -> None:
        process = replaceable.process
        if process is None or process.loop.dead:
            # SIGTERM kills a process that has only just been started.
            return
        if process.alive:
            self.fail("hangs", f"{process.name}: {_stacks(process)}")
            return
        if process.error is not None:
            self.fail("errors", f"{process.name}: {process.error!r}")
        for left in process.left():
            self.fail("left", f"{process.name}: {left}")

    def _check_outputs(self) -> None:
        """Check that each message was sent on once if it was handled, and else not."""
        if "tx" not in self.groups:
            return
        counts: dict[str, int] = {}
        for _, fields in self.observer.stored(OUTPUT):
            name = fields[b"msg"].decode()
            counts[name] = counts.get(name, 0) + 1
        # What a group is rewound to may be applied once more.
        rewinds = sum(
            isinstance(record, Excuse) and "again" in record.what
            for record in self.history
        )
        broken = _broken_transactions(self.history)
        for name, count in counts.items():
            if count > 1 + rewinds + broken[name.rpartition(" ")[2]]:
                self.fail("applied_twice", f"{name}: {count} times")


def _broken_transactions(history: Iterable[Record]) -> Counter[str]:
    """Count transactions that were applied and could not be acknowledged, by the id.

    That was reported, and docs/how-to/exactly-once.md says when they are applied again.
    """
    notes = (each.text for each in history if isinstance(each, Note))
    return Counter(found[1] for text in notes if (found := _BROKEN.match(text)))


def _stacks(process: Process) -> str:
    """Describe where the tasks of a process wait."""
    lines = []
    for task in process.loop.pending:
        frames = []
        coroutine: Any = task.get_coro()
        while coroutine is not None and hasattr(coroutine, "cr_frame"):
            frame = coroutine.cr_frame
            if frame is None:
                break
            frames.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            coroutine = coroutine.cr_await
        lines.append(" > ".join(frames))
    return " | ".join(lines)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage: when it is collected depends on what ran before."""
    gc.collect()
    # Killed processes stay for ever, so they need not be looked through again.
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run(plan: Plan) -> Result:
    """Carry out a plan."""
    return Run(plan).carry_out()
