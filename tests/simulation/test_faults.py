"""Faults that overlap."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from simulation import faults
from simulation.network import Conditions, Network
from simulation.world import World


async def test_a_network_that_was_slow_twice_at_a_time_is_as_usual_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over: list[asyncio.Event] = []

    async def sleep(_: float) -> None:
        over.append(asyncio.Event())
        await over[-1].wait()

    monkeypatch.setattr(faults, "asyncio", SimpleNamespace(sleep=sleep))
    process = SimpleNamespace(alive=True, process=SimpleNamespace(name="c"))
    network = Network(World(1))
    run: Any = SimpleNamespace(
        consumers=[process], producers=[], network=network, conditions=Conditions
    )
    slow = [asyncio.create_task(faults.slow(run, Random(n))) for n in range(2)]
    await asyncio.sleep(0)
    over[0].set()
    await slow[0]
    assert network.conditions("c").delay > Conditions().delay
    over[1].set()
    await slow[1]
    assert network.conditions("c") == Conditions()
