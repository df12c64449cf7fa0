"""Faults of a family at random, on real processes, and every promise kept.

Producers and workers of all modes run on while a server, their connections, their
groups or they themselves are harmed; then all is healed, handled and counted. `make
soak` does this with all families at once, for as long as one likes.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from faults import mix
from faults.kinds import FAMILIES


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("family", FAMILIES)
async def test_every_promise_is_kept_under_faults_of(
    tmp_path: Path, family: str
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201 - to be run again
    outcome = await mix.run(tmp_path, seed, 6, FAMILIES[family])
    assert outcome.faultless, str(outcome)
    # Whatever else this machine has to do, and however long the server stood still.
    assert outcome.report.confirmed > 20, str(outcome)


def test_a_seed_brings_the_same_faults_again() -> None:
    kinds = [kind for family in FAMILIES.values() for kind in family]
    planned = mix.plan(7, 60, kinds)
    assert planned == mix.plan(7, 60, kinds) != mix.plan(8, 60, kinds)
    assert {each.kind for each in planned} <= set(kinds)
