"""Replaceable processes: those of a plan, and the ones that take their place."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from simulation.consuming import consume
from simulation.journal import Journal
from simulation.operating import operate
from simulation.plan import ConsumerPlan, OperatorPlan, ProducerPlan
from simulation.process import Process
from simulation.sending import produce

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["ReplaceableProcess"]


class ReplaceableProcess:
    """The processes that follow each other in one place of a plan.

    Attributes:
        plan: What they do.
        process: The one that there is.
    """

    def __init__(
        self, run: Run, plan: ConsumerPlan | ProducerPlan | OperatorPlan
    ) -> None:
        self.plan = plan
        self._run = run
        self._lives = 0
        self.process: Process | None = None

    def start(self, *, renamed: bool = False) -> None:
        """Start a process, whose consumer has the name of the one before or another."""
        self._lives += 1
        who = f"{self.plan.name}.{self._lives}"
        seen = self._run.oracle.seen
        journal = Journal(self._run.world, self._run.history, who, seen)
        main = partial(self._main, who, journal, renamed=renamed)
        self.process = Process(self._run.network, who, main)
        self._run.network.set_conditions(who, self._run.conditions())
        self._run.processes.append(self.process)
        self.process.start()

    async def _main(self, who: str, journal: Journal, *, renamed: bool) -> None:
        if isinstance(self.plan, ConsumerPlan):
            # A consumer that keeps the order has one name, which Penstock chooses.
            name: str | None = who if renamed else self.plan.name
            alone = self.plan.options.get("mode") == "resumable"
            name = None if alone or self.plan.unnamed else name
            assert self.process is not None
            self._run.oracle.begins(who, name, self.plan, self.process)
            plan = self.plan
            if self._run.healed:
                # Else seeks of ever new processes would keep it from ending.
                plan = replace(plan, steps=())
            await consume(plan, name, journal, self.be_killed)
        elif isinstance(self.plan, OperatorPlan):
            run = self._run
            await operate(self.plan, run.groups, run.observer, journal)
        else:
            await produce(self.plan, who, self._run.plan.seed, journal)

    def kill(self, *, machine: bool = False) -> None:
        """SIGKILL the process."""
        assert self.process is not None
        self.process.kill(machine=machine)
        self._run.killed(self.plan)

    def be_killed(self) -> None:
        """Be killed by a message, and be started again a little later."""
        self.kill()
        delay = self._run.world.chance.choice((0.0, 0.1, 1.0))
        self._run.world.after(delay, self._start_again)

    def _start_again(self) -> None:
        # Another fault may have restarted it in the meantime.
        if not self.alive and not self._run.ending:
            self.start(renamed=self._run.world.chance.random() < 0.5)

    @property
    def realtime(self) -> bool:
        """Whether it is a consumer in REALTIME, which may not be ended."""
        return isinstance(self.plan, ConsumerPlan) and not self.plan.group

    @property
    def finished(self) -> bool:
        """Whether it is a producer that has sent everything."""
        ended = self.process is not None and self.process.ended
        return ended and isinstance(self.plan, ProducerPlan)

    @property
    def alive(self) -> bool:
        """Whether there is a process that runs."""
        return self.process is not None and self.process.alive
