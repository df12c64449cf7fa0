"""Random faults of each family, on real processes: every promise is kept.

Producers and workers of all modes run while faults affect the server, the connections,
the groups or the processes; then the faults end, and all messages are handled and
counted. `make soak` does this with all families at once, for any time.
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
async def test_every_promise_is_kept_under_faults_of_a_family(
    tmp_path: Path, family: str
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201 - to repeat the run
    outcome = await mix.run(tmp_path, seed, 6, FAMILIES[family])
    assert outcome.faultless, str(outcome)
    # However busy this machine is, and however long the server was frozen.
    assert outcome.report.confirmed > 20, str(outcome)


def test_the_same_seed_plans_the_same_faults() -> None:
    kinds = [kind for family in FAMILIES.values() for kind in family]
    planned = mix.plan(7, 60, kinds)
    assert planned == mix.plan(7, 60, kinds) != mix.plan(8, 60, kinds)
    assert {each.kind for each in planned} <= set(kinds)
