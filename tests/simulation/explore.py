"""Exploring: runs from many seeds, in processes of their own."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing import get_context
from typing import Final

from simulation.faults import FAMILIES
from simulation.generating import generate
from simulation.plan import Plan
from simulation.plants import planted
from simulation.run import Result, run
from simulation.shrink import shrink
from simulation.steps import STEPS

__all__ = ["Explored", "Finding", "carry_out", "explore", "plan_of", "shrunk"]

# Runs of one batch, and batches of one process: killed processes are never collected.
_BATCH: Final = 10
_BATCHES: Final = 10


@dataclass(frozen=True)
class Finding:
    """A run that has shown something that must not be.

    Attributes:
        seed: Its seed.
        kinds: The kinds of what was found.
        text: What was found.
    """

    seed: int
    kinds: frozenset[str]
    text: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {', '.join(sorted(self.kinds))}"


@dataclass
class Explored:
    """What came of a number of runs.

    Attributes:
        runs: How many.
        simulated: The virtual seconds that they took.
        spent: The seconds of a processor that they took.
        findings: What was found.
    """

    runs: int = 0
    simulated: float = 0.0
    spent: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Explored) -> None:
        """Add what came of other runs."""
        self.runs += other.runs
        self.simulated += other.simulated
        self.spent += other.spent
        self.findings += other.findings


def plan_of(seed: int, *, owned: bool | None = None) -> Plan:
    """Return the plan that a seed brings; `owned`: whether shards are owned."""
    return generate(seed, FAMILIES, [*STEPS], owned=owned)


def carry_out(plan: Plan, plant: str = "") -> Result:
    """Carry out a plan, with a planted defect if one is named."""
    with planted(plant):
        return run(plan)


def simulate(
    seeds: list[int], plant: str, most: int, *, owned: bool | None = None
) -> Explored:
    """Carry out the plans of seeds, up to so many findings."""
    # What is there by now never becomes garbage, so it need not be looked through.
    gc.freeze()
    began, found = time.process_time(), Explored()
    for seed in seeds:
        result = carry_out(plan_of(seed, owned=owned), plant)
        found.runs += 1
        found.simulated += result.seconds
        if result.kinds:
            found.findings.append(Finding(seed, frozenset(result.kinds), str(result)))
        if len(found.findings) >= most:
            break
        # It must not be there any more when the next run freezes what there is.
        del result
    found.spent = time.process_time() - began
    return found


def shrunk(
    finding: Finding, plant: str, seconds: float, *, owned: bool | None = None
) -> Plan:
    """Return the smallest plan found that shows the same."""

    def fails(plan: Plan) -> bool:
        return bool(carry_out(plan, plant).kinds & finding.kinds)

    return shrink(plan_of(finding.seed, owned=owned), fails, seconds)


def pool(jobs: int) -> ProcessPoolExecutor:
    """Return processes to simulate in."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["simulation.explore"])
    return ProcessPoolExecutor(jobs, context, max_tasks_per_child=_BATCHES)


def explore(
    seed: int,
    *,
    seconds: float,
    rounds: int | None,
    jobs: int,
    plant: str,
    findings: int = 1,
    owned: bool | None = None,
    report: Callable[[Finding], object] = lambda _: None,
) -> Explored:
    """Carry out plans until the time is over, or enough is found.

    Args:
        seed: The first seed.
        seconds: The time to spend.
        rounds: The number of runs, instead of a time.
        jobs: The number of processes.
        plant: A defect to plant.
        findings: The number of findings after which no more plans are begun.
        owned: Whether shards are owned; None: the seed decides.
        report: Called with each finding.
    """
    end, found = time.perf_counter() + seconds, Explored()
    batches = _batches(seed, rounds)
    with pool(jobs) as processes:
        waiting: set[Future[Explored]] = set()
        while True:
            over = rounds is None and time.perf_counter() > end
            over = over or len(found.findings) >= findings
            while not over and len(waiting) < jobs + 1:
                seeds = next(batches, None)
                if seeds is None:
                    break
                work = partial(simulate, seeds, plant, findings, owned=owned)
                waiting.add(processes.submit(work))
            if not waiting:
                return found
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for each in done:
                batch = each.result()
                found.add(batch)
                for finding in batch.findings:
                    report(finding)


def _batches(seed: int, rounds: int | None) -> Iterator[list[int]]:
    for first in count(seed, _BATCH):
        left = _BATCH if rounds is None else min(_BATCH, seed + rounds - first)
        if left <= 0:
            return
        yield [*range(first, first + left)]
