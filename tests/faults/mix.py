"""A mix of faults at random, the same for the same seed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from faults.checker import Group
from faults.kinds import FAMILIES, KINDS
from faults.rig import Crew, Outcome, Rig, rig
from support.server import Server

__all__ = ["Planned", "carry_out", "crews", "plan", "run"]


@dataclass(frozen=True)
class Planned:
    """A fault that is to be done.

    Attributes:
        at: When, in seconds from the beginning.
        kind: Which.
        seed: Decides its particulars.
    """

    at: float
    kind: str
    seed: int


def plan(seed: int, seconds: float, kinds: Sequence[str]) -> list[Planned]:
    """Choose faults: mostly one after the other, at times several at once."""
    chance = Random(seed)
    planned: list[Planned] = []
    at = 1.0
    while at < seconds:
        planned.append(Planned(at, chance.choice(kinds), chance.randrange(2**32)))
        at += chance.choice([0.05, 0.5, 1.0, 2.0])
    return planned


async def carry_out(made: Rig, planned: Sequence[Planned]) -> None:
    """Do faults when it is time to; all are over when this returns."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.TaskGroup() as doing:
        for each in planned:
            await asyncio.sleep(max(0.0, begun + each.at - loop.time()))
            doing.create_task(_do(made, each))


async def _do(made: Rig, each: Planned) -> None:
    made.done(each.kind)
    await KINDS[each.kind](made, Random(each.seed))
    made.journal.note(f"healed {each.kind}")


_VARIANTS: Final[list[dict[str, Any]]] = [
    {},
    {"commit": {"interval": 0}},
    {"commit": {"interval": 1.0}},
    {"prefetch": {"max_messages": 5}},
    {"prefetch": {"max_bytes": 5000}},
    {"claim": {"idle": 0.8, "interval": 0.2}},
]

_WAYS: Final[list[dict[str, Any]]] = [
    {"style": "run"},
    {"style": "next"},
    {"style": "take"},
    {"style": "next", "run": {"ack": True}, "policy": "rolling"},
    {"style": "take", "run": {"ack": True}, "policy": "disabled"},
]


def crews(chance: Random) -> list[Crew]:
    """One group of each kind, with options of all kinds."""
    resumable = {"mode": "resumable"}
    way = dict(chance.choice(_WAYS))
    policy = way.pop("policy", "processed")
    keyed = {"concurrency": 8, "ordering": "key"}
    return [
        Crew(
            Group("shared", "key within"),
            workers=3,
            options=chance.choice(_VARIANTS),
            run=keyed,
        ),
        Crew(
            Group("one", "shard"),
            options=resumable | chance.choice(_VARIANTS) | {"auto_commit": policy},
            **way,
        ),
        Crew(
            Group("keyed", "key"),
            options=resumable | chance.choice(_VARIANTS),
            run=keyed,
        ),
        Crew(
            Group("realtime", "shard", acks=False),
            replaceable=False,
            options={"mode": "realtime", "start": "earliest"},
        ),
    ]


async def run(
    folder: Path, seed: int, seconds: float, kinds: Sequence[str] = ()
) -> Outcome:
    """Send and handle while faults are done, heal, drain, and check."""
    made_server = Server(folder)
    await made_server.start()
    try:
        groups = crews(Random(seed))
        async with rig(made_server, folder, crews=groups, seed=seed) as made:
            await made.man()
            await made.send("a", 40)
            await made.send(
                "b", 40, burst=Random(seed).choice([1, 1, 300]), linger=0.02
            )
            # What loses messages excuses much, so it is done in every third run only.
            lossy = () if seed % 3 == 0 else FAMILIES["losses"]
            chosen = kinds or [kind for kind in KINDS if kind not in lossy]
            await carry_out(made, plan(seed, seconds, chosen))
            return await made.finish()
    finally:
        made_server.kill()
