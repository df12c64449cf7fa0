"""A random mix of faults, the same for the same seed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from faults.checker import Group
from faults.kinds import FAMILIES, KINDS
from faults.rig import Outcome, Rig, WorkerGroup, rig
from support.server import Server

__all__ = ["Planned", "inject", "plan", "run", "worker_groups"]


@dataclass(frozen=True)
class Planned:
    """A fault that is to be injected.

    Attributes:
        at: The time in seconds from the beginning.
        kind: The kind of fault.
        seed: The seed of its details.
    """

    at: float
    kind: str
    seed: int


def plan(seed: int, seconds: float, kinds: Sequence[str]) -> list[Planned]:
    """Choose faults: mostly one after the other, sometimes several at once."""
    chance = Random(seed)
    planned: list[Planned] = []
    at = 1.0
    while at < seconds:
        planned.append(Planned(at, chance.choice(kinds), chance.randrange(2**32)))
        at += chance.choice([0.05, 0.5, 1.0, 2.0])
    return planned


async def inject(running: Rig, planned: Sequence[Planned]) -> None:
    """Inject faults at their times; all are over when this returns."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with asyncio.TaskGroup() as injecting:
        for each in planned:
            await asyncio.sleep(max(0.0, begin + each.at - loop.time()))
            injecting.create_task(_inject_one(running, each))


async def _inject_one(running: Rig, each: Planned) -> None:
    running.count_fault(each.kind)
    await KINDS[each.kind](running, Random(each.seed))
    running.journal.note(f"healed {each.kind}")


_VARIANTS: Final[list[dict[str, Any]]] = [
    {},
    {"commit": {"interval": 0}},
    {"commit": {"interval": 1.0}},
    {"prefetch": {"max_messages": 5}},
    {"prefetch": {"max_bytes": 5000}},
    {"claim": {"idle": 0.8, "interval": 0.2}},
]

_STYLES: Final[list[dict[str, Any]]] = [
    {"style": "run"},
    {"style": "next"},
    {"style": "take"},
    {"style": "next", "run": {"ack": True}, "policy": "rolling"},
    {"style": "take", "run": {"ack": True}, "policy": "disabled"},
]


def worker_groups(chance: Random) -> list[WorkerGroup]:
    """Return one group of each kind, with random options."""
    resumable = {"mode": "resumable"}
    style = dict(chance.choice(_STYLES))
    policy = style.pop("policy", "processed")
    keyed = {"concurrency": 8, "ordering": "key"}
    return [
        WorkerGroup(
            Group("shared", "key within"),
            workers=3,
            options=chance.choice(_VARIANTS),
            run=keyed,
        ),
        WorkerGroup(
            Group("one", "shard"),
            options=resumable | chance.choice(_VARIANTS) | {"auto_commit": policy},
            **style,
        ),
        WorkerGroup(
            Group("keyed", "key"),
            options=resumable | chance.choice(_VARIANTS),
            run=keyed,
        ),
        WorkerGroup(
            Group("realtime", "shard", acks=False),
            replaceable=False,
            options={"mode": "realtime", "start": "earliest"},
        ),
    ]


async def run(
    folder: Path, seed: int, seconds: float, kinds: Sequence[str] = ()
) -> Outcome:
    """Send and handle during faults, wait for their end, drain, and check."""
    own = Server(folder)
    try:
        await own.start()
        groups = worker_groups(Random(seed))
        async with rig(own, folder, worker_groups=groups, seed=seed) as running:
            await running.start()
            await running.send("a", 40)
            await running.send(
                "b", 40, burst=Random(seed).choice([1, 1, 300]), linger=0.02
            )
            # Faults that lose messages excuse much, so they are only in every third
            # run.
            lossy = () if seed % 3 == 0 else FAMILIES["losses"]
            chosen = kinds or [kind for kind in KINDS if kind not in lossy]
            await inject(running, plan(seed, seconds, chosen))
            return await running.finish()
    finally:
        own.kill()
