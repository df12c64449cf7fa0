"""Exploring goes on until enough is found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from simulation import explore
from simulation.explore import Finding
from simulation.plan import Plan


@pytest.fixture(autouse=True)
def _every_third_seed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_out(plan: Plan, plant: str) -> SimpleNamespace:
        kinds = set() if plan.seed % 3 else {"lost", "hangs"}
        return SimpleNamespace(kinds=kinds, seconds=10.0)

    monkeypatch.setattr(explore, "carry_out", carry_out)
    monkeypatch.setattr(explore, "pool", ThreadPoolExecutor)


def _explored(seed: int, rounds: int, findings: int) -> tuple[list[int], list[str]]:
    """Return the seeds of what was found, and the lines that were reported."""
    lines: list[Finding] = []
    found = explore.explore(
        seed,
        seconds=60,
        rounds=rounds,
        jobs=1,
        plant="",
        findings=findings,
        report=lines.append,
    )
    # Batches that have ended at the same time are added in any order.
    return sorted(each.seed for each in found.findings), [*map(str, lines)]


def test_exploring_stops_at_the_number_of_findings() -> None:
    seeds, lines = _explored(seed=1, rounds=1000, findings=2)
    assert seeds[:2] == [3, 6]
    # What has begun by then is finished: one batch runs and another one waits.
    assert len(seeds) < 7
    assert "seed 3: hangs, lost" in lines
    assert len(lines) == len(seeds)


def test_exploring_goes_on_over_batches_for_all_findings() -> None:
    assert _explored(seed=1, rounds=25, findings=99)[0] == [*range(3, 26, 3)]


def test_exploring_stops_at_its_last_seed_with_fewer_findings() -> None:
    assert _explored(seed=1, rounds=4, findings=2)[0] == [3]
